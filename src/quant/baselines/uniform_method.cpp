#include "quant/baselines/uniform_method.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/types.h"
#include "format/uniform.h"
#include "quant/baselines/uniform.h"

namespace voronoi::quant {
namespace {

constexpr int kMostWholeBits = 8;

}  // namespace

const std::vector<Parameter>& UniformMethod::parameters() const {
  static const std::vector<Parameter> parameters{
      integer_parameter("bits", "bits a weight", &UniformParameters::bits, 1, kMostWholeBits),
      integer_parameter("group-size", "columns that share a scale; 0 for whole rows", &UniformParameters::group_size,
                        std::int64_t{0}, std::int64_t{1} << 20)};
  return parameters;
}

std::string UniformMethod::setting(const QuantParameters& parameters) const {
  const auto& p = parameters.get<UniformParameters>();
  return fmt::format("{} bits, {}", p.bits,
                     p.group_size > 0 ? fmt::format("groups of {}", p.group_size) : "whole rows");
}

StoredBits UniformMethod::stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                                      std::int64_t in_features) const {
  const auto& p = parameters.get<UniformParameters>();
  format::UniformExtents extents;
  extents.out_features = out_features;
  extents.in_features = in_features;
  extents.bits = p.bits;
  extents.group_size = effective_group_size(p.group_size, in_features);
  const format::UniformElements due = elements_due(extents, stores_order(parameters));
  StoredBits stored;
  stored.indices = 32 * due.codes;
  stored.scales = 32 * due.zeros + 16 * due.scale;
  stored.permutation = 16 * due.perm;
  return stored;
}

double UniformMethod::nominal_bits(const QuantParameters& parameters) const {
  return parameters.get<UniformParameters>().bits;
}

std::optional<UniformLayout> UniformMethod::uniform_layout(const QuantParameters& parameters) const {
  const auto& p = parameters.get<UniformParameters>();
  return UniformLayout{p.bits, std::max<std::int64_t>(p.group_size, 0), stores_order(parameters)};
}

std::vector<QuantParameters> settings_of_bits(const QuantParameters& base, int least, int most,
                                              std::span<const LayerCount> layers) {
  std::vector<QuantParameters> settings;
  QuantParameters parameters = base;
  for (int bits = least; bits <= most; ++bits) {
    parameters.get<UniformParameters>().bits = bits;
    if (std::all_of(layers.begin(), layers.end(), [&](const LayerCount& layer) {
          return quant::check_shape(parameters, layer.out_features, layer.in_features).empty();
        }))
      settings.push_back(parameters);
  }
  return settings;
}

std::vector<QuantParameters> UniformMethod::settings(const QuantParameters& base,
                                                     std::span<const LayerCount> layers) const {
  return settings_of_bits(base, divided_bits().first, divided_bits().second, layers);
}

std::optional<QuantParameters> UniformMethod::choose_setting(const QuantParameters& base, double wanted,
                                                             std::span<const LayerCount> layers) const {
  return last_within(settings(base, layers), wanted, layers);
}

std::optional<double> UniformMethod::least_true_bits(const QuantParameters& base,
                                                     std::span<const LayerCount> layers) const {
  const std::vector<QuantParameters> all = settings(base, layers);
  return all.empty() ? std::nullopt : std::optional(true_bits(all.front(), layers));
}

double UniformMethod::expected_error(const QuantParameters& parameters) const {
  return std::pow((1 << parameters.get<UniformParameters>().bits) - 1, -2.0);
}

OperatorWork UniformMethod::work(const QuantParameters& parameters, std::int64_t out_features,
                                 std::int64_t in_features) const {
  const double weights = static_cast<double>(out_features) * static_cast<double>(in_features);
  OperatorWork work;
  work.column_loop = product_work(out_features, in_features, products());
  // Rounding, packing and decoding pass over the weights.
  work.column_loop.bytes += 60 * weights;
  work.exchange_bytes = weights * parameters.get<UniformParameters>().bits / 8 + energy_bytes(out_features);
  work.row_pieces = core::ceil_div(out_features, kRowTile);
  return work;
}

std::int64_t UniformMethod::code_bytes(const QuantParameters& parameters, const OperatorOnRank& r) const {
  const std::int64_t group_size = effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features);
  const std::int64_t groups = core::ceil_div(r.in_features, group_size);
  return 2 * core::ceil_div(r.out_features * r.in_features, std::int64_t{r.team_size}) +
         grid_bytes() * r.out_features * groups / r.team_size;
}

void UniformMethod::consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                                    core::MemoryPeak& peak) const {
  const std::int64_t codes = code_bytes(parameters, r),
                     stored = stored_bits(parameters, r.out_features, r.in_features).total() / 8;
  peak.consider(r.held_bytes + codes + 4 * stored, "packing of " + r.name);
  // Tile and product hold weight above difference, on the device and on the host.
  peak.consider(
      r.held_bytes + codes + stored + 4 * r.out_features * r.in_features + 16 * 2 * kErrorRows * r.in_features,
      "error of " + r.name);
}

}  // namespace voronoi::quant
