#include "quant/trellis/trellis_method.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"
#include "format/rotated.h"
#include "format/trellis.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"
#include "quant/trellis/trellis_codes.h"
#include "quant/two_rotations.h"

namespace voronoi::quant {

using core::index;

namespace {

/// In the order of kernels::TrellisCode.
const std::vector<std::string> kTrellisCodeNames{"mul1", "mcg", "3inst"};

/// By bits from 1 on, on normal weights (64 tiles of 256; all states of 16 bits): the scale of least error, and that.
constexpr std::array<double, kernels::kMostTrellisBits> kTrellisScales{1.05, 0.98, 0.92, 0.89, 0.85},
    kTrellisErrors{0.289, 0.0705, 0.0182, 0.00463, 0.00119};

TrellisSettings trellis_settings(const QuantParameters& parameters) {
  const auto& own = parameters.get<TrellisParameters>();
  const auto code = std::find(kTrellisCodeNames.begin(), kTrellisCodeNames.end(), own.code) - kTrellisCodeNames.begin();
  const int bits = parameters.get<UniformParameters>().bits;
  return {bits, std::max(own.state_bits, kernels::least_state_bits(bits)), static_cast<kernels::TrellisCode>(code),
          own.sweeps};
}

format::TrellisExtents trellis_extents(const QuantParameters& parameters, std::int64_t out_features,
                                       std::int64_t in_features) {
  const TrellisSettings settings = trellis_settings(parameters);
  format::TrellisExtents extents;
  extents.out_features = out_features;
  extents.in_features = in_features;
  extents.bits = settings.bits;
  extents.state_bits = settings.state_bits;
  extents.code = static_cast<std::int64_t>(settings.code);
  return extents;
}

class Trellis final : public Method {
 public:
  std::string_view name() const override { return "trellis"; }
  std::string_view summary() const override {
    return "trellis codes along the rows of each column between two random rotations, with error feedback and sweeps";
  }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> parameters{
        integer_parameter("bits", "bits a weight", &UniformParameters::bits, 1, kernels::kMostTrellisBits),
        integer_parameter("state-bits",
                          "bits of a trellis code's state, at least 5 more than twice those of a weight: 16 is best, "
                          "12 takes a tenth of "
                          "the time",
                          &TrellisParameters::state_bits, kernels::kLeastStateBits, kernels::kMostStateBits),
        integer_parameter("trellis-sweeps", "times that all strings are searched anew, at most",
                          &TrellisParameters::sweeps, 0, 100),
        choice_parameter("trellis-code", "what makes a number of a state", &TrellisParameters::code, kTrellisCodeNames),
        number_parameter(
            "trellis-scale",
            "root mean square of the rotated weights in units of the code's own; 0: 1.05, 0.98, 0.92, 0.89, 0.85 at 1 "
            "to 5 bits",
            &TrellisParameters::scale, 0, 10)};
    return parameters;
  }
  std::string setting(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<TrellisParameters>();
    const TrellisSettings settings = trellis_settings(parameters);
    return fmt::format("{} bits, {} of {} state bits, {} sweeps", settings.bits, p.code, settings.state_bits,
                       settings.sweeps) +
           (p.scale > 0 ? fmt::format(", scale {:g}", p.scale) : "");
  }

  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override {
    const format::TrellisElements due = elements_due(trellis_extents(parameters, out_features, in_features));
    StoredBits stored;
    stored.indices = 16 * due.codes;
    stored.scales = 32 * (due.in_signs + due.out_signs + due.scale);
    return stored;
  }
  double nominal_bits(const QuantParameters& parameters) const override {
    return parameters.get<UniformParameters>().bits;
  }

  std::vector<QuantParameters> settings(const QuantParameters& base,
                                        std::span<const LayerCount> /*layers*/) const override {
    return settings_of_bits(base, 1, kernels::kMostTrellisBits, {});
  }
  std::optional<QuantParameters> choose_setting(const QuantParameters& base, double wanted,
                                                std::span<const LayerCount> layers) const override {
    return last_within(settings(base, layers), wanted, layers);
  }
  std::optional<double> least_true_bits(const QuantParameters& base,
                                        std::span<const LayerCount> layers) const override {
    return true_bits(settings(base, layers).front(), layers);
  }
  QuantParameters quick_setting(const QuantParameters& base) const override {
    QuantParameters quick = base;
    quick.get<TrellisParameters>().sweeps = 0;
    quick.get<TrellisParameters>().state_bits = kernels::kLeastStateBits;
    return quick;
  }
  double expected_error(const QuantParameters& parameters) const override {
    return kTrellisErrors[index(std::clamp(parameters.get<UniformParameters>().bits, 1, kernels::kMostTrellisBits) -
                                1)];
  }

