#include "format/vptq_recoding.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>

#include "core/packing.h"
#include "format/recoding.h"
#include "kernels/kernels.h"

namespace voronoi::format {
namespace {

/// Main centroids that are looked at for a pair, besides the two that come of the present one.
constexpr std::int64_t kMains = 8;

/// Vectors of one codebook: [n, v] in the space of its centroids, those that pad the matrix's end 0.
struct Points {
  std::int64_t v = 0;
  std::vector<float> values;
  std::vector<std::int32_t> lengths;  ///< rows of the matrix that each has
  std::int64_t size() const { return std::ssize(lengths); }
};

/// A book [k, v] of centroids.
struct Book {
  const float* centroids = nullptr;
  std::int64_t k = 0;
};

class Recoding {
 public:
  Recoding(core::ThreadPool& pool, const kernels::TunedVptq& tuned, const float* target)
      : pool_(pool), t_(tuned), p_(tuned.packed), target_(target) {}

  /// Squared distance of each vector: those of the groups in the order of their codes, then the outliers'.
  std::vector<float> distances() const {
    std::vector<float> weight(at(p_.out_features * p_.in_features)), result(at(n_main() + n_outliers()));
    kernels::cpu().vptq.decode_tuned(exec(), t_, weight.data());
    pool_.parallel_for(p_.groups * vector_rows() + outlier_rows(), [&](std::int64_t row) {
      const bool outlier = row >= p_.groups * vector_rows();
      const std::int64_t first =
          outlier ? n_main() + (row - p_.groups * vector_rows()) * p_.outlier_size : row * p_.group_size;
      for (std::int64_t i = first; i < first + (outlier ? p_.outlier_size : p_.group_size); ++i) {
        const Place place = place_of(i);
        float sum = 0;
        for (std::int64_t r = place.row; r < place.row + place.length; ++r) {
          const std::int64_t w = r * p_.in_features + place.column;
          const float difference = target_[w] - weight[at(w)];
          sum += difference * difference;
        }
        result[at(i)] = sum;
      }
    });
    return result;
  }

  /// New codes of the chosen vectors, which are rising.
  std::int64_t move(std::span<const std::int64_t> chosen, std::vector<std::uint32_t>& indices,
                    std::vector<std::uint16_t>& outlier_indices) const {
    std::int64_t n_changed = 0;
    auto first = chosen.begin();
    for (std::int64_t g = 0; g < p_.groups; ++g) {
      const auto last = std::lower_bound(first, chosen.end(), (g + 1) * vector_rows() * p_.group_size);
      n_changed += move_group(g, {first, last}, indices);
      first = last;
    }
    return n_changed + move_outliers({first, chosen.end()}, outlier_indices);
  }

 private:
  struct Place {
    std::int64_t row, length, column;  // rows of the matrix [row, row + length), natural column
  };
  kernels::Exec exec() const { return {&pool_, nullptr}; }
  std::int64_t vector_rows() const { return core::ceil_div(p_.out_features, p_.v); }
  std::int64_t outlier_rows() const { return p_.outlier_size > 0 ? core::ceil_div(p_.out_features, p_.v0) : 0; }
  std::int64_t n_main() const { return p_.groups * vector_rows() * p_.group_size; }
  std::int64_t n_outliers() const { return outlier_rows() * p_.outlier_size; }

  Place place_of(std::int64_t vector) const {
    const bool outlier = vector >= n_main();
    const std::int64_t width = outlier ? p_.outlier_size : p_.group_size, v = outlier ? p_.v0 : p_.v;
    const std::int64_t packed_row = (outlier ? vector - n_main() : vector) / width;
    const std::int64_t row = (outlier ? packed_row : packed_row % vector_rows()) * v;
    const std::int64_t stored =
        outlier ? (vector - n_main()) % width : p_.outlier_size + packed_row / vector_rows() * width + vector % width;
    return {row, std::min(v, p_.out_features - row), p_.perm == nullptr ? stored : p_.perm[stored]};
  }

