#include "format/uniform.h"

#include <memory>

#include "core/packing.h"
#include "format/checks.h"
#include "format/device_arrays.h"
#include "format/tuned_arrays.h"
#include "format/uniform_recoding.h"

namespace voronoi::format {

kernels::PackedUniform packed_extents(const UniformExtents& e) {
  kernels::PackedUniform packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.bits = static_cast<int>(e.bits);
  packed.group_size = e.group_size;
  packed.dtype = e.dtype;
  return packed;
}

namespace {

constexpr std::int64_t kMaxBits = 16;

/// put(array) gives the address where the kernels are to read it.
template <class Put>
kernels::PackedUniform packed_view(const UniformView& e, const Put& put) {
  kernels::PackedUniform packed = packed_extents(e);
  packed.codes = put(e.codes);
  packed.zeros = put(e.zeros);
  packed.scale = put(e.scale);
  packed.perm = put(e.perm);
  packed.column_scale = put(e.column_scale);
  return packed;
}

class UniformMatrix final : public PackedMatrix {
 public:
  UniformMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        packed_(packed_view(uniform_view(encoding), [&](const auto& array) { return arrays_.add(context, array); })) {}

  std::int64_t size_bytes() const override { return arrays_.size_bytes(); }
  std::int64_t max_tokens() const override { return kernels::kMaxScalarTokens; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.uniform().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.uniform().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.uniform().decode_16(context.exec(), packed_, weight);
  }

 private:
  DeviceArrays arrays_;
  kernels::PackedUniform packed_;
};

class TunedUniformMatrix final : public TunedArrays {
 public:
  TunedUniformMatrix(backend::Context& context, const Encoding& encoding)
      : TunedArrays(context, encoding, {{"scale", ParameterKind::scale}}, {"codes"}),
        extents_(packed_extents(uniform_view(encoding))) {}

  void decode(backend::Context& context, const float* parameters, float* weight) const override {
    context.uniform().decode_tuned(context.exec(), packed(), parameters, weight);
  }
  void add_gradient(backend::Context& context, const float* /*parameters*/, const float* /*weight*/,
                    const float* d_weight, float* gradient) const override {
    context.uniform().gradient(context.exec(), packed(), d_weight, gradient);
  }
  std::int64_t recode(backend::Context& context, std::span<const float> parameters, std::span<const float> target,
                      double share) override {
    auto codes = on_host<std::uint32_t>("codes");
    const auto zeros = on_host<std::uint32_t>("zeros");
    const auto perm = on_host<std::uint16_t>("perm"), column_scale = on_host<std::uint16_t>("column_scale");
    kernels::PackedUniform packed = extents_;
    packed.codes = codes.data();
    packed.zeros = zeros.data();
    packed.perm = in_place(perm);
    packed.column_scale = in_place(column_scale);
    const std::int64_t n_changed =
        recode_uniform(context.pool(), packed, parameters.data(), target.data(), share, codes);
    set_fixed("codes", codes);
    return n_changed;
  }

 private:
  kernels::PackedUniform packed() const {
    kernels::PackedUniform packed = extents_;
    packed.codes = fixed<std::uint32_t>("codes");
    packed.zeros = fixed<std::uint32_t>("zeros");
    packed.perm = fixed<std::uint16_t>("perm");
    packed.column_scale = fixed<std::uint16_t>("column_scale");
    return packed;
  }

  kernels::PackedUniform extents_;  ///< without arrays
};

class UniformFormat final : public Format {
 public:
  std::string_view name() const override { return "uniform"; }
  FieldNames fields() const override { return field_names<UniformView>(); }
  std::string find_problem(const Encoding& encoding) const override {
    return find_encoding_problem<UniformView>(encoding);
  }
  double nominal_bits(const Encoding& encoding) const override {
    return static_cast<double>(uniform_view(encoding).bits);
  }
  double decoded_bound(const Encoding& encoding) const override {
    const UniformView e = uniform_view(encoding);
    return largest_magnitude(e.dtype, e.scale) * static_cast<double>((std::int64_t{1} << e.bits) - 1) *
           (e.column_scale.empty() ? 1.0 : largest_magnitude(e.dtype, e.column_scale));
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    core::ThreadPool alone(1);
    kernels::cpu().uniform.decode_f32({&alone, nullptr}, packed_view(uniform_view(encoding), in_place), weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<UniformMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TunedUniformMatrix>(context, encoding);
  }
};

}  // namespace

const Format& uniform_format() {
  static const UniformFormat format;
  return format;
}

Encoding to_encoding(const UniformEncoding& fields) { return make_encoding(uniform_format(), fields); }

UniformView uniform_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &uniform_format(), "the encoding is of another format");
  return view_of<UniformView>(encoding);
}

std::string find_extent_problem(const UniformExtents& e) {
  if (auto problem = matrix_problem(e.out_features, e.in_features, e.dtype); !problem.empty()) return problem;
  if (auto problem = range_problem("bits", e.bits, 1, kMaxBits); !problem.empty()) return problem;
  return range_problem("group_size", e.group_size, 1, kMaxFeatures);
}

std::string find_problem(const UniformView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  const UniformElements due = elements_due(e, !e.perm.empty(), !e.column_scale.empty());
  for (const std::string& problem :
       {size_problem("codes", e.codes.size(), due.codes), size_problem("scale", e.scale.size(), due.scale),
        size_problem("zeros", e.zeros.size(), due.zeros), perm_problem(e.perm, e.in_features),
        finite_problem("scale", e.dtype, e.scale), column_scale_problem(e.dtype, e.column_scale, e.in_features)})
    if (!problem.empty()) return problem;
  return {};
}

UniformElements elements_due(const UniformExtents& e, bool with_perm, bool with_column_scale) {
  const std::int64_t n_groups = core::ceil_div(e.in_features, e.group_size);
  UniformElements due;
  due.codes = e.out_features * core::packed_words(e.in_features, static_cast<int>(e.bits));
  due.zeros = e.out_features * core::packed_words(n_groups, static_cast<int>(e.bits));
  due.scale = e.out_features * n_groups;
  due.perm = with_perm ? e.in_features : 0;
  due.column_scale = with_column_scale ? e.in_features : 0;
  return due;
}

}  // namespace voronoi::format
