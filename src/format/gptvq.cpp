#include "format/gptvq.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <vector>

#include "core/packing.h"
#include "format/checks.h"
#include "format/device_arrays.h"
#include "format/tuned_arrays.h"

namespace voronoi::format {
namespace {

constexpr std::int64_t kMostCentroids = 1 << 16;
constexpr double kByteSteps = 127, kLargestByte = 128;
// A block scale above F16's range makes no weight that can be used.
constexpr float kLargestBlockScale = core::kLargestF16;

/// visit(book, factors as decoded [r]) for every codebook of a basis.
template <class Visit>
void for_each_factors(const GptvqView& e, const Visit& visit) {
  const std::int64_t rank = e.rank();
  std::vector<float> factors(static_cast<std::size_t>(rank));
  for (std::int64_t book = 0; book < e.row_groups() * e.strips(); ++book) {
    const auto at = [&](std::int64_t i) { return static_cast<std::size_t>(book * rank + i); };
    const float step =
        e.codebook8.empty()
            ? 0
            : core::from_bits16(e.dtype, e.codebook_scale[static_cast<std::size_t>(book)]) * kernels::kByteStep;
    for (std::int64_t i = 0; i < rank; ++i)
      factors[static_cast<std::size_t>(i)] =
          e.codebook8.empty() ? core::from_bits16(e.dtype, e.codebook[at(i)])
                              : step * static_cast<float>(static_cast<std::int8_t>(e.codebook8[at(i)]));
    visit(book, std::span<const float>(factors));
  }
}

std::vector<float> widened(core::DType dtype, std::span<const std::uint16_t> bits) {
  std::vector<float> values(bits.size());
  core::convert_to_f32(dtype, bits.data(), std::ssize(bits), values.data());
  return values;
}

/// Codebooks of a basis as they would be stored without: [row_groups, strips, k] bits of dtype.
std::vector<std::uint16_t> whole_books(const GptvqView& e) {
  if (e.rank() == 0) return {};
  const std::vector<float> basis = widened(e.dtype, e.codebook_basis);
  std::vector<std::uint16_t> books;
  std::vector<float> centroids(static_cast<std::size_t>(e.centroids));
  for_each_factors(e, [&](std::int64_t, std::span<const float> factors) {
    expand_book(e.dtype, factors, basis, centroids);
    for (const float value : centroids) books.push_back(core::to_bits16(e.dtype, value));
  });
  return books;
}

/// Without arrays.
kernels::PackedGptvq packed_extents(const GptvqExtents& e) {
  kernels::PackedGptvq packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.d = e.vector_columns;
  packed.index_bits = e.index_bits();
  packed.group_rows = e.group_rows;
  packed.group_columns = e.group_columns;
  packed.scale_block = e.scale_block;
  packed.dtype = e.dtype;
  return packed;
}

/// put(array) gives the address where the kernels are to read it. Kernels know no basis: whole has its codebooks.
template <class Put>
kernels::PackedGptvq packed_view(const GptvqView& e, std::span<const std::uint16_t> whole, const Put& put) {
  kernels::PackedGptvq packed = packed_extents(e);
  packed.indices = put(e.indices);
  if (whole.empty()) {
    packed.codebook = put(e.codebook);
    packed.codebook8 = reinterpret_cast<const std::int8_t*>(put(e.codebook8));
    packed.codebook_scale = put(e.codebook_scale);
  } else {
    packed.codebook = put(whole);
  }
  packed.block_codes = put(e.block_codes);
  packed.block_grid = put(e.block_grid);
  packed.perm = put(e.perm);
  return packed;
}

class GptvqMatrix final : public PackedMatrix {
 public:
  GptvqMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        packed_(packed_view(gptvq_view(encoding), whole_books(gptvq_view(encoding)),
                            [&](const auto& array) { return arrays_.add(context, array); })) {}

  std::int64_t size_bytes() const override { return arrays_.size_bytes(); }
  std::int64_t max_tokens() const override { return kernels::kMaxGptvqTokens; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.gptvq().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.gptvq().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.gptvq().decode_16(context.exec(), packed_, weight);
  }

 private:
  DeviceArrays arrays_;
  kernels::PackedGptvq packed_;
};

/// Codebooks of 16 bits, or the scales of those of bytes.
class TunedGptvqMatrix final : public TunedArrays {
 public:
  TunedGptvqMatrix(backend::Context& context, const Encoding& encoding)
      : TunedArrays(context, encoding,
                    {{"codebook", ParameterKind::codebook}, {"codebook_scale", ParameterKind::scale}},
                    {"indices", "codebook8"}),
        extents_(packed_extents(gptvq_view(encoding))) {}

  void decode(backend::Context& context, const float* parameters, float* weight) const override {
    context.gptvq().decode_f32(context.exec(), numbers(parameters), weight);
  }
  void add_gradient(backend::Context& context, const float* parameters, const float* weight, const float* d_weight,
                    float* gradient) const override {
    context.gptvq().gradient(context.exec(), numbers(parameters), weight, d_weight, gradient);
  }
  bool can_recode() const override { return false; }
  std::int64_t recode(backend::Context& /*context*/, std::span<const float> /*parameters*/,
                      std::span<const float> /*target*/, double /*share*/) override {
    throw core::InternalError("GPTVQ's codes are not moved");
  }

