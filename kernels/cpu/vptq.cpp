// Linears packed in VPTQ's public layout: a vector row (v rows of the matrix) is decoded at a time, into a stripe that
// stays in cache, and written out or used for a gradient at once.
#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vptq_product.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using packed::index;
using packed::widen;

// A vector row is worked on by tiles of neighbouring stored columns: [v, kTileColumns] values, which stay in L1.
constexpr std::int64_t kTileColumns = 256;
constexpr std::int64_t kVectorRowsATask = 8;  // that share buffers

/// Stored columns [first, first + n) of a vector row: of one group, or all outliers.
struct Tile {
  std::int64_t first = 0, n = 0;
  std::int64_t group = -1;               ///< -1: outliers
  const std::uint32_t* codes = nullptr;  ///< [n], main | residual << main_bits; null for outliers
};

/// A tile's vectors from their centroids. kLength > 0 fixes v at compile time.
struct FillTile {
  template <int kLength, bool kResidual>
  static void run(std::int64_t length_or_zero, const Tile& tile, int bits, const float* main, const float* residual,
                  float* values) {
    const std::int64_t v = kLength > 0 ? kLength : length_or_zero;
    const std::uint32_t mask = (std::uint32_t{1} << bits) - 1;
    for (std::int64_t j = 0; j < tile.n; ++j) {
      const float* centroid = main + static_cast<std::int64_t>(tile.codes[j] & mask) * v;
      const float* correction = kResidual ? residual + static_cast<std::int64_t>(tile.codes[j] >> bits) * v : nullptr;
      for (std::int64_t i = 0; i < v; ++i)
        values[i * kTileColumns + j] = kResidual ? centroid[i] + correction[i] : centroid[i];
    }
  }
};

/// Its transpose: each vector is added to its centroids' sums.
struct AddTile {
  template <int kLength, bool kResidual>
  static void run(std::int64_t length_or_zero, const Tile& tile, int bits, float* main, float* residual,
                  const float* values) {
    const std::int64_t v = kLength > 0 ? kLength : length_or_zero;
    const std::uint32_t mask = (std::uint32_t{1} << bits) - 1;
    for (std::int64_t j = 0; j < tile.n; ++j) {
      float* sum = main + static_cast<std::int64_t>(tile.codes[j] & mask) * v;
      for (std::int64_t i = 0; i < v; ++i) sum[i] += values[i * kTileColumns + j];
      if (!kResidual) continue;
      float* correction = residual + static_cast<std::int64_t>(tile.codes[j] >> bits) * v;
      for (std::int64_t i = 0; i < v; ++i) correction[i] += values[i * kTileColumns + j];
    }
  }
};

template <class Loop, bool kResidual>
auto for_length(std::int64_t vector_length) {
  switch (vector_length) {
    case 2:
      return Loop::template run<2, kResidual>;
    case 4:
      return Loop::template run<4, kResidual>;
    case 6:
      return Loop::template run<6, kResidual>;
    case 8:
      return Loop::template run<8, kResidual>;
    case 12:
      return Loop::template run<12, kResidual>;
    case 16:
      return Loop::template run<16, kResidual>;
    default:
      return Loop::template run<0, kResidual>;
  }
}

/// The loop for the linear's vector length.
template <class Loop>
auto specialised(const PackedVptq& packed) {
  return packed.residual_bits == 0 ? for_length<Loop, false>(packed.v) : for_length<Loop, true>(packed.v);
}

std::int64_t main_size(const PackedVptq& p) { return p.v << p.main_bits; }  // of one group
std::int64_t residual_size(const PackedVptq& p) { return p.residual_bits == 0 ? 0 : p.v << p.residual_bits; }

