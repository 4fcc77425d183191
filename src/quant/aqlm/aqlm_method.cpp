#include "quant/aqlm/aqlm_method.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/index.h"
#include "core/random.h"
#include "core/types.h"
#include "quant/aqlm/additive_feedback.h"
#include "quant/aqlm/additive_fit.h"
#include "quant/aqlm/additive_rows.h"
#include "quant/aqlm/additive_start.h"
#include "quant/aqlm/beam_sweep.h"
#include "quant/baselines/uniform.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/setting.h"
#include "quant/vq/vector_cost.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kMostAdditiveBooks = 8;
constexpr int kPublishedSteps = 100;
// As often as rounds and the steps of a fit were seen to run before their rules stopped them, on layers of
// SmolLM2-135M at 2 bits.
constexpr double kUsualRounds = 5, kUsualFits = 3.5;

/// Settings that --bits chooses among: those that the package aqlm has kernels of its own for, and their like. Codes
/// fill their bytes.
constexpr std::array<std::int64_t, 2> kSettingGroups{8, 16};
constexpr std::array<std::int64_t, 2> kSettingBits{8, 16};

format::AqlmExtents aqlm_extents(const QuantParameters& parameters, std::int64_t out_features,
                                 std::int64_t in_features) {
  const auto& p = parameters.get<AqlmParameters>();
  format::AqlmExtents extents;
  extents.out_features = out_features;
  extents.in_features = in_features;
  extents.codebooks = p.codebooks;
  extents.code_bits = p.code_bits;
  extents.in_group = p.in_group;
  return extents;
}

/// H, with what refits add to its diagonal.
std::vector<float> fitted_metric(backend::Context& context, const PreparedHessian& hessian, bool published) {
  const backend::HostView<float> h(context, hessian.h.data(), hessian.h.size());
  std::vector<float> metric(h.values().begin(), h.values().end());
  for (std::int64_t c = 0; c < hessian.n && !published; ++c)
    metric[index(c * (hessian.n + 1))] += static_cast<float>(hessian.added);
  return metric;
}

/// All groups, as they stand or, as published, in an order of chance for each round.
std::vector<std::int32_t> group_order(std::int64_t groups, bool shuffled, std::uint64_t seed, std::uint64_t stream) {
  std::vector<std::int32_t> order(index(groups));
  std::iota(order.begin(), order.end(), 0);
  const core::CounterRandom random(seed, stream);
  for (std::size_t i = order.size(); shuffled && i > 1; --i) std::swap(order[i - 1], order[random.below(i, i)]);
  return order;
}

struct RoundFigures {
  int rounds = 0;
  std::int64_t fit_steps = 0;
  double before = 0, after = 0;
};

/// Rows whose loss the search raised by its roundings get their codes back.
std::vector<double> judge(AdditiveRows& rows, const std::vector<std::uint16_t>& codes,
                          const std::vector<double>& before) {
  std::vector<double> losses = rows.evaluate();
  const std::int64_t of_row = rows.extents().groups() * rows.extents().codebooks;
  bool any = false;
  for (std::int64_t row = 0; row < rows.rows(); ++row) {
    if (losses[index(row)] <= before[index(row)]) continue;
    std::copy_n(codes.begin() + row * of_row, of_row, rows.numbers.codes.begin() + row * of_row);
    any = true;
  }
  return any ? rows.evaluate() : losses;
}

/// A search from the last group to the first, each coded so that those before it can make up for its error: from far
/// off it finds what groups that look at the present error alone do not. Rows that it makes worse keep their codes.
std::vector<double> search_with_feedback(AdditiveRows& rows, std::vector<double> losses, int beam) {
  const std::int64_t groups = rows.extents().groups();
  const std::vector<float> metric =
      feedback_metric(rows.pool(), rows.extents().in_features, rows.extents().in_group, rows.hessian());
  if (metric.empty()) return losses;
  rows.team().check_stop();
  rows.multiply(metric);
  std::vector<std::int32_t> order = group_order(groups, false, 0, 0);
  std::reverse(order.begin(), order.end());
  const std::vector<std::uint16_t> codes = rows.numbers.codes;
  sweep_codes(rows, metric, order, beam);
  return judge(rows, codes, losses);
}

