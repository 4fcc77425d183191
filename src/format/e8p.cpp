#include "format/e8p.h"

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

/// |v|^2 <= 12 of an entry, and each coordinate moved by 1/4: at most sqrt(12) + sqrt(8) / 4.
constexpr double kE8pNorm = 4.2, kE8Norm = 2;

/// Of the arrays where kernels are to read them: put(array) gives the address.
template <class Put>
kernels::PackedE8p packed_e8p(const E8pView& e, const Put& put) {
  kernels::PackedE8p packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.dtype = e.dtype;
  packed.scale = e.scale.front();
  packed.codes = put(e.codes);
  packed.e8_residual = put(e.e8_residual);
  packed.e8p_residual = put(e.e8p_residual);
  packed.in = put_rotation(e.in_features, e.in_signs, put);
  packed.out = put_rotation(e.out_features, e.out_signs, put);
  return packed;
}

class E8pMatrix final : public PackedMatrix {
 public:
  E8pMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        packed_(packed_e8p(e8p_view(encoding), [&](const auto& array) { return arrays_.add(context, array); })) {
    RotatedParts(e8p_view(encoding)).place(packed_, [&](const auto& values) { return parts_.add(context, values); });
  }

  std::int64_t size_bytes() const override {
    return arrays_.size_bytes() + parts_.size_bytes() + std::int64_t{sizeof packed_.scale};
  }
  std::int64_t max_tokens() const override { return kernels::kMaxE8pTokens; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.e8p().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.e8p().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.e8p().decode_16(context.exec(), packed_, weight);
  }

 private:
  DeviceArrays arrays_, parts_;
  kernels::PackedE8p packed_;
};

/// Of TunedRotated.
struct E8pForm {
  using Extents = E8pExtents;
  using View = E8pView;
  static View view(const Encoding& encoding) { return e8p_view(encoding); }
  template <class Put>
  static kernels::PackedE8p packed(const View& e, const Put& put) {
    return packed_e8p(e, put);
  }
  static void decode(backend::Context& context, const kernels::PackedE8p& packed, float* weight) {
    context.e8p().decode_f32(context.exec(), packed, weight);
  }
};

class E8pFormat final : public Format {
 public:
  std::string_view name() const override { return "e8p"; }
  FieldNames fields() const override { return field_names<E8pView>(); }
  std::string find_problem(const Encoding& encoding) const override { return find_encoding_problem<E8pView>(encoding); }
  double nominal_bits(const Encoding& encoding) const override { return static_cast<double>(e8p_view(encoding).bits); }
  /// The norm of all of Q, times the largest factors: no turn makes an element larger.
  double decoded_bound(const Encoding& encoding) const override {
    const E8pView e = e8p_view(encoding);
    double norm = kE8pNorm;
    if (e.bits == 3) norm += kE8Norm * static_cast<double>(kernels::e8p::kE8Step);
    if (e.bits == 4) norm += kE8pNorm * static_cast<double>(kernels::e8p::kE8pStep);
    return norm * static_cast<double>(e.scale.front()) * largest_factor(e.in_factor) * largest_factor(e.out_factor) *
           std::sqrt(static_cast<double>(e.out_features) * static_cast<double>(e.n_groups()));
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    const E8pView e = e8p_view(encoding);
    kernels::PackedE8p packed = packed_e8p(e, in_place);
    const RotatedParts parts(e);
    parts.place(packed, in_place);
    core::ThreadPool alone(1);
    kernels::cpu().e8p.decode_f32({&alone, nullptr}, packed, weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<E8pMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TunedRotated<E8pForm>>(
        context, encoding, std::initializer_list<std::string_view>{"codes", "e8_residual", "e8p_residual"});
  }
};

}  // namespace

const Format& e8p_format() {
  static const E8pFormat format;
  return format;
}

Encoding to_encoding(const E8pEncoding& fields) { return make_encoding(e8p_format(), fields); }

E8pView e8p_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &e8p_format(), "the encoding is of another format");
  return view_of<E8pView>(encoding);
}

std::string find_extent_problem(const E8pExtents& e) {
  if (auto problem = matrix_problem(e.out_features, e.in_features, e.dtype); !problem.empty()) return problem;
  return range_problem("bits", e.bits, 2, 4);
}

std::string find_problem(const E8pView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  const E8pElements due = elements_due(e);
  for (const std::string& problem :
       {size_problem("codes", e.codes.size(), due.codes),
        size_problem("e8_residual", e.e8_residual.size(), due.e8_residual),
        size_problem("e8p_residual", e.e8p_residual.size(), due.e8p_residual),
        size_problem("scale", e.scale.size(), due.scale), signs_problem("in_signs", e.in_features, e.in_signs),
        signs_problem("out_signs", e.out_features, e.out_signs)})
    if (!problem.empty()) return problem;
  return scale_problem(e.scale.front());
}

E8pElements elements_due(const E8pExtents& e) {
  E8pElements due;
  due.codes = e.out_features * e.n_groups();
  due.e8_residual = e.bits == 3 ? due.codes : 0;
  due.e8p_residual = e.bits == 4 ? due.codes : 0;
  due.in_signs = sign_words(e.in_features);
  due.out_signs = sign_words(e.out_features);
  return due;
}

}  // namespace voronoi::format