 private:
  kernels::PackedGptvq numbers(const float* parameters) const {
    kernels::PackedGptvq packed = extents_;
    packed.indices = fixed<std::uint32_t>("indices");
    packed.codebook8 = fixed<std::int8_t>("codebook8");
    packed.block_codes = fixed<std::uint32_t>("block_codes");
    packed.block_grid = fixed<std::uint16_t>("block_grid");
    packed.perm = fixed<std::uint16_t>("perm");
    packed.tuned = parameters;
    return packed;
  }

  kernels::PackedGptvq extents_;  ///< without arrays
};

class GptvqFormat final : public Format {
 public:
  std::string_view name() const override { return "gptvq"; }
  FieldNames fields() const override { return field_names<GptvqView>(); }
  std::string find_problem(const Encoding& encoding) const override {
    return find_encoding_problem<GptvqView>(encoding);
  }
  double nominal_bits(const Encoding& encoding) const override { return format::nominal_bits(gptvq_view(encoding)); }
  double decoded_bound(const Encoding& encoding) const override {
    const GptvqView e = gptvq_view(encoding);
    double largest = largest_magnitude(e.dtype, e.codebook);
    if (!e.codebook8.empty()) {
      double byte = 0;
      for (const std::uint8_t value : e.codebook8)
        byte = std::max(byte, value < kLargestByte ? value : 2 * kLargestByte - value);
      largest = largest_magnitude(e.dtype, e.codebook_scale) * byte / kByteSteps;
    }
    if (e.rank() > 0) largest = largest_magnitude(e.dtype, whole_books(e));
    double scale = e.block_grid.empty() ? 1 : 0;
    for (std::size_t i = 0; i + 1 < e.block_grid.size(); i += 2) {
      const float base = core::from_bits16(e.dtype, e.block_grid[i]),
                  ratio = core::from_bits16(e.dtype, e.block_grid[i + 1]);
      scale = std::max(scale, static_cast<double>(std::max(base, kernels::block_scale(base, ratio, kMostBlockCode))));
    }
    // A few roundings.
    return largest * scale * (1 + 0x1p-20);
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    core::ThreadPool alone(1);
    const GptvqView view = gptvq_view(encoding);
    const std::vector<std::uint16_t> whole = whole_books(view);
    kernels::cpu().gptvq.decode_f32({&alone, nullptr}, packed_view(view, whole, in_place), weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<GptvqMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    // Factors and basis are no numbers that the kernels' gradient knows.
    if (gptvq_view(encoding).rank() > 0) return nullptr;
    return std::make_unique<TunedGptvqMatrix>(context, encoding);
  }
};

/// Bases and ratios are above 0, and no scale of a column of blocks is beyond the range.
std::string grid_problem(const GptvqView& e) {
  for (std::size_t i = 0; i + 1 < e.block_grid.size(); i += 2) {
    const float base = core::from_bits16(e.dtype, e.block_grid[i]),
                ratio = core::from_bits16(e.dtype, e.block_grid[i + 1]);
    if (!(base > 0) || !(ratio > 0) || !(base <= kLargestBlockScale) ||
        !(kernels::block_scale(base, ratio, kMostBlockCode) <= kLargestBlockScale))
      return "block_grid[" + std::to_string(i / 2) + "] spans scales of " + std::to_string(base) + " times powers of " +
             std::to_string(ratio) + ", which are not within 0..65504";
  }
  return {};
}

/// A basis is of few centroids, of single columns, smaller than what it stands for, and makes no centroid beyond F16's
/// range. The arrays' sizes are those due.
std::string basis_problem(const GptvqView& e) {
  if (e.codebook_basis.empty()) return {};
  std::string problem;
  const std::vector<float> basis = widened(e.dtype, e.codebook_basis);
  std::vector<float> centroids(static_cast<std::size_t>(e.centroids));
  for_each_factors(e, [&](std::int64_t book, std::span<const float> factors) {
    if (!problem.empty()) return;
    expand_book(e.dtype, factors, basis, centroids);
    for (const float value : centroids)
      if (!(std::fabs(value) <= core::kLargestF16))
        problem = "codebook " + std::to_string(book) + " has centroids that are not within 0..65504";
  });
  return problem;
}

/// What is wrong with the basis's own size.
std::string rank_problem(const GptvqView& e) {
  if (e.codebook_basis.empty()) return {};
  if (e.vector_columns != 1 || e.centroids > kMostBasisCentroids)
    return "codebook_basis is for at most " + std::to_string(kMostBasisCentroids) +
           " centroids of single columns, here are " + std::to_string(e.centroids) + " of " +
           std::to_string(e.vector_columns);
  if (e.rank() >= e.centroids)
    return "codebook_basis has " + std::to_string(e.codebook_basis.size()) + " values, as many as whole codebooks of " +
           std::to_string(e.centroids) + " centroids or more";
  return {};
}

}  // namespace

void expand_book(core::DType dtype, std::span<const float> factors, std::span<const float> basis,
                 std::span<float> centroids) {
  const std::size_t k = centroids.size();
  for (std::size_t c = 0; c < k; ++c) {
    float sum = factors[0] * basis[c];
    for (std::size_t i = 1; i < factors.size(); ++i) sum += factors[i] * basis[i * k + c];
    centroids[c] = core::from_bits16(dtype, core::to_bits16(dtype, sum));
  }
}

int GptvqExtents::index_bits() const { return core::index_bits(centroids); }

const Format& gptvq_format() {
  static const GptvqFormat format;
  return format;
}

Encoding to_encoding(const GptvqEncoding& fields) { return make_encoding(gptvq_format(), fields); }

GptvqView gptvq_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &gptvq_format(), "the encoding is of another format");
  return view_of<GptvqView>(encoding);
}

