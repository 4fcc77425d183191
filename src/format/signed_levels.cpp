#include "format/signed_levels.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "core/packing.h"
#include "format/checks.h"
#include "format/device_arrays.h"
#include "format/scalar_recoding.h"
#include "format/tuned_arrays.h"

namespace voronoi::format {
namespace {

std::span<const float> levels_of_codes(const SignedLevelsExtents& e) { return levels_of(e.table, e.bits); }

kernels::PackedSignedLevels signed_extents(const SignedLevelsExtents& e) {
  kernels::PackedSignedLevels packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.bits = static_cast<int>(e.bits);
  packed.group_size = e.group_size;
  packed.dtype = e.dtype;
  return packed;
}

/// put(array) gives the address where the kernels are to read it; levels: those of the codes, there as well.
template <class Put>
kernels::PackedSignedLevels signed_view(const SignedLevelsView& e, const float* levels, const Put& put) {
  kernels::PackedSignedLevels packed = signed_extents(e);
  packed.levels = levels;
  packed.codes = put(e.codes);
  packed.scale = put(e.scale);
  packed.perm = put(e.perm);
  packed.column_scale = put(e.column_scale);
  return packed;
}

class SignedLevelsMatrix final : public PackedMatrix {
 public:
  SignedLevelsMatrix(backend::Context& context, const Encoding& encoding)
      : PackedMatrix(encoding),
        levels_(context, levels_of_codes(signed_levels_view(encoding))),
        packed_(signed_view(signed_levels_view(encoding), levels_.data(),
                            [&](const auto& array) { return arrays_.add(context, array); })) {}

  std::int64_t size_bytes() const override { return arrays_.size_bytes(); }
  std::int64_t max_tokens() const override { return kernels::kMaxScalarTokens; }
  void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                float* out) const override {
    context.signed_levels().fused_matmul(context.exec(), packed_, n_tokens, x, accumulate, out);
  }
  void decode_f32(backend::Context& context, float* weight) const override {
    context.signed_levels().decode_f32(context.exec(), packed_, weight);
  }
  void decode_16(backend::Context& context, std::uint16_t* weight) const override {
    context.signed_levels().decode_16(context.exec(), packed_, weight);
  }

 private:
  backend::Array<float> levels_;  // a few numbers, not counted
  DeviceArrays arrays_;
  kernels::PackedSignedLevels packed_;
};

/// Of all levels the first whose weight is the nearest: tuned scales may have any sign.
class NearestLevel {
 public:
  NearestLevel(std::span<const float> levels, const float* scale, std::int64_t n_groups)
      : levels_(levels), scale_(scale), n_groups_(n_groups) {}

  void start_row(std::int64_t row) { scales_ = scale_ + 2 * row * n_groups_; }
  NearestCode find(std::int64_t g, float factor, float target) const {
    const auto value_of = [&](std::size_t code) {
      return (levels_[code] < 0 ? scales_[2 * g + 1] : scales_[2 * g]) * levels_[code] * factor;
    };
    NearestCode best{0, value_of(0)};
    for (std::size_t code = 1; code < levels_.size(); ++code) {
      const float value = value_of(code);
      if (std::fabs(value - target) < std::fabs(best.value - target)) best = {static_cast<std::uint32_t>(code), value};
    }
    return best;
  }

 private:
  std::span<const float> levels_;
  const float* scale_;
  std::int64_t n_groups_;
  const float* scales_ = nullptr;  // of the row
};

class TunedSignedLevels final : public TunedArrays {
 public:
  TunedSignedLevels(backend::Context& context, const Encoding& encoding)
      : TunedArrays(context, encoding, {{"scale", ParameterKind::scale}}, {"codes"}),
        extents_(signed_levels_view(encoding)),
        levels_(context, levels_of_codes(extents_)) {}

  void decode(backend::Context& context, const float* parameters, float* weight) const override {
    context.signed_levels().decode_tuned(context.exec(), packed(), parameters, weight);
  }
  void add_gradient(backend::Context& context, const float* /*parameters*/, const float* /*weight*/,
                    const float* d_weight, float* gradient) const override {
    context.signed_levels().gradient(context.exec(), packed(), d_weight, gradient);
  }
  std::int64_t recode(backend::Context& context, std::span<const float> parameters, std::span<const float> target,
                      double share) override {
    auto codes = on_host<std::uint32_t>("codes");
    const auto perm = on_host<std::uint16_t>("perm"), column_scale = on_host<std::uint16_t>("column_scale");
    const std::span<const float> levels = levels_of_codes(extents_);
    kernels::PackedSignedLevels host = signed_extents(extents_);
    host.levels = levels.data();
    host.codes = codes.data();
    host.perm = in_place(perm);
    host.column_scale = in_place(column_scale);
    std::vector<float> decoded(target.size());
    kernels::cpu().signed_levels.decode_tuned({&context.pool(), nullptr}, host, parameters.data(), decoded.data());
    const NearestLevel nearest(levels, parameters.data(), core::ceil_div(extents_.in_features, extents_.group_size));
    const std::int64_t n_changed = recode_scalars(host, std::move(decoded), target.data(), share, nearest, codes);
    set_fixed("codes", codes);
    return n_changed;
  }