  /// Of those of the vectors that can be moved, which become `vectors`.
  Points points(std::int64_t v, std::vector<std::int64_t>& vectors) const {
    Points points{v, {}, {}};
    std::vector<std::int64_t> kept;
    for (const std::int64_t vector : vectors) {
      const Place place = place_of(vector);
      const std::size_t before = points.values.size();
      points.values.resize(before + at(v));
      bool finite = true;
      for (std::int64_t i = 0; i < place.length; ++i) {
        const float value =
            (target_[(place.row + i) * p_.in_features + place.column] - t_.bias[place.column]) / t_.scale[place.column];
        points.values[before + at(i)] = value;
        finite = finite && std::isfinite(value);
      }
      if (finite) {
        points.lengths.push_back(static_cast<std::int32_t>(place.length));
        kept.push_back(vector);
      } else {
        points.values.resize(before);
      }
    }
    vectors = std::move(kept);
    return points;
  }

  std::vector<std::int32_t> nearest(const Points& points, const Book& book, std::vector<float>* distance2) const {
    std::vector<std::int32_t> index(points.lengths.size());
    if (distance2 != nullptr) distance2->resize(index.size());
    kernels::cpu().vq.nearest(exec(), points.size(), points.v, points.values.data(), book.k, book.centroids,
                              points.lengths.data(), index.data(), distance2 != nullptr ? distance2->data() : nullptr);
    return index;
  }
  std::vector<std::int32_t> nearest_mains(const Points& points, const Book& book, std::int64_t m) const {
    std::vector<std::int32_t> index(at(points.size() * m));
    kernels::cpu().vq.nearest_m(exec(), points.size(), points.v, points.values.data(), book.k, book.centroids,
                                points.lengths.data(), m, index.data());
    return index;
  }
  /// What the chosen centroids leave of the points.
  static Points remainder(const Points& points, const Book& book, std::span<const std::int32_t> chosen) {
    Points rest = points;
    for (std::int64_t i = 0; i < points.size(); ++i)
      for (std::int64_t d = 0; d < points.lengths[at(i)]; ++d)
        rest.values[at(i * points.v + d)] -= book.centroids[chosen[at(i)] * points.v + d];
    return rest;
  }
  static float distance2(const Points& points, std::int64_t i, const float* centroid, const float* residual) {
    float sum = 0;
    for (std::int64_t d = 0; d < points.lengths[at(i)]; ++d) {
      const float difference =
          points.values[at(i * points.v + d)] - (residual == nullptr ? centroid[d] : centroid[d] + residual[d]);
      sum += difference * difference;
    }
    return sum;
  }

  /// The codes of points that now have `present`.
  std::vector<std::uint32_t> best(const Points& points, const Book& main, const Book& residual,
                                  std::span<const std::uint32_t> present) const {
    const auto centroid = [&](std::uint32_t code) { return main.centroids + (code & (main.k - 1)) * points.v; };
    const auto correction = [&](std::uint32_t code) {
      return residual.k == 0 ? nullptr : residual.centroids + (code >> p_.main_bits) * points.v;
    };
    std::vector<std::uint32_t> codes(present.begin(), present.end());
    std::vector<float> least(codes.size());
    for (std::int64_t i = 0; i < points.size(); ++i)
      least[at(i)] = distance2(points, i, centroid(codes[at(i)]), correction(codes[at(i)]));
    const auto offer = [&](std::int64_t i, std::uint32_t code) {
      const float distance = distance2(points, i, centroid(code), correction(code));
      if (!(distance < least[at(i)])) return;
      least[at(i)] = distance;
      codes[at(i)] = code;
    };
    if (residual.k == 0) {
      const std::vector<std::int32_t> index = nearest(points, main, nullptr);
      for (std::int64_t i = 0; i < points.size(); ++i) offer(i, static_cast<std::uint32_t>(index[at(i)]));
      return codes;
    }
    const auto offer_with = [&](std::span<const std::int32_t> mains) {
      const std::vector<std::int32_t> corrections = nearest(remainder(points, main, mains), residual, nullptr);
      for (std::int64_t i = 0; i < points.size(); ++i)
        offer(i, static_cast<std::uint32_t>(mains[at(i)]) | static_cast<std::uint32_t>(corrections[at(i)])
                                                                << p_.main_bits);
    };
    std::vector<std::int32_t> mains(codes.size()), corrections(codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      mains[i] = static_cast<std::int32_t>(present[i] & (main.k - 1));
      corrections[i] = static_cast<std::int32_t>(present[i] >> p_.main_bits);
    }
    offer_with(mains);
    offer_with(nearest(remainder(points, residual, corrections), main, nullptr));
    const std::int64_t m = std::min(kMains, main.k);
    const std::vector<std::int32_t> candidates = nearest_mains(points, main, m);
    for (std::int64_t c = 0; c < m; ++c) {
      for (std::int64_t i = 0; i < points.size(); ++i) mains[at(i)] = candidates[at(i * m + c)];
      offer_with(mains);
    }
    return codes;
  }