std::string find_extent_problem(const GptvqExtents& e) {
  if (auto problem = matrix_problem(e.out_features, e.in_features, e.dtype); !problem.empty()) return problem;
  if (e.vector_columns != 1 && e.vector_columns != 2 && e.vector_columns != 4)
    return "vector_columns is " + std::to_string(e.vector_columns) + ", not 1, 2 or 4";
  if (e.in_features % e.vector_columns != 0)
    return "in_features is " + std::to_string(e.in_features) + ", no multiple of vector_columns, " +
           std::to_string(e.vector_columns);
  if (!inside(e.centroids, 2, kMostCentroids) || !std::has_single_bit(static_cast<std::uint64_t>(e.centroids)))
    return "centroids is " + std::to_string(e.centroids) + ", not a power of two in 2..65536";
  if (auto problem = range_problem("group_rows", e.group_rows, 1, kMaxFeatures); !problem.empty()) return problem;
  if (auto problem = range_problem("group_columns", e.group_columns, 1, kMaxFeatures); !problem.empty()) return problem;
  if (e.group_columns % e.vector_columns != 0)
    return "group_columns is " + std::to_string(e.group_columns) + ", no multiple of vector_columns, " +
           std::to_string(e.vector_columns);
  if (e.codebook_bits != 8 && e.codebook_bits != 16)
    return "codebook_bits is " + std::to_string(e.codebook_bits) + ", neither 8 nor 16";
  if (auto problem = range_problem("scale_block", e.scale_block, 0, kMaxFeatures); !problem.empty()) return problem;
  if (e.scale_block % e.vector_columns != 0)
    return "scale_block is " + std::to_string(e.scale_block) + ", no multiple of vector_columns, " +
           std::to_string(e.vector_columns);
  // Codebooks of 65536 entries for every weight: their number is the product of what is bounded above.
  const auto books = core::checked_multiply(e.row_groups(), e.strips());
  if (!books || !core::checked_multiply(*books, 32 * e.book_size()))
    return std::to_string(e.row_groups()) + " row groups and " + std::to_string(e.strips()) +
           " strips are too many codebooks";
  return {};
}

std::string find_problem(const GptvqView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  if (auto problem = rank_problem(e); !problem.empty()) return problem;
  const GptvqElements due = elements_due(e, !e.perm.empty(), e.rank());
  for (const std::string& problem :
       {size_problem("indices", e.indices.size(), due.indices),
        size_problem("codebook", e.codebook.size(), due.codebook),
        size_problem("codebook8", e.codebook8.size(), due.codebook8),
        size_problem("codebook_scale", e.codebook_scale.size(), due.codebook_scale),
        size_problem("codebook_basis", e.codebook_basis.size(), due.codebook_basis),
        size_problem("block_codes", e.block_codes.size(), due.block_codes),
        size_problem("block_grid", e.block_grid.size(), due.block_grid), perm_problem(e.perm, e.in_features),
        finite_problem("codebook", e.dtype, e.codebook), finite_problem("codebook_scale", e.dtype, e.codebook_scale),
        finite_problem("codebook_basis", e.dtype, e.codebook_basis),
        finite_problem("block_grid", e.dtype, e.block_grid)})
    if (!problem.empty()) return problem;
  if (auto problem = basis_problem(e); !problem.empty()) return problem;
  return grid_problem(e);
}

double nominal_bits(const GptvqExtents& e) {
  return static_cast<double>(e.index_bits()) / static_cast<double>(e.vector_columns);
}

GptvqElements elements_due(const GptvqExtents& e, bool with_perm, std::int64_t rank) {
  const std::int64_t books = e.row_groups() * e.strips();
  GptvqElements due;
  due.indices = e.out_features * core::packed_words(e.vectors(), e.index_bits());
  if (e.codebook_bits == 16)
    due.codebook = books * e.stored_size(rank);
  else {
    due.codebook8 = books * e.stored_size(rank);
    due.codebook_scale = books;
  }
  due.codebook_basis = rank * e.centroids;
  if (e.scale_block > 0) {
    due.block_codes = e.out_features * core::packed_words(e.blocks(), kernels::kBlockScaleBits);
    due.block_grid = 2 * e.blocks();
  }
  due.perm = with_perm ? e.in_features : 0;
  return due;
}

}  // namespace voronoi::format
