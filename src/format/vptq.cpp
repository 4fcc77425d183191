#include "format/vptq.h"

#include <algorithm>
#include <bit>
#include <memory>

#include "core/packing.h"
#include "format/checks.h"
#include "format/device_arrays.h"
#include "format/tuned_arrays.h"
#include "format/vptq_recoding.h"

namespace voronoi::format {
namespace {

using core::ceil_div;

constexpr std::int64_t kMaxVectorLength = 1 << 12;
constexpr std::int64_t kMaxCodebook = 1 << 16;

bool is_power_of_two(std::int64_t value) { return value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)); }

/// Without arrays.
kernels::PackedVptq packed_extents(const VqExtents& e) {
  kernels::PackedVptq packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.v = e.vector_length;
  packed.main_bits = e.main_bits();
  packed.residual_bits = e.residual_bits();
  packed.groups = e.groups;
  packed.group_size = e.group_size();
  packed.outlier_size = e.outlier_size;
  packed.v0 = e.outlier_vector_length;
  packed.k0 = e.outlier_centroids;
  packed.dtype = e.dtype;
  return packed;
}

/// put(array) gives the address where the kernels are to read it.
template <class Put>
kernels::PackedVptq packed_view(const VqView& e, const Put& put) {
  kernels::PackedVptq packed = packed_extents(e);
  packed.indices = put(e.indices);
  packed.codebook = put(e.codebook);
  packed.residual_codebook = put(e.residual_codebook);
  packed.outlier_codebook = put(e.outlier_codebook);
  packed.outlier_indices = put(e.outlier_indices);
  packed.scale = put(e.scale);
  packed.bias = put(e.bias);
  packed.perm = put(e.perm);
  return packed;
}

class VptqMatrix final : public PackedMatrix {
 public:
  VptqMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        packed_(packed_view(vq_view(encoding), [&](const auto& array) { return arrays_.add(context, array); })) {}

  std::int64_t size_bytes() const override { return arrays_.size_bytes(); }
  std::int64_t max_tokens() const override { return kernels::fused_length(packed_) ? kernels::kMaxVptqTokens : 0; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.vptq().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.vptq().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.vptq().decode_16(context.exec(), packed_, weight);
  }

 private:
  DeviceArrays arrays_;
  kernels::PackedVptq packed_;
};

class TunedVptqMatrix final : public TunedArrays {
 public:
  TunedVptqMatrix(backend::Context& context, const Encoding& encoding)
      : TunedArrays(context, encoding,
                    {{"codebook", ParameterKind::codebook},
                     {"residual_codebook", ParameterKind::codebook},
                     {"outlier_codebook", ParameterKind::codebook},
                     {"scale", ParameterKind::scale},
                     {"bias", ParameterKind::bias}},
                    {"indices", "outlier_indices"}),
        extents_(packed_extents(vq_view(encoding))) {}

  void decode(backend::Context& context, const float* parameters, float* weight) const override {
    context.vptq().decode_tuned(context.exec(), numbers(parameters), weight);
  }
  void add_gradient(backend::Context& context, const float* parameters, const float* /*weight*/, const float* d_weight,
                    float* gradient) const override {
    context.vptq().gradient(
        context.exec(), numbers(parameters), d_weight,
        {part_of(gradient, "codebook"), part_of(gradient, "residual_codebook"), part_of(gradient, "outlier_codebook"),
         part_of(gradient, "scale"), part_of(gradient, "bias")});
  }
  std::int64_t recode(backend::Context& context, std::span<const float> parameters, std::span<const float> target,
                      double share) override {
    auto indices = on_host<std::uint32_t>("indices");
    auto outlier_indices = on_host<std::uint16_t>("outlier_indices");
    const auto perm = on_host<std::uint16_t>("perm");
    kernels::TunedVptq tuned = numbers(parameters.data());
    tuned.packed.indices = indices.data();
    tuned.packed.outlier_indices = outlier_indices.data();
    tuned.packed.perm = perm.empty() ? nullptr : perm.data();
    const std::int64_t n_changed = recode_vptq(context.pool(), tuned, target.data(), share, indices, outlier_indices);
    set_fixed("indices", indices);
    set_fixed("outlier_indices", outlier_indices);
    return n_changed;
  }

 private:
  kernels::TunedVptq numbers(const float* parameters) const {
    kernels::PackedVptq packed = extents_;
    packed.indices = fixed<std::uint32_t>("indices");
    packed.outlier_indices = fixed<std::uint16_t>("outlier_indices");
    packed.perm = fixed<std::uint16_t>("perm");
    return {packed,
            part_of(parameters, "codebook"),
            part_of(parameters, "residual_codebook"),
            part_of(parameters, "outlier_codebook"),
            part_of(parameters, "scale"),
            part_of(parameters, "bias")};
  }

  kernels::PackedVptq extents_;  ///< without arrays
};