RoundFigures run_rounds(AdditiveRows& rows, const AqlmParameters& p, std::uint64_t seed, std::uint64_t stream) {
  RoundFigures figures;
  std::vector<double> losses = rows.evaluate();
  double last = figures.before = rows.sum_of_rows(losses);
  if (!p.published() && p.rounds > 0 && last > 0) {
    losses = search_with_feedback(rows, std::move(losses), p.beam);
    last = rows.sum_of_rows(losses);
  }
  AdditiveDescent descent(rows);
  for (figures.rounds = 0; figures.rounds < p.rounds && last > 0; ++figures.rounds) {
    losses = p.published() ? descent.run(rows, kPublishedSteps) : fit_numbers(rows, losses, figures.fit_steps);
    rows.team().check_stop();
    // k-means knows no errors that others make up for: once the codebooks do, the first search finds more.
    if (!p.published() && figures.rounds == 0) losses = search_with_feedback(rows, std::move(losses), p.beam);
    const std::vector<std::uint16_t> codes = rows.numbers.codes;
    sweep_codes(rows, rows.hessian(),
                group_order(rows.extents().groups(), p.published(), seed,
                            stream + 64 + static_cast<std::uint64_t>(figures.rounds)),
                p.beam);
    losses = p.published() ? rows.evaluate() : judge(rows, codes, losses);
    const double now = rows.sum_of_rows(losses), gain = last - now;
    const bool settled = !(gain >= p.tolerance * last);
    last = now;
    if (!settled) continue;
    ++figures.rounds;
    break;
  }
  if (!p.published()) losses = fit_numbers(rows, losses, figures.fit_steps);
  rows.round_numbers();
  figures.after = rows.sum_of_rows(losses);
  return figures;
}

class Aqlm final : public Method {
 public:
  std::string_view name() const override { return "aqlm"; }
  std::string_view summary() const override {
    return "groups of a row as sums of centroids, codebooks and codes fitted in turn to the true error";
  }

  const std::vector<Parameter>& parameters() const override {
    using P = AqlmParameters;
    static const std::vector<Parameter> all{
        integer_parameter("codebooks", "codebooks whose centroids are added up", &P::codebooks, std::int64_t{1},
                          kMostAdditiveBooks),
        integer_parameter("code-bits", "bits of a code: a codebook has 2^bits centroids; stored in 8 or 16",
                          &P::code_bits, std::int64_t{2}, std::int64_t{16}),
        integer_parameter("in-group", "columns of a row that share codes: 1, 2, 4, 8 or 16", &P::in_group,
                          std::int64_t{1}, std::int64_t{16}),
        integer_parameter("kmeans-iterations", "at most so many k-means steps", &VectorParameters::kmeans_iterations, 1,
                          10000),
        number_parameter("kmeans-tolerance", "k-means stops when the objective falls by less than this share",
                         &VectorParameters::kmeans_tolerance, 0, 1),
        integer_parameter("aqlm-rounds", "rounds of a fit of the codebooks and a search of the codes, at most",
                          &P::rounds, 0, 1000),
        number_parameter("aqlm-tolerance", "a round that lowers the error by less than this share is the last",
                         &P::tolerance, 0, 1),
        integer_parameter("beam", "choices of a row's codes that the search keeps", &P::beam, 1, 16),
        choice_parameter("aqlm-rule",
                         "exact: codebooks and scales by least squares, groups in their order; published: the "
                         "authors' descent, groups in an order of chance",
                         &P::rule, {"exact", "published"})};
    return all;
  }

  void check(const QuantParameters& parameters, Problems& problems) const override {
    const auto& p = parameters.get<AqlmParameters>();
    if ((p.in_group & (p.in_group - 1)) != 0)
      problems.push_back(fmt::format("--in-group {}: groups have 1, 2, 4, 8 or 16 columns", p.in_group));
  }

  void check_shape(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                   Problems& problems) const override {
    const auto& p = parameters.get<AqlmParameters>();
    if (in_features % p.in_group != 0) {
      problems.push_back(fmt::format("--in-group {} does not divide the {} columns of a layer [{}, {}]", p.in_group,
                                     in_features, out_features, in_features));
      return;
    }
    const std::int64_t vectors = out_features * (in_features / p.in_group), centroids = std::int64_t{1} << p.code_bits;
    if (centroids > vectors)
      problems.push_back(
          fmt::format("--code-bits {}: {} centroids are more than the {} vectors that share the codebook in a layer "
                      "[{}, {}]",
                      p.code_bits, centroids, vectors, out_features, in_features));
  }