/// The numbers of a packed linear, widened once a call.
class Widened {
 public:
  explicit Widened(const PackedVptq& packed)
      : main_(widen(packed.dtype, packed.codebook, packed.groups * main_size(packed))),
        residual_(widen(packed.dtype, packed.residual_codebook, packed.groups * residual_size(packed))),
        outlier_(widen(packed.dtype, packed.outlier_codebook, packed.k0 * packed.v0)),
        scale_(widen(packed.dtype, packed.scale, packed.in_features)),
        bias_(widen(packed.dtype, packed.bias, packed.in_features)),
        tuned_{packed, main_.data(), residual_.data(), outlier_.data(), scale_.data(), bias_.data()} {}
  Widened(const Widened&) = delete;
  Widened& operator=(const Widened&) = delete;
  const TunedVptq& tuned() const { return tuned_; }

 private:
  std::vector<float> main_, residual_, outlier_, scale_, bias_;
  TunedVptq tuned_;
};

/// What one thread needs of room for vector rows.
struct Room {
  explicit Room(const PackedVptq& p)
      : codes(index(p.group_size)), values(index(p.v * kTileColumns)), d_row(index(kTileColumns)) {}
  std::vector<std::uint32_t> codes;
  std::vector<float> values;  ///< of a tile
  std::vector<float> d_row;   ///< a row of it
};

/// Vector rows of a linear; its numbers must outlive it.
class Decoder {
 public:
  explicit Decoder(const TunedVptq& tuned)
      : t_(tuned),
        p_(tuned.packed),
        bits_(p_.main_bits + p_.residual_bits),
        vector_rows_(core::ceil_div(p_.out_features, p_.v)),
        words_(core::packed_words(p_.group_size, bits_)),
        scale_(tuned.scale, tuned.scale + p_.in_features),
        bias_(tuned.bias, tuned.bias + p_.in_features),
        fill_(specialised<FillTile>(p_)) {
    for (std::size_t i = 0; p_.perm != nullptr && i < scale_.size(); ++i) {
      scale_[i] = tuned.scale[p_.perm[i]];
      bias_[i] = tuned.bias[p_.perm[i]];
    }
  }

  std::int64_t vector_rows() const { return vector_rows_; }
  /// Rows of the matrix in vector row r.
  std::int64_t rows(std::int64_t r) const { return std::min(p_.v, p_.out_features - r * p_.v); }
  /// By stored column.
  const float* scale() const { return scale_.data(); }

  /// use(tile) for all of vector row r.
  template <class Use>
  void for_tiles(std::int64_t r, Room& room, const Use& use) const {
    const auto cut = [&use](Tile tile, std::int64_t n) {
      for (; n > 0; n -= kTileColumns, tile.first += kTileColumns, tile.codes += tile.codes == nullptr ? 0 : tile.n) {
        tile.n = std::min(n, kTileColumns);
        use(tile);
      }
    };
    cut({}, p_.outlier_size);
    for (std::int64_t g = 0; g < p_.groups; ++g) {
      core::unpack_row({p_.indices + (g * vector_rows_ + r) * words_, index(words_)}, bits_, room.codes);
      cut({p_.outlier_size + g * p_.group_size, 0, g, room.codes.data()}, p_.group_size);
    }
  }
  /// use(place in the outlier codebook, place in the tile) for a tile of outliers.
  template <class Use>
  void for_outliers(std::int64_t r, const Tile& tile, const Use& use) const {
    for (std::int64_t i = 0; i < rows(r); ++i) {
      const std::int64_t row = r * p_.v + i;
      const std::uint16_t* codes = p_.outlier_indices + row / p_.v0 * p_.outlier_size + tile.first;
      for (std::int64_t j = 0; j < tile.n; ++j) use(codes[j] * p_.v0 + row % p_.v0, i * kTileColumns + j);
    }
  }

