#include "format/aqlm.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "format/aqlm_recoding.h"
#include "format/checks.h"
#include "format/device_arrays.h"
#include "format/tuned_arrays.h"

namespace voronoi::format {
namespace {

constexpr std::int64_t kMostCodebooks = 16, kMostCodeBits = 16, kLongestGroup = 1024;
constexpr std::int64_t kNarrowCodeBits = 8;

/// Without arrays.
kernels::PackedAqlm packed_extents(const AqlmExtents& e) {
  kernels::PackedAqlm packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.codebooks = e.codebooks;
  packed.code_bits = static_cast<int>(e.code_bits);
  packed.group = e.in_group;
  packed.dtype = e.dtype;
  return packed;
}

/// put(array) gives the address where the kernels are to read it.
template <class Put>
kernels::PackedAqlm packed_view(const AqlmView& e, const Put& put) {
  kernels::PackedAqlm packed = packed_extents(e);
  packed.codes8 = put(e.codes8);
  packed.codes16 = put(e.codes16);
  packed.codebook = put(e.codebook);
  packed.scale = put(e.scale);
  return packed;
}

class AqlmMatrix final : public PackedMatrix {
 public:
  AqlmMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        packed_(packed_view(aqlm_view(encoding), [&](const auto& array) { return arrays_.add(context, array); })) {}

  std::int64_t size_bytes() const override { return arrays_.size_bytes(); }
  std::int64_t max_tokens() const override { return kernels::kMaxAqlmTokens; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.aqlm().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.aqlm().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.aqlm().decode_16(context.exec(), packed_, weight);
  }

 private:
  DeviceArrays arrays_;
  kernels::PackedAqlm packed_;
};

class TunedAqlmMatrix final : public TunedArrays {
 public:
  TunedAqlmMatrix(backend::Context& context, const Encoding& encoding)
      : TunedArrays(context, encoding, {{"codebook", ParameterKind::codebook}, {"scale", ParameterKind::scale}},
                    {"codes8", "codes16"}),
        extents_(packed_extents(aqlm_view(encoding))) {}

  void decode(backend::Context& context, const float* parameters, float* weight) const override {
    context.aqlm().decode_tuned(context.exec(), numbers(parameters), weight);
  }
  void add_gradient(backend::Context& context, const float* parameters, const float* /*weight*/, const float* d_weight,
                    float* gradient) const override {
    context.aqlm().gradient(context.exec(), numbers(parameters), d_weight, part_of(gradient, "codebook"),
                            part_of(gradient, "scale"));
  }
  std::int64_t recode(backend::Context& context, std::span<const float> parameters, std::span<const float> target,
                      double share) override {
    auto codes8 = on_host<std::uint8_t>("codes8");
    auto codes16 = on_host<std::uint16_t>("codes16");
    kernels::TunedAqlm tuned = numbers(parameters.data());
    tuned.packed.codes8 = codes8.empty() ? nullptr : codes8.data();
    tuned.packed.codes16 = codes16.empty() ? nullptr : codes16.data();
    const std::int64_t n_changed = recode_aqlm(context.pool(), tuned, target.data(), share, codes8, codes16);
    set_fixed("codes8", codes8);
    set_fixed("codes16", codes16);
    return n_changed;
  }

 private:
  kernels::TunedAqlm numbers(const float* parameters) const {
    kernels::PackedAqlm packed = extents_;
    packed.codes8 = fixed<std::uint8_t>("codes8");
    packed.codes16 = fixed<std::uint16_t>("codes16");
    return {packed, part_of(parameters, "codebook"), part_of(parameters, "scale")};
  }

  kernels::PackedAqlm extents_;  ///< without arrays
};

class AqlmFormat final : public Format {
 public:
  std::string_view name() const override { return "aqlm"; }
  FieldNames fields() const override { return field_names<AqlmView>(); }
  std::string find_problem(const Encoding& encoding) const override {
    return find_encoding_problem<AqlmView>(encoding);
  }
  double nominal_bits(const Encoding& encoding) const override { return format::nominal_bits(aqlm_view(encoding)); }
  double decoded_bound(const Encoding& encoding) const override {
    const AqlmView e = aqlm_view(encoding);
    const std::size_t book_size = e.codebook.size() / static_cast<std::size_t>(e.codebooks);
    double sum = 0;
    for (std::size_t first = 0; first < e.codebook.size(); first += book_size)
      sum += largest_magnitude(e.dtype, e.codebook.subspan(first, book_size));
    // A rounding a codebook.
    return sum * largest_magnitude(e.dtype, e.scale) * (1 + 0x1p-18);
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    core::ThreadPool alone(1);
    kernels::cpu().aqlm.decode_f32({&alone, nullptr}, packed_view(aqlm_view(encoding), in_place), weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<AqlmMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TunedAqlmMatrix>(context, encoding);
  }
};

}  // namespace

const Format& aqlm_format() {
  static const AqlmFormat format;
  return format;
}

Encoding to_encoding(const AqlmEncoding& fields) { return make_encoding(aqlm_format(), fields); }

AqlmView aqlm_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &aqlm_format(), "the encoding is of another format");
  return view_of<AqlmView>(encoding);
}

std::string find_extent_problem(const AqlmExtents& e) {
  if (auto problem = matrix_problem(e.out_features, e.in_features, e.dtype); !problem.empty()) return problem;
  if (auto problem = range_problem("codebooks", e.codebooks, 1, kMostCodebooks); !problem.empty()) return problem;
  if (auto problem = range_problem("code_bits", e.code_bits, 1, kMostCodeBits); !problem.empty()) return problem;
  if (auto problem = range_problem("in_group", e.in_group, 1, kLongestGroup); !problem.empty()) return problem;
  if (e.in_features % e.in_group != 0)
    return "in_features is " + std::to_string(e.in_features) + ", no multiple of in_group, " +
           std::to_string(e.in_group);
  return {};
}

std::string find_problem(const AqlmView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  const AqlmElements due = elements_due(e);
  for (const std::string& problem :
       {size_problem("codes8", e.codes8.size(), due.codes8), size_problem("codes16", e.codes16.size(), due.codes16),
        size_problem("codebook", e.codebook.size(), due.codebook), size_problem("scale", e.scale.size(), due.scale),
        finite_problem("codebook", e.dtype, e.codebook), finite_problem("scale", e.dtype, e.scale)})
    if (!problem.empty()) return problem;
  return {};
}

double nominal_bits(const AqlmExtents& e) {
  return static_cast<double>(e.codebooks * e.code_bits) / static_cast<double>(e.in_group);
}

std::uint16_t stored_code(std::int64_t code_bits, std::uint32_t code) {
  const std::uint32_t high = 1U << (code_bits - 1);
  return static_cast<std::uint16_t>((code ^ high) - high);
}

AqlmElements elements_due(const AqlmExtents& e) {
  AqlmElements due;
  (e.code_bits <= kNarrowCodeBits ? due.codes8 : due.codes16) = e.out_features * e.groups() * e.codebooks;
  due.codebook = e.codebooks * e.centroids() * e.in_group;
  due.scale = e.out_features;
  return due;
}

}  // namespace voronoi::format
