#include "quant/quip/quip_sharp.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"
#include "format/e8p.h"
#include "format/rotated.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"
#include "quant/quip/lattice_codes.h"
#include "quant/two_rotations.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr int kLeastLatticeBits = 2, kMostLatticeBits = 4;

class QuipSharp final : public Method {
 public:
  std::string_view name() const override { return "quip_sharp"; }
  std::string_view summary() const override {
    return "lattice codes of vectors of 8 between two random rotations, with error feedback and sweeps";
  }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> parameters{
        integer_parameter("bits", "bits a weight", &UniformParameters::bits, kLeastLatticeBits, kMostLatticeBits),
        integer_parameter("sweeps", "times that all codes are chosen anew, at most", &QuipSharpParameters::sweeps, 0,
                          100),
        number_parameter(
            "codebook-scale",
            "root mean square of the rotated weights in units of the lattice codebook; 0: 1.03, 0.98, 1.03 "
            "at 2, 3, 4 bits",
            &QuipSharpParameters::scale, 0, 10)};
    return parameters;
  }
  std::string setting(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<QuipSharpParameters>();
    return fmt::format("{} bits, {} sweeps", bits_of(parameters), p.sweeps) +
           (p.scale > 0 ? fmt::format(", scale {:g}", p.scale) : "");
  }

  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override {
    format::E8pExtents extents;
    extents.out_features = out_features;
    extents.in_features = in_features;
    extents.bits = bits_of(parameters);
    const format::E8pElements due = elements_due(extents);
    StoredBits stored;
    stored.indices = 16 * (due.codes + due.e8p_residual) + 8 * due.e8_residual;
    stored.scales = 32 * (due.in_signs + due.out_signs + due.scale);
    return stored;
  }
  double nominal_bits(const QuantParameters& parameters) const override { return bits_of(parameters); }

  std::vector<QuantParameters> settings(const QuantParameters& base,
                                        std::span<const LayerCount> /*layers*/) const override {
    return settings_of_bits(base, kLeastLatticeBits, kMostLatticeBits, {});
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
    quick.get<QuipSharpParameters>().sweeps = 0;
    return quick;
  }
  /// Of normal weights, by the codebooks.
  double expected_error(const QuantParameters& parameters) const override {
    constexpr std::array<double, 3> kErrors{0.089, 0.027, 0.0077};
    return kErrors[index(std::clamp(bits_of(parameters), kLeastLatticeBits, kMostLatticeBits) - kLeastLatticeBits)];
  }

  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    const double weights = static_cast<double>(out_features) * static_cast<double>(in_features);
    const double sweeps = parameters.get<QuipSharpParameters>().sweeps;
    const double searches = bits_of(parameters) == 2 ? 1 : 2;
    OperatorWork work;
    work.column_loop = product_work(out_features, in_features, 1);
    work.column_loop.factor = std::pow(static_cast<double>(in_features), 3) / 3;
    work.column_loop.nearest = kSearchFlops * searches * weights;
    // Both sides there and back, and what decodes for the error.
    work.repeated.gemm = turning_flops(out_features, in_features) * weights;
    work.repeated.factor = work.column_loop.factor;
    work.column_loop.gemm += work.repeated.gemm;
    work.column_loop.bytes += 100 * weights;
    work.refine = product_work(out_features, in_features, sweeps);
    work.refine.nearest = (kSearchFlops * searches + kStepFlops) * sweeps * weights;
    work.exchange_bytes = weights * bits_of(parameters) / 8 + energy_bytes(out_features);
    work.row_pieces = core::ceil_div(out_features, kRowTile);
    return work;
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t weight = 4 * r.out_features * r.in_features, square = r.in_features * r.in_features;
    const std::int64_t codes = 4 * core::ceil_div(weight / 16, std::int64_t{r.team_size}),
                       stored = stored_bits(parameters, r.out_features, r.in_features).total() / 8;
    const std::int64_t tiles = std::min<std::int64_t>(r.n_threads, core::ceil_div(r.out_features, kRowTile));
    // The weight turned on its input's side, then on both, for as long as there are no codes.
    const std::int64_t turned = r.held_bytes + 2 * weight;
    peak.consider(turned + (8 + 4) * square, "factor of the feedback of " + r.name);
    peak.consider(turned + 4 * square + codes + 16 * kRowTile * r.in_features * tiles, "lattice codes of " + r.name);
    peak.consider(r.held_bytes + weight + codes + 4 * stored, "packing of " + r.name);
    peak.consider(r.held_bytes + 3 * weight + stored + 16 * 2 * kErrorRows * r.in_features, "error of " + r.name);
  }

  /// The weight turned on one side and on both, the metric, its factor in fp64 and what is made of it.
  std::int64_t host_bytes(const QuantParameters& /*parameters*/, std::int64_t out_features,
                          std::int64_t in_features) const override {
    return 8 * out_features * in_features + (4 + 8 + 4) * in_features * in_features;
  }

  bool codes_can_move() const override { return false; }
  std::int64_t bits_of_tuning(std::int64_t out_features, std::int64_t in_features) const override {
    return format::factor_bits(out_features, in_features);
  }

  bool changes_site(const QuantParameters& /*parameters*/) const override { return true; }
  std::unique_ptr<SiteState> prepare_site(backend::Context& /*context*/, core::Team& /*team*/, SiteInput& site,
                                          const QuantParameters& parameters) const override {
    return turned_site(parameters.seed, site);
  }

  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const std::int64_t out = input.out_features, in = input.in_features;
    const int bits = bits_of(parameters);
    const double unit = parameters.get<QuipSharpParameters>().scale;

    format::E8pEncoding encoding;
    encoding.out_features = out;
    encoding.in_features = in;
    encoding.bits = bits;
    encoding.dtype = input.stored_dtype;

    QuantResult result;
    {
      core::count_work(core::Counted::gemm_flops, turning_flops(out, in) * static_cast<double>(out * in));
      TurnedWeight weight(context, input, parameters.seed);
      encoding.in_signs = weight.in_signs();
      encoding.out_signs = weight.out_signs();
      encoding.scale = {weight.bring_to(unit > 0 ? unit : codebook_scale(bits))};
      const RowRange range = team_rows(team, out);
      const auto own = weight.values().subspan(index(range.begin * in), index((range.end - range.begin) * in));
      add_codes(context, team, *input.hessian, {bits, parameters.get<QuipSharpParameters>().sweeps}, own, encoding,
                result);
      weight.add_statistics(result.statistics);
    }
    result.encoding = format::to_encoding(encoding);
    result.relative_error = turned_error(context, team, input, result.encoding);
    return result;
  }

 private:
  /// In whose time a weight's code is searched, and a step of a sweep is weighed.
  static constexpr double kSearchFlops = 300, kStepFlops = 150;

  static int bits_of(const QuantParameters& parameters) { return parameters.get<UniformParameters>().bits; }

  /// Codes of this member's rows, `own`, and everyone's in the encoding. Collective.
  static void add_codes(backend::Context& context, core::Team& team, const PreparedHessian& hessian,
                        const LatticeSettings& settings, std::span<const float> own, format::E8pEncoding& encoding,
                        QuantResult& result) {
    const std::int64_t in = encoding.in_features, rows = std::ssize(own) / in;
    LatticeCodes mine;
    {
      const backend::HostView<float> h(context, hessian.h.data(), hessian.h.size());
      // A damping that had to be raised is in h already.
      double mean = 0;
      for (std::int64_t i = 0; i < in; ++i) mean += static_cast<double>(h.values()[index(i * (in + 1))]);
      const double damping = hessian.damping_steps > 0 ? 0 : hessian.damping * mean / static_cast<double>(in);
      const LatticeMetric metric = lattice_metric(context.pool(), in, h.values(), damping, hessian.added);
      team.check_stop();
      mine = lattice_codes(context.pool(), metric, settings, rows, own);
    }
    std::vector<std::byte> bytes;
    core::append_bytes<std::uint16_t>(mine.codes, bytes);
    core::append_bytes<std::uint16_t>(mine.residual, bytes);
    core::append_bytes<double>(mine.error_before, bytes);
    core::append_bytes<double>(mine.error_behind, bytes);
    std::vector<std::uint16_t> residual;
    std::vector<double> before, behind;
    for (const std::vector<std::byte>& part : team.all_gather(bytes)) {
      const std::size_t n_codes = index(encoding.n_groups()),
                        a_row = 2 * sizeof(double) + n_codes * sizeof(std::uint16_t) * (settings.bits > 2 ? 2 : 1);
      const std::size_t n_rows = part.size() / a_row;
      std::span<const std::byte> rest = part;
      core::take_values(rest, n_rows * n_codes, encoding.codes);
      if (settings.bits > 2) core::take_values(rest, n_rows * n_codes, residual);
      core::take_values(rest, n_rows, before);
      core::take_values(rest, n_rows, behind);
    }
    if (settings.bits == 3)
      for (const std::uint16_t code : residual) encoding.e8_residual.push_back(static_cast<std::uint8_t>(code));
    if (settings.bits == 4) encoding.e8p_residual = std::move(residual);
    if (settings.sweeps == 0) return;
    double sum_before = 0, sum_behind = 0;
    for (std::size_t row = 0; row < before.size(); ++row) {
      sum_before += before[row];
      sum_behind += behind[row];
    }
    result.statistics["sweeps_gain"] = sum_before > 0 ? 1 - sum_behind / sum_before : 0;
  }
};

}  // namespace

double codebook_scale(int bits) { return bits == 3 ? 0.98 : 1.03; }

const Method& quip_sharp_method() {
  static const QuipSharp method;
  return method;
}

}  // namespace voronoi::quant