  /// The centroids, with their residuals, of a tile. Rows past the matrix's end are of no meaning.
  void look_up(std::int64_t r, const Tile& tile, float* values) const {
    if (tile.group < 0)
      for_outliers(r, tile, [&](std::int64_t place, std::int64_t at) { values[at] = t_.outlier_codebook[place]; });
    else
      fill_(p_.v, tile, p_.main_bits, t_.codebook + tile.group * main_size(p_),
            t_.residual_codebook + tile.group * residual_size(p_), values);
  }
  /// The rows(r) rows of the matrix, natural column order, into `target`.
  void decode(std::int64_t r, Room& room, float* target) const {
    for_tiles(r, room, [&](const Tile& tile) {
      look_up(r, tile, room.values.data());
      const float *scale = scale_.data() + tile.first, *bias = bias_.data() + tile.first;
      for (std::int64_t i = 0; i < rows(r); ++i) {
        float* row = target + i * p_.in_features;
        float* values = room.values.data() + i * kTileColumns;
        for (std::int64_t j = 0; j < tile.n; ++j) {
          const float scaled = values[j] * scale[j];
          values[j] = scaled + bias[j];
        }
        if (p_.perm == nullptr)
          std::copy_n(values, tile.n, row + tile.first);
        else
          for (std::int64_t j = 0; j < tile.n; ++j) row[p_.perm[tile.first + j]] = values[j];
      }
    });
  }

 private:
  const TunedVptq& t_;
  const PackedVptq& p_;
  int bits_;
  std::int64_t vector_rows_, words_;
  std::vector<float> scale_, bias_;
  decltype(specialised<FillTile>(std::declval<const PackedVptq&>())) fill_;
};

/// use(decoder, room, begin, end) for pieces of the vector rows, over the threads.
template <class Use>
void for_vector_rows(const Exec& exec, const TunedVptq& tuned, const Use& use) {
  const Decoder decoder(tuned);
  exec.pool->parallel_for(core::ceil_div(decoder.vector_rows(), kVectorRowsATask), [&](std::int64_t task) {
    Room room(tuned.packed);
    use(decoder, room, task * kVectorRowsATask, std::min(decoder.vector_rows(), (task + 1) * kVectorRowsATask));
  });
}

/// use(first, rows, values) for every vector row decoded, over the threads.
template <class Use>
void for_decoded(const Exec& exec, const PackedVptq& packed, const Use& use) {
  for_vector_rows(exec, Widened(packed).tuned(),
                  [&](const Decoder& decoder, Room& room, std::int64_t begin, std::int64_t end) {
                    std::vector<float> values(index(packed.v * packed.in_features));
                    for (std::int64_t r = begin; r < end; ++r) {
                      decoder.decode(r, room, values.data());
                      use(r * packed.v, decoder.rows(r), values.data());
                    }
                  });
}

void decode_tuned(const Exec& exec, const TunedVptq& tuned, float* weight) {
  for_vector_rows(exec, tuned, [&](const Decoder& decoder, Room& room, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      decoder.decode(r, room, weight + r * tuned.packed.v * tuned.packed.in_features);
  });
}

void decode_f32(const Exec& exec, const PackedVptq& packed, float* weight) {
  decode_tuned(exec, Widened(packed).tuned(), weight);
}

void decode_16(const Exec& exec, const PackedVptq& packed, std::uint16_t* weight) {
  const std::int64_t n = packed.in_features;
  for_decoded(exec, packed, [&](std::int64_t first, std::int64_t rows, const float* values) {
    std::transform(values, values + rows * n, weight + first * n,
                   [&](float value) { return core::to_bits16(packed.dtype, value); });
  });
}

/// Where the sums of each array lie in those of a part.
struct SumLayout {
  explicit SumLayout(const PackedVptq& p)
      : residual(p.groups * main_size(p)),
        outlier(residual + p.groups * residual_size(p)),
        scale(outlier + (p.outlier_size > 0 ? p.k0 * p.v0 : 0)),
        bias(scale + p.in_features),
        size(bias + p.in_features) {}
  std::int64_t residual, outlier, scale, bias, size;
};

/// Parts of the vector rows that have sums of their own: a matter of the shape alone, and few enough that making and
/// adding the sums costs less than a pass over the weights.
std::int64_t n_gradient_parts(const PackedVptq& p, std::int64_t vector_rows, std::int64_t n_sums) {
  constexpr std::int64_t kMostParts = 64;
  return std::clamp<std::int64_t>(p.out_features * p.in_features / (2 * n_sums), 1, std::min(kMostParts, vector_rows));
}