class VptqFormat final : public Format {
 public:
  std::string_view name() const override { return "vq"; }
  FieldNames fields() const override { return field_names<VqView>(); }
  std::string find_problem(const Encoding& encoding) const override { return find_encoding_problem<VqView>(encoding); }
  double nominal_bits(const Encoding& encoding) const override { return format::nominal_bits(vq_view(encoding)); }
  double decoded_bound(const Encoding& encoding) const override {
    const VqView e = vq_view(encoding);
    const double vectors =
        std::max(largest_magnitude(e.dtype, e.codebook) + largest_magnitude(e.dtype, e.residual_codebook),
                 largest_magnitude(e.dtype, e.outlier_codebook));
    return vectors * largest_magnitude(e.dtype, e.scale) + largest_magnitude(e.dtype, e.bias);
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    core::ThreadPool alone(1);
    kernels::cpu().vptq.decode_f32({&alone, nullptr}, packed_view(vq_view(encoding), in_place), weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<VptqMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TunedVptqMatrix>(context, encoding);
  }
};

}  // namespace

int VqExtents::main_bits() const { return core::index_bits(centroids); }
int VqExtents::residual_bits() const { return core::index_bits(residual_centroids); }
std::int64_t VqExtents::vector_rows() const { return ceil_div(out_features, vector_length); }
std::int64_t VqExtents::row_words() const { return core::packed_words(group_size(), main_bits() + residual_bits()); }
std::int64_t VqExtents::outlier_vector_rows() const {
  return outlier_size > 0 ? ceil_div(out_features, outlier_vector_length) : 0;
}

const Format& vptq_format() {
  static const VptqFormat format;
  return format;
}

Encoding to_encoding(const VqEncoding& fields) { return make_encoding(vptq_format(), fields); }

VqView vq_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &vptq_format(), "the encoding is of another format");
  return view_of<VqView>(encoding);
}

std::string find_extent_problem(const VqExtents& e) {
  if (auto problem = matrix_problem(e.out_features, e.in_features, e.dtype); !problem.empty()) return problem;
  if (auto problem = range_problem("vector_length", e.vector_length, 1, kMaxVectorLength); !problem.empty())
    return problem;
  if (!inside(e.centroids, 2, kMaxCodebook) || !is_power_of_two(e.centroids))
    return "centroids is " + std::to_string(e.centroids) + ", not a power of two in 2..65536";
  if (e.residual_centroids != 0 &&
      (!inside(e.residual_centroids, 2, e.centroids) || !is_power_of_two(e.residual_centroids)))
    return "residual_centroids is " + std::to_string(e.residual_centroids) +
           ", neither 0 nor a power of two in 2..centroids";
  if (auto problem = range_problem("outlier_size", e.outlier_size, 0, e.in_features - 1); !problem.empty())
    return problem;
  // Without outliers nothing reads the extents of their codebook, but products of them are formed.
  const std::int64_t least = e.outlier_size > 0 ? 1 : 0;
  if (auto problem = range_problem("outlier_vector_length", e.outlier_vector_length, least, kMaxVectorLength);
      !problem.empty())
    return problem;
  if (auto problem = range_problem("outlier_centroids", e.outlier_centroids, least, kMaxCodebook); !problem.empty())
    return problem;
  if (!inside(e.groups, 1, e.in_features - e.outlier_size) || (e.in_features - e.outlier_size) % e.groups != 0)
    return "groups is " + std::to_string(e.groups) + " and does not divide the " +
           std::to_string(e.in_features - e.outlier_size) + " columns that are no outliers";
  return {};
}

std::string find_problem(const VqView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  const VqElements due = elements_due(e, !e.perm.empty());
  for (const std::string& problem :
       {size_problem("indices", e.indices.size(), due.indices),
        size_problem("codebook", e.codebook.size(), due.codebook),
        size_problem("residual_codebook", e.residual_codebook.size(), due.residual_codebook),
        size_problem("outlier_codebook", e.outlier_codebook.size(), due.outlier_codebook),
        size_problem("outlier_indices", e.outlier_indices.size(), due.outlier_indices),
        size_problem("scale", e.scale.size(), due.scale), size_problem("bias", e.bias.size(), due.bias),
        perm_problem(e.perm, e.in_features), finite_problem("codebook", e.dtype, e.codebook),
        finite_problem("residual_codebook", e.dtype, e.residual_codebook),
        finite_problem("outlier_codebook", e.dtype, e.outlier_codebook), finite_problem("scale", e.dtype, e.scale),
        finite_problem("bias", e.dtype, e.bias)})
    if (!problem.empty()) return problem;
  for (std::size_t i = 0; i < e.outlier_indices.size(); ++i)
    if (e.outlier_indices[i] >= e.outlier_centroids)
      return "outlier_indices[" + std::to_string(i) + "] is " + std::to_string(e.outlier_indices[i]) + ", beyond the " +
             std::to_string(e.outlier_centroids) + " outlier centroids";
  return {};
}

double nominal_bits(const VqExtents& e) {
  return static_cast<double>(e.main_bits() + e.residual_bits()) / static_cast<double>(e.vector_length);
}

VqElements elements_due(const VqExtents& e, bool with_perm) {
  VqElements due;
  due.indices = e.groups * e.vector_rows() * e.row_words();
  due.codebook = e.groups * e.centroids * e.vector_length;
  due.residual_codebook = e.groups * e.residual_centroids * e.vector_length;
  if (e.outlier_size > 0) {
    due.outlier_codebook = e.outlier_centroids * e.outlier_vector_length;
    due.outlier_indices = e.outlier_vector_rows() * e.outlier_size;
  }
  due.scale = due.bias = e.in_features;
  due.perm = with_perm ? e.in_features : 0;
  return due;
}

}  // namespace voronoi::format