 private:
  kernels::PackedSignedLevels packed() const {
    kernels::PackedSignedLevels packed = signed_extents(extents_);
    packed.levels = levels_.data();
    packed.codes = fixed<std::uint32_t>("codes");
    packed.perm = fixed<std::uint16_t>("perm");
    packed.column_scale = fixed<std::uint16_t>("column_scale");
    return packed;
  }

  SignedLevelsExtents extents_;
  backend::Array<float> levels_;  // of the codes, on the device
};

class SignedLevelsFormat final : public Format {
 public:
  std::string_view name() const override { return "signed_levels"; }
  FieldNames fields() const override { return field_names<SignedLevelsView>(); }
  std::string find_problem(const Encoding& encoding) const override {
    return find_encoding_problem<SignedLevelsView>(encoding);
  }
  double nominal_bits(const Encoding& encoding) const override {
    return static_cast<double>(signed_levels_view(encoding).bits);
  }
  double decoded_bound(const Encoding& encoding) const override {
    const SignedLevelsView e = signed_levels_view(encoding);
    float largest = 0;
    for (const float level : levels_of_codes(e)) largest = std::max(largest, std::fabs(level));
    return largest_magnitude(e.dtype, e.scale) * static_cast<double>(largest) *
           (e.column_scale.empty() ? 1.0 : largest_magnitude(e.dtype, e.column_scale));
  }
  void decode(const Encoding& encoding, std::span<float> weight) const override {
    core::ThreadPool alone(1);
    const SignedLevelsView e = signed_levels_view(encoding);
    kernels::cpu().signed_levels.decode_f32({&alone, nullptr}, signed_view(e, levels_of_codes(e).data(), in_place),
                                            weight.data());
  }
  std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<SignedLevelsMatrix>(context, encoding);
  }
  std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const override {
    return std::make_unique<TunedSignedLevels>(context, encoding);
  }
};

}  // namespace

const Format& signed_levels_format() {
  static const SignedLevelsFormat format;
  return format;
}

Encoding to_encoding(const SignedLevelsEncoding& fields) { return make_encoding(signed_levels_format(), fields); }

SignedLevelsView signed_levels_view(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format == &signed_levels_format(), "the encoding is of another format");
  return view_of<SignedLevelsView>(encoding);
}

std::string find_extent_problem(const SignedLevelsExtents& e) {
  if (auto problem = matrix_problem(e.out_features, e.in_features, e.dtype); !problem.empty()) return problem;
  if (auto problem = range_problem("group_size", e.group_size, 1, kMaxFeatures); !problem.empty()) return problem;
  if (!levels_of_codes(e).empty()) return {};
  return "table is " + std::to_string(e.table) + " with bits " + std::to_string(e.bits) + ", which has no levels";
}

std::string find_problem(const SignedLevelsView& e) {
  if (auto problem = find_extent_problem(e); !problem.empty()) return problem;
  const SignedLevelsElements due = elements_due(e, !e.perm.empty(), !e.column_scale.empty());
  for (const std::string& problem :
       {size_problem("codes", e.codes.size(), due.codes), size_problem("scale", e.scale.size(), due.scale),
        perm_problem(e.perm, e.in_features), finite_problem("scale", e.dtype, e.scale),
        column_scale_problem(e.dtype, e.column_scale, e.in_features)})
    if (!problem.empty()) return problem;
  return {};
}

SignedLevelsElements elements_due(const SignedLevelsExtents& e, bool with_perm, bool with_column_scale) {
  SignedLevelsElements due;
  due.codes = e.out_features * core::packed_words(e.in_features, static_cast<int>(e.bits));
  due.scale = 2 * e.out_features * core::ceil_div(e.in_features, e.group_size);
  due.perm = with_perm ? e.in_features : 0;
  due.column_scale = with_column_scale ? e.in_features : 0;
  return due;
}

}  // namespace voronoi::format