/// Adds a tile's part to the sums; those of scales and biases by stored column.
void add_tile(const Decoder& decoder, const TunedVptq& tuned, const SumLayout& layout, std::int64_t r, const Tile& tile,
              const float* d_weight, Room& room, float* sums) {
  const PackedVptq& p = tuned.packed;
  const std::int64_t rows = decoder.rows(r);
  decoder.look_up(r, tile, room.values.data());
  float *d_scale = sums + layout.scale + tile.first, *d_bias = sums + layout.bias + tile.first;
  const float* scale = decoder.scale() + tile.first;
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* d_row = d_weight + (r * p.v + i) * p.in_features;
    float* d = room.d_row.data();
    if (p.perm == nullptr)
      std::copy_n(d_row + tile.first, tile.n, d);
    else
      for (std::int64_t j = 0; j < tile.n; ++j) d[j] = d_row[p.perm[tile.first + j]];
    float* values = room.values.data() + i * kTileColumns;
    for (std::int64_t j = 0; j < tile.n; ++j) {
      d_scale[j] += d[j] * values[j];
      d_bias[j] += d[j];
      values[j] = d[j] * scale[j];
    }
  }
  if (tile.group < 0) {
    decoder.for_outliers(
        r, tile, [&](std::int64_t place, std::int64_t at) { sums[layout.outlier + place] += room.values[index(at)]; });
    return;
  }
  std::fill(room.values.begin() + rows * kTileColumns, room.values.end(), 0.0F);
  specialised<AddTile>(p)(p.v, tile, p.main_bits, sums + tile.group * main_size(p),
                          sums + layout.residual + tile.group * residual_size(p), room.values.data());
}

void gradient(const Exec& exec, const TunedVptq& tuned, const float* d_weight, const VptqGradient& sum) {
  const PackedVptq& p = tuned.packed;
  const Decoder decoder(tuned);
  const SumLayout layout(p);
  const std::int64_t n_parts = n_gradient_parts(p, decoder.vector_rows(), layout.size);
  std::vector<std::vector<float>> sums(index(n_parts));
  exec.pool->parallel_for(n_parts, [&](std::int64_t part) {
    Room room(p);
    std::vector<float>& mine = sums[index(part)];
    mine.resize(index(layout.size));
    const std::int64_t end = decoder.vector_rows() * (part + 1) / n_parts;
    for (std::int64_t r = decoder.vector_rows() * part / n_parts; r < end; ++r)
      decoder.for_tiles(
          r, room, [&](const Tile& tile) { add_tile(decoder, tuned, layout, r, tile, d_weight, room, mine.data()); });
  });
  const auto add_parts = [&](std::int64_t begin, std::int64_t end, const std::uint16_t* places, float* target) {
    for_row_chunks(exec, end - begin, 1, [&](std::int64_t first, std::int64_t n) {
      for (const std::vector<float>& part : sums)
        for (std::int64_t i = first; i < first + n; ++i)
          target[places == nullptr ? i : places[i]] += part[index(begin + i)];
    });
  };
  add_parts(0, layout.residual, nullptr, sum.codebook);
  add_parts(layout.residual, layout.outlier, nullptr, sum.residual_codebook);
  add_parts(layout.outlier, layout.scale, nullptr, sum.outlier_codebook);
  add_parts(layout.scale, layout.bias, p.perm, sum.scale);
  add_parts(layout.bias, layout.size, p.perm, sum.bias);
}

}  // namespace

VptqKernels cpu_vptq_kernels() {
  return {.decode_f32 = decode_f32,
          .decode_16 = decode_16,
          .fused_matmul = cpu_vptq_product,
          .decode_tuned = decode_tuned,
          .gradient = gradient};
}

}  // namespace voronoi::kernels
