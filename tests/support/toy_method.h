// A method that stands in no registry: what a newcomer needs is this file alone. Every weight goes to one of `levels`
// equal steps a row; the columns are turned by one place, and `ridge` is added to the Hessian's diagonal.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/packing.h"
#include "format/uniform.h"
#include "quant/baselines/uniform.h"
#include "quant/method.h"

namespace voronoi::test {

struct ToyParameters {
  std::int64_t levels = 4;
  double ridge = 0;
};

/// y_i = x_(i + 1), the first input last.
class Turn final : public quant::InputRotation {
 public:
  void apply(core::ThreadPool& /*pool*/, std::int64_t rows, std::span<float> vectors) const override {
    const std::size_t n = vectors.size() / static_cast<std::size_t>(rows);
    for (auto row = vectors.begin(); row != vectors.end(); row += static_cast<std::ptrdiff_t>(n))
      std::rotate(row, row + 1, row + static_cast<std::ptrdiff_t>(n));
  }
};

class Toy : public quant::Method {
 public:
  std::string_view name() const override { return "toy"; }
  std::string_view summary() const override { return "equal steps"; }
  const std::vector<quant::Parameter>& parameters() const override {
    static const std::vector<quant::Parameter> parameters{
        quant::power_of_two_parameter("levels", "steps of a row's range", &ToyParameters::levels, 256),
        quant::number_parameter("ridge", "added to the Hessian's diagonal", &ToyParameters::ridge, 0, 1e6)};
    return parameters;
  }
  void check(const quant::QuantParameters& p, quant::Problems& problems) const override {
    if (toy(p).levels == 2 && p.act_order) problems.emplace_back("--levels 2 with --act-order true: use false");
  }
  void check_shape(const quant::QuantParameters& /*p*/, std::int64_t out, std::int64_t in,
                   quant::Problems& problems) const override {
    if (in > 65536) problems.push_back("a layer " + core::to_string({out, in}) + " is too wide for toys");
  }
  std::string setting(const quant::QuantParameters& p) const override {
    return std::to_string(toy(p).levels) + " levels";
  }
  quant::StoredBits stored_bits(const quant::QuantParameters& p, std::int64_t out, std::int64_t in) const override {
    format::UniformExtents extents;
    extents.out_features = out;
    extents.in_features = extents.group_size = in;
    extents.bits = bits(p);
    const format::UniformElements due = elements_due(extents, true);
    return {32 * due.codes, 0, 32 * due.zeros + 16 * due.scale, 16 * due.perm};
  }
  double nominal_bits(const quant::QuantParameters& p) const override { return bits(p); }

  std::vector<std::string> chosen_by_bits() const override { return {"levels"}; }
  std::optional<quant::QuantParameters> choose_setting(const quant::QuantParameters& base, double wanted,
                                                       std::span<const quant::LayerCount> layers) const override {
    std::optional<quant::QuantParameters> best;
    for (quant::QuantParameters p = base; toy(p).levels <= 256; p.get<ToyParameters>().levels *= 2)
      if (quant::true_bits(p, layers) <= wanted * (1 + quant::kBitsMargin)) best = p;
    return best;
  }

  quant::OperatorWork work(const quant::QuantParameters& /*p*/, std::int64_t out, std::int64_t in) const override {
    quant::OperatorWork work;
    work.column_loop = quant::product_work(out, in, 2);
    work.exchange_bytes = static_cast<double>(out) * static_cast<double>(in);
    work.row_pieces = core::ceil_div(out, quant::kRowTile);
    return work;
  }
  void consider_memory(const quant::QuantParameters& /*p*/, const quant::OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    peak.consider(r.held_bytes + 100 * r.out_features * r.in_features, "the toys of " + r.name);
  }

  struct State final : quant::SiteState {
    std::string site;
    std::vector<float> sums;  ///< of each linear's weights
  };
  bool changes_site(const quant::QuantParameters& /*p*/) const override { return true; }
  std::unique_ptr<quant::SiteState> prepare_site(backend::Context& /*context*/, core::Team& /*team*/,
                                                 quant::SiteInput& site,
                                                 const quant::QuantParameters& p) const override {
    auto state = std::make_unique<State>();
    state->site = site.name;
    for (const quant::SiteLinear& linear : site.linears) {
      state->sums.push_back(0);
      for (const float weight : site.read_weight(linear)) state->sums.back() += weight;
    }
    for (std::int64_t i = 0; i < site.in_features && !site.hessian.empty(); ++i)
      site.hessian[static_cast<std::size_t>(i * (i + 3) / 2)] += static_cast<float>(toy(p).ridge);
    state->rotation = std::make_unique<Turn>();
    return state;
  }

  quant::QuantResult quantize(backend::Context& context, core::Team& team, const quant::QuantInput& input,
                              const quant::QuantParameters& p) const override {
    quant::check_input(input);
    const bool turned = input.site != nullptr && input.site->rotation != nullptr;
    const quant::RowRange range = quant::team_rows(team, input.out_features);
    const std::int64_t in = input.in_features;
    const auto most = static_cast<float>(toy(p).levels - 1);
    quant::UniformCodes codes(0, in, in);
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      const auto weight = input.weight.subspan(static_cast<std::size_t>(row * in), static_cast<std::size_t>(in));
      const auto [low, high] = std::ranges::minmax(weight);
      const auto grid = quant::UniformGrid::fit(low, high, most, input.stored_dtype);
      codes.scale.push_back(grid.scale);
      codes.zeros.push_back(static_cast<std::uint16_t>(grid.zero));
      for (const float value : weight) codes.codes.push_back(static_cast<std::uint16_t>(grid.code(value, most)));
    }
    std::vector<std::uint16_t> perm;  // undoes the turn where the layer is decoded
    for (std::int64_t i = 0; i < in; ++i) perm.push_back(static_cast<std::uint16_t>(turned ? (i + 1) % in : i));
    quant::QuantResult result;
    result.encoding = format::to_encoding(quant::gather_encoding(team, input, bits(p), in, perm, codes));
    std::vector<float> decoded(input.weight.size());
    format::decode(result.encoding, decoded);
    if (turned) input.site->rotation->apply(context.pool(), input.out_features, decoded);
    result.relative_error =
        quant::relative_hessian_error(context, input.out_features, in, input.weight, decoded, input.hessian->h);
    if (const auto* state = dynamic_cast<const State*>(input.site))
      result.statistics["linears_of_the_site"] = static_cast<double>(state->sums.size());
    return result;
  }

 private:
  static const ToyParameters& toy(const quant::QuantParameters& p) { return p.get<ToyParameters>(); }
  static int bits(const quant::QuantParameters& p) { return core::index_bits(toy(p).levels); }
};

}  // namespace voronoi::test
