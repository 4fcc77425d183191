// The tuned matrices of the formats whose matrices stand between two rotations: the codes stay, and a factor an input
// and one an output move, to which the signs of both sides are relaxed (QuIP#, arXiv 2402.04396, section 5; QTIP).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <type_traits>

#include "core/error.h"
#include "core/types.h"
#include "format/device_arrays.h"
#include "format/rotated.h"
#include "format/tuned_arrays.h"

namespace voronoi::format {

inline constexpr std::string_view kInFactor = "in_factor", kOutFactor = "out_factor";

/// The encoding with factors of both sides, ones where it has none.
Encoding with_factors(const Encoding& encoding);
/// The encoding without those of its sides whose factors are all 1: as it is before any has moved.
Encoding without_idle_factors(Encoding encoding);

/// Form: the format's View and Packed, view(encoding), packed(view, put), decode(context, packed, weight).
template <class Form>
class TunedRotated final : public TunedArrays {
 public:
  /// codes: as TunedArrays takes them.
  TunedRotated(backend::Context& context, const Encoding& encoding, std::initializer_list<std::string_view> codes)
      : TunedArrays(context, with_factors(encoding),
                    {{kInFactor, ParameterKind::factor}, {kOutFactor, ParameterKind::factor}}, codes) {
    const auto view = Form::view(encoding);
    extents_ = view;
    scale_ = view.scale.front();
    const RotatedParts parts(view);
    in_matrix_ = matrices_.add<std::uint32_t>(context, parts.in_matrix);
    out_matrix_ = matrices_.add<std::uint32_t>(context, parts.out_matrix);
  }

  Encoding rounded(std::span<const float> parameters) const override {
    return without_idle_factors(TunedArrays::rounded(parameters));
  }
  void decode(backend::Context& context, const float* parameters, float* weight) const override {
    auto packed = Form::packed(placed(), in_place);
    packed.in.factor = in_matrix_;
    packed.out.factor = out_matrix_;
    packed.factors = factors(parameters);
    Form::decode(context, packed, weight);
  }
  void add_gradient(backend::Context& context, const float* parameters, const float* weight, const float* d_weight,
                    float* gradient) const override {
    context.rotation().factor_gradient(context.exec(), extents_.out_features, extents_.in_features, factors(parameters),
                                       weight, d_weight, part_of(gradient, kInFactor), part_of(gradient, kOutFactor));
  }
  /// No code can be searched without those beside it.
  bool can_recode() const override { return false; }
  std::int64_t recode(backend::Context& /*context*/, std::span<const float> /*parameters*/,
                      std::span<const float> /*target*/, double /*share*/) override {
    throw core::InternalError("codes between rotations are not moved");
  }

 private:
  kernels::SideFactors factors(const float* parameters) const {
    return {part_of(parameters, kInFactor), part_of(parameters, kOutFactor)};
  }

  /// The fields as they lie on the device now, the scale on the host.
  typename Form::View placed() const {
    typename Form::View view;
    static_cast<typename Form::Extents&>(view) = extents_;
    Form::View::for_each_array(view, [this](const char* name, auto& member, core::DType, const auto&) {
      using Element = std::remove_const_t<typename std::remove_reference_t<decltype(member)>::element_type>;
      member = this->template fixed_values<Element>(name);
    });
    view.scale = {&scale_, 1};
    return view;
  }

  typename Form::Extents extents_;
  float scale_ = 0;
  DeviceArrays matrices_;
  const std::uint32_t *in_matrix_ = nullptr, *out_matrix_ = nullptr;
};

}  // namespace voronoi::format