  std::vector<std::pair<std::string_view, std::string_view>> effort(Effort effort) const override {
    switch (effort) {
      case Effort::quick:
        return {{"state-bits", "12"}};
      case Effort::normal:
        return {{"hessian", "guided"}};
      case Effort::best:
        return {{"hessian", "guided"}, {"allocate", "true"}, {"tune-phases", "end-to-end"}};
    }
    return {};
  }

  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    const double weights = static_cast<double>(out_features) * static_cast<double>(in_features);
    const TrellisSettings settings = trellis_settings(parameters);
    const double sweeps = settings.sweeps;
    const std::int64_t tiles = kernels::trellis_tiles(kernels::trellis_units(out_features));
    const double a_tile = static_cast<double>(out_features) / static_cast<double>(tiles);
    const double a_pass = kStateFlops * std::ldexp(weights, settings.state_bits);
    OperatorWork work;
    // The feedback, and the error with the energy it is a share of.
    work.column_loop = product_work(out_features, in_features, 0.5 + 2);
    // The search for the bits that pass a string's end, and that of the rest.
    work.column_loop.nearest = a_pass * (1 + std::min(1.0, static_cast<double>(kLeadWeights) / a_tile));
    work.repeated.gemm = turning_flops(out_features, in_features) * weights;
    work.column_loop.gemm += work.repeated.gemm;
    work.column_loop.bytes += 100 * weights;
    // Gradient and error of held-out tokens before and behind each sweep, and the sweep itself.
    if (sweeps > 0) work.refine = product_work(out_features, in_features, 2 + 3 * sweeps);
    work.refine.nearest = a_pass * sweeps;
    work.exchange_bytes = weights * settings.bits / 8 + energy_bytes(out_features);
    work.row_pieces = tiles;
    return work;
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const TrellisSettings settings = trellis_settings(parameters);
    const std::int64_t weight = 4 * r.out_features * r.in_features, square = r.in_features * r.in_features;
    const std::int64_t rows = largest_part(r.out_features, r.team_size),
                       stored = stored_bits(parameters, r.out_features, r.in_features).total() / 8;
    const std::int64_t edges = std::int64_t{1} << (settings.state_bits - settings.bits),
                       search = edges * (4 + kernels::kTrellisTile * ((std::int64_t{1} << settings.bits) - 1) / 8);
    // The weight turned on its input's side, then on both, for as long as there are no codes.
    const std::int64_t turned = r.held_bytes + 2 * weight + search * r.n_threads;
    const std::int64_t loop = rows * (kRowBytes * r.in_features + 4 * kSpreadColumns);
    peak.consider(turned + loop + (settings.sweeps > 0 ? 8 * square + kSweepBytes * rows * r.in_features : 0),
                  "trellis codes of " + r.name);
    peak.consider(r.held_bytes + weight + 6 * stored, "packing of " + r.name);
    peak.consider(r.held_bytes + 3 * weight + stored + 16 * 2 * kErrorRows * r.in_features, "error of " + r.name);
  }
  /// The weight turned on one side and on both, what the loops keep beside it, the metric of the sweeps and of held-out
  /// tokens, and the factor.
  std::int64_t host_bytes(const QuantParameters& /*parameters*/, std::int64_t out_features,
                          std::int64_t in_features) const override {
    return (8 + kRowBytes + kSweepBytes) * out_features * in_features + 12 * in_features * in_features;
  }

  bool codes_can_move() const override { return false; }
  std::int64_t bits_of_tuning(std::int64_t out_features, std::int64_t in_features) const override {
    return format::factor_bits(out_features, in_features);
  }
  bool judges_held_out() const override { return true; }
  bool changes_site(const QuantParameters& /*parameters*/) const override { return true; }
  std::unique_ptr<SiteState> prepare_site(backend::Context& /*context*/, core::Team& /*team*/, SiteInput& site,
                                          const QuantParameters& parameters) const override {
    return turned_site(parameters.seed, site);
  }

  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const std::int64_t in = input.in_features;
    const TrellisSettings settings = trellis_settings(parameters);
    const double unit = parameters.get<TrellisParameters>().scale,
                 own_rms = static_cast<double>(kernels::trellis_rms(settings.code));
    format::TrellisEncoding encoding;
    static_cast<format::TrellisExtents&>(encoding) = trellis_extents(parameters, input.out_features, in);
    encoding.dtype = input.stored_dtype;

    QuantResult result;
    core::count_work(core::Counted::gemm_flops,
                     turning_flops(input.out_features, in) * static_cast<double>(input.out_features * in));
    {
      TurnedWeight weight(context, input, parameters.seed);
      encoding.in_signs = weight.in_signs();
      encoding.out_signs = weight.out_signs();
      encoding.scale = {weight.bring_to((unit > 0 ? unit : trellis_scale(settings.bits)) * own_rms)};
      const TrellisPart part(input.out_features, team.rank(), team.size());
      TrellisCodes codes = trellis_codes(context, team, *input.hessian, settings, part,
                                         weight.values().subspan(index(part.first_row * in), index(part.n_rows * in)));
      encoding.codes = std::move(codes.codes);
      weight.add_statistics(result.statistics);
      if (settings.sweeps > 0) {
        result.statistics["sweeps_kept"] = codes.sweeps_kept;
        result.statistics["sweeps_gain"] = codes.error_before > 0 ? 1 - codes.error_behind / codes.error_before : 0;
      }
    }
    result.encoding = format::to_encoding(encoding);
    result.relative_error = turned_error(context, team, input, result.encoding);
    return result;
  }

 private:
  /// Of a weight: itself, what is chosen, target or gradient, symbols; in sweeps differences, their images, and what is
  /// kept to be restored. Columns whose errors are spread at once.
  static constexpr std::int64_t kRowBytes = 14, kSweepBytes = 14, kSpreadColumns = 128;

  static std::int64_t largest_part(std::int64_t out_features, int team_size) {
    std::int64_t most = 0;
    for (int rank = 0; rank < team_size; ++rank)
      most = std::max<std::int64_t>(most, TrellisPart(out_features, rank, team_size).begin.back());
    return most;
  }
};

}  // namespace

double trellis_scale(int bits) { return kTrellisScales[index(std::clamp(bits, 1, kernels::kMostTrellisBits) - 1)]; }

const Method& trellis_method() {
  static const Trellis method;
  return method;
}

}  // namespace voronoi::quant