  std::string setting(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<AqlmParameters>();
    std::string text = fmt::format("{}x{} bits for groups of {}", p.codebooks, p.code_bits, p.in_group);
    if (p.beam > 1) text += fmt::format(", beam of {}", p.beam);
    if (p.published()) text += ", as published";
    return text;
  }

  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override {
    const format::AqlmElements due = elements_due(aqlm_extents(parameters, out_features, in_features));
    StoredBits stored;
    stored.indices = 8 * due.codes8 + 16 * due.codes16;
    stored.codebooks = 16 * due.codebook;
    stored.scales = 16 * due.scale;
    return stored;
  }
  double nominal_bits(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<AqlmParameters>();
    return static_cast<double>(p.codebooks * p.code_bits) / static_cast<double>(p.in_group);
  }
  std::optional<AdditiveLayout> additive_layout(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<AqlmParameters>();
    return AdditiveLayout{p.codebooks, p.code_bits, p.in_group};
  }

  std::vector<std::string> chosen_by_bits() const override { return {"codebooks", "code-bits", "in-group"}; }
  std::vector<QuantParameters> settings(const QuantParameters& base,
                                        std::span<const LayerCount> layers) const override {
    std::vector<QuantParameters> settings;
    QuantParameters parameters = base;
    auto& p = parameters.get<AqlmParameters>();
    for (p.in_group = kSettingGroups.front(); p.in_group <= kSettingGroups.back(); p.in_group *= 2)
      for (p.code_bits = kSettingBits.front(); p.code_bits <= kSettingBits.back(); p.code_bits *= 2)
        for (p.codebooks = 1; p.codebooks <= kMostAdditiveBooks; ++p.codebooks) {
          // More bits than weights of 8 need, or a third codebook of 65536 centroids, are no setting of anybody's.
          if (nominal_bits(parameters) > kMostBits || (p.code_bits == 16 && p.codebooks > 2)) continue;
          if (check_parameters(parameters).empty() && std::all_of(layers.begin(), layers.end(), [&](const auto& layer) {
                return quant::check_shape(parameters, layer.out_features, layer.in_features).empty();
              }))
            settings.push_back(parameters);
        }
    return settings;
  }
  std::optional<QuantParameters> choose_setting(const QuantParameters& base, double wanted,
                                                std::span<const LayerCount> layers) const override {
    std::optional<QuantParameters> best;
    for (const QuantParameters& parameters : settings(base, layers)) {
      if (true_bits(parameters, layers) > wanted * (1 + kBitsMargin)) continue;
      if (!best || expected_error(parameters) < expected_error(*best)) best = parameters;
    }
    return best;
  }
  std::optional<double> least_true_bits(const QuantParameters& base,
                                        std::span<const LayerCount> layers) const override {
    std::optional<double> least;
    for (const QuantParameters& parameters : settings(base, layers)) {
      const double bits = true_bits(parameters, layers);
      least = std::min(least.value_or(bits), bits);
    }
    return least;
  }
  QuantParameters quick_setting(const QuantParameters& base) const override {
    constexpr int kQuickIterations = 10;
    QuantParameters quick = base;
    auto& p = quick.get<AqlmParameters>();
    p.codebooks = 1;
    p.code_bits = 8;
    p.in_group = 8;
    p.rounds = 1;
    p.beam = 1;
    p.rule = "exact";
    auto& iterations = quick.get<VectorParameters>().kmeans_iterations;
    iterations = std::min(iterations, kQuickIterations);
    return quick;
  }
  /// As if each codebook coded what those before it leave, for Gaussian weights.
  double expected_error(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<AqlmParameters>();
    // The table of gains begins at vectors of 4.
    const std::int64_t g = std::max<std::int64_t>(4, p.in_group);
    const double gain = expected_gain_db(g, std::int64_t{1} << p.code_bits, 0) * static_cast<double>(g) /
                        static_cast<double>(p.in_group);
    return std::pow(10, -gain * static_cast<double>(p.codebooks) / 10);
  }

  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    const auto& p = parameters.get<AqlmParameters>();
    const double weights = static_cast<double>(out_features) * static_cast<double>(in_features),
                 centroids = std::exp2(static_cast<double>(p.code_bits)), books = static_cast<double>(p.codebooks),
                 rounds = std::min<double>(p.rounds, kUsualRounds), fits = p.published() ? kPublishedSteps : kUsualFits;
    OperatorWork work;
    work.kmeans = training_work(weights / static_cast<double>(p.in_group), p.in_group, std::int64_t{1} << p.code_bits,
                                1, std::numeric_limits<std::int64_t>::max()) *
                  books;
    // A fit ends with the product that judges it; the search has half of one for what it moves, and one for its judge.
    // The first search has a metric of its own.
    const double searches = rounds + (p.published() ? 0 : 1);
    work.refine = product_work(out_features, in_features, 2 + (rounds + 1) * (fits + 2) + searches * 1.5);
    if (!p.published()) work.refine.factor = std::pow(static_cast<double>(in_features), 3) / 3;
    work.refine.nearest = 2 * weights * centroids * books * p.beam * searches;
    work.refine.scattered = 2 * weights * books * fits * (rounds + 1);
    work.refine.bytes += 40 * weights * books * rounds;
    work.row_pieces = row_pieces(out_features);
    const double unknowns = books * centroids * static_cast<double>(p.in_group);
    work.exchange_bytes = weights * nominal_bits(parameters) / 8 + energy_bytes(out_features);
    work.sums.push_back({unknowns, (rounds + 1) * (fits + 2)});
    return work;
  }

  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const auto& p = parameters.get<AqlmParameters>();
    const format::AqlmExtents e = aqlm_extents(parameters, r.out_features, r.in_features);
    const std::int64_t n = r.in_features, g = e.in_group, pieces = row_pieces(r.out_features);
    const std::int64_t my_pieces = core::ceil_div(pieces, std::int64_t{r.team_size});
    const std::int64_t rows = core::ceil_div(r.out_features, pieces) * my_pieces;
    const std::int64_t unknowns = e.codebooks * e.centroids() * g, codes = 2 * rows * e.groups() * e.codebooks;
    const std::int64_t stored = stored_bits(parameters, r.out_features, n).total() / 8;
    // The metric, the difference and its product, numbers.
    const std::int64_t held = r.held_bytes + 4 * n * n + 8 * rows * n + codes + 4 * (unknowns + rows);
    peak.consider(held + 4 * rows * n + 8 * rows * e.groups() +
                      kmeans_bytes(rows * e.groups(), my_pieces, g, e.centroids(), r.team_size, 1),
                  "k-means of " + r.name);
    const std::int64_t exchanged = r.team_size > 1 ? 2 * my_pieces + 3 : 0;
    peak.consider(held + 8 * unknowns * (my_pieces + exchanged + 8), "fit of the codebooks of " + r.name);
    const std::int64_t tiles = std::min<std::int64_t>(r.n_threads, core::ceil_div(rows, std::int64_t{128}));
    const std::int64_t table = 4 * e.codebooks * (g + 1) * e.centroids();
    peak.consider(held + codes + 8 * n * n + table + tiles * (table + 128 * 4 * (n + 64 + 4 * g)),
                  "search of the codes of " + r.name);
    if (!p.published()) peak.consider(held + (8 + 4) * n * n, "factor of the feedback of " + r.name);
    peak.consider(held + 2 * stored, "packing of " + r.name);
    peak.consider(r.held_bytes + stored + 4 * r.out_features * n + 16 * 2 * kErrorRows * n, "error of " + r.name);
  }

  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<AqlmParameters>();
    const auto& steps = parameters.get<VectorParameters>();
    format::AqlmExtents extents = aqlm_extents(parameters, input.out_features, input.in_features);
    extents.dtype = input.stored_dtype;
    const std::uint64_t stream = random_stream(input.name + ":aqlm");
    QuantResult result;
    {
      const std::vector<float> metric = fitted_metric(context, *input.hessian, p.published());
      AdditiveRows rows(context.pool(), team, input, metric, extents);
      const int kmeans_steps = start_codes(
          context, rows, {steps.kmeans_iterations, steps.kmeans_tolerance, parameters.seed, stream, p.published()});
      const RoundFigures figures = run_rounds(rows, p, parameters.seed, stream);
      result.encoding = format::to_encoding(rows.gather());
      result.statistics["kmeans_steps"] = kmeans_steps;
      result.statistics["rounds"] = figures.rounds;
      result.statistics["rounds_gain"] = figures.before > 0 ? 1 - figures.after / figures.before : 0.0;
      if (!p.published())
        result.statistics["fit_steps"] = static_cast<double>(figures.fit_steps) / std::max(1, figures.rounds + 1);
    }
    result.relative_error = encoding_error(context, team, input, result.encoding);
    result.statistics["damping"] = input.hessian->damping;
    result.statistics["damping_steps"] = input.hessian->damping_steps;
    result.statistics["dead_columns"] = static_cast<double>(input.hessian->dead_columns);
    return result;
  }
};

}  // namespace

const Method& aqlm_method() {
  static const Aqlm method;
  return method;
}

}  // namespace voronoi::quant
