#include "format/trellis.h"

#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "core/error.h"
#include "format/checks.h"
#include "format/device_arrays.h"
#include "format/hadamard.h"
#include "format/rotated.h"
#include "format/tuned_rotated.h"

namespace voronoi::format {
namespace {

/// No state of any code is above it.
constexpr double kLargestState = 4;

/// Of the arrays where kernels are to read them: put(array) gives the address.
template <class Put>
kernels::PackedTrellis packed_trellis(const TrellisView& e, const Put& put) {
  kernels::PackedTrellis packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.dtype = e.dtype;
  packed.scale = e.scale.front();
  packed.bits = static_cast<int>(e.bits);
  packed.state_bits = static_cast<int>(e.state_bits);
  packed.code = static_cast<kernels::TrellisCode>(e.code);
  packed.codes = put(e.codes);
  packed.in = put_rotation(e.in_features, e.in_signs, put);
  packed.out = put_rotation(e.out_features, e.out_signs, put);
  return packed;
}

class TrellisMatrix final : public PackedMatrix {
 public:
  TrellisMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        packed_(
            packed_trellis(trellis_view(encoding), [&](const auto& array) { return arrays_.add(context, array); })) {
    RotatedParts(trellis_view(encoding)).place(packed_, [&](const auto& values) {
      return parts_.add(context, values);
    });
  }

  std::int64_t size_bytes() const override {
    return arrays_.size_bytes() + parts_.size_bytes() + std::int64_t{sizeof packed_.scale};
  }
  std::int64_t max_tokens() const override { return kernels::kMaxTrellisTokens; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.trellis().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.trellis().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.trellis().decode_16(context.exec(), packed_, weight);
  }

 private:
  DeviceArrays arrays_, parts_;
  kernels::PackedTrellis packed_;
};

/// Of TunedRotated.
struct TrellisForm {
  using Extents = TrellisExtents;
  using View = TrellisView;
  static View view(const Encoding& encoding) { return trellis_view(encoding); }
  template <class Put>
  static kernels::PackedTrellis packed(const View& e, const Put& put) {
    return packed_trellis(e, put);
  }
  static void decode(backend::Context& context, const kernels::PackedTrellis& packed, float* weight) {
    context.trellis().decode_f32(context.exec(), packed, weight);
  }
};

class TrellisFormat final : public Format {
 public:
  std::string_view name() const override { return "trellis"; }
  FieldNames fields() const override { return field_names<TrellisView>(); }
  std::string find_problem(const Encoding& encoding) const override {
    return find_encoding_problem<TrellisView>(encoding);
  }
  double nominal_bits(const Encoding& encoding) const override {
    return static_cast<double>(trellis_view(encoding).bits);
  }
  /// The norm of all of Q, times the largest factors: no turn makes an element larger.
  double decoded_bound(const Encoding& encoding) const override {
    const TrellisView e = trellis_view(encoding);
    return kLargestState * static_cast<double>(e.scale.front()) * largest_factor(e.in_factor) *
           largest_factor(e.out_factor) *
           std::sqrt(static_cast<double>(e.out_features) * static_cast<double>(e.in_features));
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    const TrellisView e = trellis_view(encoding);
    kernels::PackedTrellis packed = packed_trellis(e, in_place);
    const RotatedParts parts(e);
    parts.place(packed, in_place);
    core::ThreadPool alone(1);
    kernels::cpu().trellis.decode_f32({&alone, nullptr}, packed, weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TrellisMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TunedRotated<TrellisForm>>(context, encoding,
                                                       std::initializer_list<std::string_view>{"codes"});
  }
};

}  // namespace

const Format& trellis_format() {
  static const TrellisFormat format;
  return format;
}

Encoding to_encoding(const TrellisEncoding& fields) { return make_encoding(trellis_format(), fields); }

TrellisView trellis_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &trellis_format(), "the encoding is of another format");
  return view_of<TrellisView>(encoding);
}

std::string find_extent_problem(const TrellisExtents& e) {
  for (const std::string& problem :
       {matrix_problem(e.out_features, e.in_features, e.dtype),
        range_problem("bits", e.bits, 1, kernels::kMostTrellisBits),
        range_problem("state_bits", e.state_bits, kernels::kLeastStateBits, kernels::kMostStateBits),
        range_problem("code", e.code, 0, kernels::kTrellisCodes - 1)})
    if (!problem.empty()) return problem;
  return {};
}

std::string find_problem(const TrellisView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  const TrellisElements due = elements_due(e);
  for (const std::string& problem :
       {size_problem("codes", e.codes.size(), due.codes), size_problem("scale", e.scale.size(), due.scale),
        factor_problem("in_factor", e.in_features, e.in_factor),
        factor_problem("out_factor", e.out_features, e.out_factor),
        signs_problem("in_signs", e.in_features, e.in_signs), signs_problem("out_signs", e.out_features, e.out_signs)})
    if (!problem.empty()) return problem;
  return scale_problem(e.scale.front());
}

TrellisElements elements_due(const TrellisExtents& e) {
  TrellisElements due;
  due.codes = e.units() * e.in_features * e.bits;
  due.in_signs = sign_words(e.in_features);
  due.out_signs = sign_words(e.out_features);
  return due;
}

}  // namespace voronoi::format