  std::int64_t move_group(std::int64_t g, std::vector<std::int64_t> vectors,
                          std::vector<std::uint32_t>& indices) const {
    const Points of_group = points(p_.v, vectors);
    if (vectors.empty()) return 0;
    const int bits = p_.main_bits + p_.residual_bits;
    const std::int64_t words = core::packed_words(p_.group_size, bits);
    const Book main{t_.codebook + g * (p_.v << p_.main_bits), std::int64_t{1} << p_.main_bits};
    const Book residual = p_.residual_bits == 0 ? Book{}
                                                : Book{t_.residual_codebook + g * (p_.v << p_.residual_bits),
                                                       std::int64_t{1} << p_.residual_bits};
    // use(first, last of the vectors in it, its codes) for each packed row with any.
    std::vector<std::uint32_t> row_codes(at(p_.group_size));
    const auto for_rows = [&](const auto& use) {
      for (std::size_t first = 0, last = 0; first < vectors.size(); first = last) {
        const std::int64_t row = vectors[first] / p_.group_size;
        while (last < vectors.size() && vectors[last] / p_.group_size == row) ++last;
        const std::span<std::uint32_t> stored(indices.data() + row * words, at(words));
        core::unpack_row(stored, bits, row_codes);
        use(first, last, stored);
      }
    };
    std::vector<std::uint32_t> present(vectors.size());
    for_rows([&](std::size_t first, std::size_t last, std::span<std::uint32_t>) {
      for (std::size_t i = first; i < last; ++i) present[i] = row_codes[at(vectors[i] % p_.group_size)];
    });
    const std::vector<std::uint32_t> codes = best(of_group, main, residual, present);
    for_rows([&](std::size_t first, std::size_t last, std::span<std::uint32_t> stored) {
      for (std::size_t i = first; i < last; ++i) row_codes[at(vectors[i] % p_.group_size)] = codes[i];
      core::pack_row(row_codes, bits, stored);
    });
    std::int64_t n_changed = 0;
    for (std::size_t i = 0; i < codes.size(); ++i) n_changed += codes[i] != present[i] ? 1 : 0;
    return n_changed;
  }

  std::int64_t move_outliers(std::vector<std::int64_t> vectors, std::vector<std::uint16_t>& indices) const {
    const Points outliers = points(p_.v0, vectors);
    if (vectors.empty()) return 0;
    const std::vector<std::int32_t> index = nearest(outliers, {t_.outlier_codebook, p_.k0}, nullptr);
    std::int64_t n_changed = 0;
    for (std::size_t i = 0; i < vectors.size(); ++i) {
      std::uint16_t& code = indices[at(vectors[i] - n_main())];
      const auto of = [&](std::int64_t c) {
        return distance2(outliers, static_cast<std::int64_t>(i), t_.outlier_codebook + c * p_.v0, nullptr);
      };
      if (!(of(index[i]) < of(code))) continue;
      code = static_cast<std::uint16_t>(index[i]);
      ++n_changed;
    }
    return n_changed;
  }

  core::ThreadPool& pool_;
  const kernels::TunedVptq& t_;
  const kernels::PackedVptq& p_;
  const float* target_;
};

}  // namespace

std::int64_t recode_vptq(core::ThreadPool& pool, const kernels::TunedVptq& tuned, const float* target, double share,
                         std::vector<std::uint32_t>& indices, std::vector<std::uint16_t>& outlier_indices) {
  const Recoding recoding(pool, tuned, target);
  return recoding.move(farthest(recoding.distances(), share), indices, outlier_indices);
}

}  // namespace voronoi::format
