#include "quant/gptvq/gptvq_method.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"
#include "core/types.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"
#include "quant/gptvq/book_basis.h"
#include "quant/gptvq/book_update.h"
#include "quant/gptvq/strip_loop.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr int kMostIndexBits = 12;
constexpr int kLeastVectorBits = 1, kMostVectorBits = 8;
constexpr std::int64_t kMostStoredOrder = 65535;
constexpr std::int64_t kMostGroupWeights = std::int64_t{1} << 40;

/// What a member tells of itself, beside its codes.
struct MemberFigures {
  StripFigures strips;
  UpdateFigures update;
};

/// Everyone's codes and figures. Collective.
format::GptvqEncoding gather_codes(core::Team& team, const GptvqCodes& mine, MemberFigures& figures) {
  const format::GptvqExtents& e = mine.extents;
  std::vector<std::byte> bytes;
  core::append_bytes<std::uint32_t>(pack_rows(mine.indices, mine.groups.rows, e.vectors(), e.index_bits()), bytes);
  core::append_bytes<std::uint16_t>(mine.codebook, bytes);
  core::append_bytes<std::uint8_t>(mine.codebook8, bytes);
  core::append_bytes<std::uint16_t>(mine.book_scales, bytes);
  core::append_bytes<std::uint32_t>(pack_rows(mine.block_codes, mine.groups.rows, e.blocks(), kernels::kBlockScaleBits),
                                    bytes);
  core::append_bytes<double>(figures.update.before, bytes);
  core::append_bytes<double>(figures.update.after, bytes);
  const std::int64_t counts[] = {figures.strips.steps, figures.strips.unused, figures.update.steps};
  core::append_bytes<std::int64_t>(counts, bytes);
  const auto gathered = team.all_gather(bytes);

  format::GptvqEncoding all;
  static_cast<format::GptvqExtents&>(all) = e;
  MemberFigures sum;
  for (std::int64_t rank = 0; rank < team.size(); ++rank) {
    const GptvqGroups theirs = gptvq_groups(e, rank, team.size());
    std::span<const std::byte> rest = gathered[index(rank)];
    const std::int64_t books = theirs.count * e.strips(), values = books * e.stored_size(mine.rank());
    core::take_values(rest, index(theirs.rows * core::packed_words(e.vectors(), e.index_bits())), all.indices);
    if (e.codebook_bits == 16)
      core::take_values(rest, index(values), all.codebook);
    else {
      core::take_values(rest, index(values), all.codebook8);
      core::take_values(rest, index(books), all.codebook_scale);
    }
    if (e.scale_block > 0)
      core::take_values(rest, index(theirs.rows * core::packed_words(e.blocks(), kernels::kBlockScaleBits)),
                        all.block_codes);
    const std::size_t told = rest.size() > sizeof counts ? index(theirs.count) : 0;
    core::take_values(rest, told, sum.update.before);
    core::take_values(rest, told, sum.update.after);
    std::vector<std::int64_t> their_counts;
    core::take_values(rest, std::size(counts), their_counts);
    sum.strips.steps += their_counts[0];
    sum.strips.unused += their_counts[1];
    sum.update.steps += their_counts[2];
  }
  all.block_grid = mine.block_grid;
  all.codebook_basis = mine.basis;
  figures = std::move(sum);
  return all;
}

class Gptvq final : public Method {
 public:
  std::string_view name() const override { return "gptvq"; }
  std::string_view summary() const override {
    return "vectors of neighbouring columns by small codebooks, errors spread as in gptq";
  }

  const std::vector<Parameter>& parameters() const override {
    using P = GptvqParameters;
    static const std::vector<Parameter> all{
        integer_parameter("bits", "bits a weight", &UniformParameters::bits, 1, 8),
        integer_parameter("vector-columns",
                          "columns of a row that share an index: 1, 2 or 4; 0: 4 at 1 and 2 bits, 2 at 3 and 4, else 1",
                          &P::vector_columns, std::int64_t{0}, std::int64_t{4}),
        integer_parameter("group-weights",
                          "weights that share a codebook; 0: as many as make codebooks 1/8 bit a weight, with block "
                          "scales 1/16",
                          &P::group_weights, std::int64_t{0}, kMostGroupWeights),
        integer_parameter("group-columns", "most columns of a group; its rows follow", &P::group_columns,
                          std::int64_t{4}, std::int64_t{256}),
        integer_parameter("codebook-bits", "8: codebooks of bytes with a scale each; 16", &P::codebook_bits, 8, 16),
        integer_parameter("codebook-rank",
                          "codebooks of single columns in so many factors each of a basis that all share; 0: whole",
                          &P::codebook_rank, std::int64_t{0}, format::kMostBasisCentroids - 1),
        integer_parameter("scale-block", "columns of a row that share a scale of 4 bits: 16, 32 or 64; 0 for none",
                          &P::scale_block, std::int64_t{0}, std::int64_t{64}),
        integer_parameter("kmeans-iterations", "at most so many k-means steps", &VectorParameters::kmeans_iterations, 1,
                          10000),
        number_parameter("kmeans-tolerance", "k-means stops when the objective falls by less than this share",
                         &VectorParameters::kmeans_tolerance, 0, 1),
        integer_parameter("strip-passes",
                          "fits of a strip's codebooks, each after the first on the weights that the pass before met",
                          &P::strip_passes, 1, 10),
        switch_parameter("codebook-update", "codebooks fitted again to the true error in the end", &P::codebook_update),
        choice_parameter("gptvq-rule",
                         "exact: errors within a vector count and spread by the factor's blocks, the update by least "
                         "squares; published: the authors' weights, feedback and descent",
                         &P::rule, {"exact", "published"})};
    return all;
  }

  void check(const QuantParameters& parameters, Problems& problems) const override {
    const auto& p = parameters.get<GptvqParameters>();
    const std::size_t before = problems.size();
    if (p.vector_columns == 3) problems.emplace_back("--vector-columns 3: vectors have 1, 2 or 4 columns");
    if (p.codebook_bits != 8 && p.codebook_bits != 16)
      problems.push_back(fmt::format("--codebook-bits {}: codebooks have 8 or 16 bits a value", p.codebook_bits));
    if (p.scale_block != 0 && p.scale_block != 16 && p.scale_block != 32 && p.scale_block != 64)
      problems.push_back(fmt::format("--scale-block {}: blocks have 16, 32 or 64 columns; 0 for none", p.scale_block));
    const std::int64_t d = gptvq_vector_columns(parameters), bits = parameters.get<UniformParameters>().bits;
    if (d * bits > kMostIndexBits)
      problems.push_back(fmt::format("--bits {} with --vector-columns {}: an index of {} bits; at most {} are fitted",
                                     bits, d, d * bits, kMostIndexBits));
    if (p.codebook_rank > 0 && (d != 1 || p.codebook_rank >> bits != 0))
      problems.push_back(
          fmt::format("--codebook-rank {}: a basis is for vectors of 1 column and of less rank than codebooks have "
                      "centroids; here are vectors of {} with --bits {}",
                      p.codebook_rank, d, bits));
    const std::int64_t unit = std::max(d, p.scale_block);
    if (problems.size() == before && p.group_columns % unit != 0)
      problems.push_back(fmt::format("--group-columns {}: no multiple of the {} columns of a {}", p.group_columns, unit,
                                     unit == d ? "vector" : "block"));
    if (p.published() && parameters.act_order)
      problems.emplace_back("--gptvq-rule published: columns are taken as they come; give --act-order false");
    if (p.published() && p.strip_passes != 1)
      problems.emplace_back("--gptvq-rule published: codebooks are fitted once; give --strip-passes 1");
  }

  void check_shape(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                   Problems& problems) const override {
    const std::int64_t d = gptvq_vector_columns(parameters);
    if (in_features % d != 0)
      problems.push_back(fmt::format("--vector-columns {} does not divide the {} columns of a layer [{}, {}]", d,
                                     in_features, out_features, in_features));
    if (parameters.act_order && in_features > kMostStoredOrder)
      problems.push_back(
          fmt::format("a layer of {} columns is past the {} whose order can be stored; use --act-order false",
                      in_features, kMostStoredOrder));
  }

  std::string setting(const QuantParameters& parameters) const override {
    const auto& p = parameters.get<GptvqParameters>();
    const std::int64_t d = gptvq_vector_columns(parameters), bits = parameters.get<UniformParameters>().bits;
    std::string text = fmt::format("{} bits, vectors of {}, groups of {}", bits, d, gptvq_group_weights(parameters));
    if (p.codebook_bits == 16) text += ", 16-bit codebooks";
    if (p.codebook_rank > 0) text += fmt::format(", rank {}", p.codebook_rank);
    if (p.scale_block > 0) text += fmt::format(", scales for {}", p.scale_block);
    if (p.published()) text += ", as published";
    return text;
  }

  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override {
    const format::GptvqElements due =
        elements_due(gptvq_extents(parameters, out_features, in_features), parameters.act_order,
                     parameters.get<GptvqParameters>().codebook_rank);
    StoredBits stored;
    stored.indices = 32 * due.indices;
    stored.codebooks = 16 * (due.codebook + due.codebook_scale + due.codebook_basis) + 8 * due.codebook8;
    stored.scales = 32 * due.block_codes + 16 * due.block_grid;
    stored.permutation = 16 * due.perm;
    return stored;
  }
  bool codes_can_move() const override { return false; }
  double nominal_bits(const QuantParameters& parameters) const override {
    return parameters.get<UniformParameters>().bits;
  }

  std::vector<QuantParameters> settings(const QuantParameters& base,
                                        std::span<const LayerCount> layers) const override {
    std::vector<QuantParameters> settings;
    QuantParameters parameters = base;
    for (int bits = kLeastVectorBits; bits <= kMostVectorBits; ++bits) {
      parameters.get<UniformParameters>().bits = bits;
      if (check_parameters(parameters).empty() && std::all_of(layers.begin(), layers.end(), [&](const auto& layer) {
            return quant::check_shape(parameters, layer.out_features, layer.in_features).empty();
          }))
        settings.push_back(parameters);
    }
    return settings;
  }
  std::optional<QuantParameters> choose_setting(const QuantParameters& base, double wanted,
                                                std::span<const LayerCount> layers) const override {
    return last_within(settings(base, layers), wanted, layers);
  }
  std::optional<double> least_true_bits(const QuantParameters& base,
                                        std::span<const LayerCount> layers) const override {
    std::optional<double> least;
    for (const QuantParameters& parameters : settings(base, layers))
      least = std::min(least.value_or(kMostBits * 4), true_bits(parameters, layers));
    return least;
  }
  QuantParameters quick_setting(const QuantParameters& base) const override {
    constexpr int kQuickIterations = 10;
    QuantParameters quick = base;
    quick.get<UniformParameters>().bits = 2;
    quick.get<GptvqParameters>().vector_columns = 0;
    quick.get<GptvqParameters>().strip_passes = 1;
    quick.get<VectorParameters>().kmeans_iterations =
        std::min(kQuickIterations, base.get<VectorParameters>().kmeans_iterations);
    return quick;
  }
  /// Of Gaussian weights: 1.9 to 2.7 times 4^-bits with scalars, less with vectors.
  double expected_error(const QuantParameters& parameters) const override {
    const std::int64_t d = gptvq_vector_columns(parameters);
    return (d == 4 ? 1.6 : d == 2 ? 2.0 : 2.4) * std::pow(4.0, -parameters.get<UniformParameters>().bits);
  }

  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override;
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& on_rank,
                       core::MemoryPeak& peak) const override;
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override;
};

// As often as the steps of a pass and of an update were seen to run before their rules stopped them, on layers of
// SmolLM2-135M at 2 bits.
constexpr double kUsualSteps = 33, kUsualUpdates = 6;

OperatorWork Gptvq::work(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) const {
  const auto& p = parameters.get<GptvqParameters>();
  const format::GptvqExtents e = gptvq_extents(parameters, out_features, in_features);
  const double weights = static_cast<double>(out_features) * static_cast<double>(in_features),
               k = static_cast<double>(e.centroids), d = static_cast<double>(e.vector_columns), passes = p.strip_passes;
  const double most = parameters.get<VectorParameters>().kmeans_iterations,
               steps = parameters.get<VectorParameters>().kmeans_tolerance > 0 ? std::min(most, kUsualSteps) : most;
  OperatorWork work;
  work.kmeans.nearest = 2 * weights * k * steps * passes;
  work.kmeans.scattered = weights * (d + 3) / 2 * steps * passes;
  work.kmeans.bytes = 60 * weights * passes;
  work.column_loop = product_work(out_features, in_features, passes > 1 ? 1.0 : 0.5);
  work.column_loop.nearest = 2 * weights * k * passes;
  work.column_loop.bytes += 60 * weights;
  work.refine = product_work(out_features, in_features, 2 + (p.codebook_update ? kUsualUpdates + 2 : 0));
  work.exchange_bytes =
      static_cast<double>(stored_bits(parameters, out_features, in_features).total()) / 8 + energy_bytes(out_features);
  work.row_pieces = e.row_groups();
  return work;
}

void Gptvq::consider_memory(const QuantParameters& parameters, const OperatorOnRank& r, core::MemoryPeak& peak) const {
  const auto& p = parameters.get<GptvqParameters>();
  const format::GptvqExtents e = gptvq_extents(parameters, r.out_features, r.in_features);
  const std::int64_t stored = stored_bits(parameters, r.out_features, r.in_features).total() / 8;
  const std::int64_t my_groups = core::ceil_div(e.row_groups(), std::int64_t{r.team_size});
  const std::int64_t rows = std::min(r.out_features, my_groups * e.group_rows), n = r.in_features;
  // Compression sees everybody's codebooks, twice while they are gathered.
  if (p.codebook_rank > 0)
    peak.consider(r.held_bytes + 8 * rows * e.vectors() +
                      4 * (2 * e.row_groups() + 2 * my_groups) * e.strips() * e.book_size() +
                      16 * e.centroids * e.centroids,
                  "basis of the codebooks of " + r.name);
  // Indices, codebooks as they are decoded and as they are stored, block scales.
  const std::int64_t codes =
      2 * rows * e.vectors() + 6 * my_groups * e.strips() * e.book_size() + 6 * rows * e.blocks();
  const std::int64_t strip = std::min(n, e.group_columns), lanes = kernels::host_lanes(std::min(rows, e.group_rows));
  // Points, their masses, the order of their start or the centroid of each, and the sums of the chunks.
  const std::int64_t fitted_together = my_groups >= 4 * r.n_threads ? r.n_threads : 1;
  const std::int64_t points =
      strip * lanes * (e.scale_block > 0 ? 8 : 4) + 8 * strip / e.vector_columns * lanes + 8 * e.centroids * 14 * 8;
  peak.consider(r.held_bytes + codes + 4 * rows * n + (p.strip_passes > 1 ? 4 * rows * strip : 0) +
                    std::max(fitted_together * points,
                             r.n_threads * 4 * (kErrorRows * kErrorRows + kErrorRows * n + 6 * e.book_size())) +
                    4 * my_groups * e.book_size(),
                "column loop of " + r.name);
  if (p.codebook_update) {
    const std::int64_t bundle = std::min(rows, std::max<std::int64_t>(512, e.group_rows));
    const std::int64_t unknowns = core::ceil_div(bundle, e.group_rows) * e.strips() * e.book_size();
    peak.consider(r.held_bytes + codes + 8 * bundle * n + 12 * 8 * unknowns, "update of the codebooks of " + r.name);
  }
  peak.consider(r.held_bytes + codes + 4 * stored, "packing of " + r.name);
  // Tile and product hold weight above difference, on the device and on the host.
  peak.consider(r.held_bytes + stored + 4 * r.out_features * n + 16 * 2 * kErrorRows * n, "error of " + r.name);
}

QuantResult Gptvq::quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                            const QuantParameters& parameters) const {
  check_input(input);
  const auto& p = parameters.get<GptvqParameters>();
  const auto& steps = parameters.get<VectorParameters>();
  format::GptvqExtents extents = gptvq_extents(parameters, input.out_features, input.in_features);
  extents.dtype = input.stored_dtype;
  // What is compressed in the end is fitted and looked up in whole.
  if (p.codebook_rank > 0) extents.codebook_bits = 16;
  GptvqCodes codes(extents, gptvq_groups(extents, team.rank(), team.size()));
  if (extents.scale_block > 0) codes.block_grid = block_grid_of(extents, input.weight, input.hessian->perm);
  MemberFigures figures;
  {
    const backend::HostView<float> factor(context, input.hessian->factor.data(), input.hessian->factor.size());
    const VectorMetric metric =
        vector_metric(input.in_features, extents.vector_columns, factor.values(), p.published());
    const StripRule rule{
        {steps.kmeans_iterations, steps.kmeans_tolerance, p.published()}, p.strip_passes, p.published()};
    figures.strips = run_strips(context.pool(), input, factor.values(), metric, rule, codes);
  }
  if (p.codebook_rank > 0) compress_books(team, p.codebook_rank, p.codebook_bits, p.published(), codes);
  team.check_stop();
  if (p.codebook_update) {
    const backend::HostView<float> hessian(context, input.hessian->h.data(), input.hessian->h.size());
    figures.update = update_books(context.pool(), input, hessian.values(), p.published(), codes);
  }
  format::GptvqEncoding encoding = gather_codes(team, codes, figures);
  const auto& perm = input.hessian->perm;
  // Stored with act-order even where the diagonal falls already: its bits are planned.
  if (parameters.act_order || !std::is_sorted(perm.begin(), perm.end())) {
    VORONOI_REQUIRE(input.in_features <= kMostStoredOrder + 1, input.name + ": the order of too many columns");
    encoding.perm.assign(perm.begin(), perm.end());
  }
  QuantResult result;
  result.encoding = format::to_encoding(encoding);
  result.relative_error = encoding_error(context, team, input, result.encoding);
  const auto books = static_cast<double>(extents.row_groups() * extents.strips());
  result.statistics["damping"] = input.hessian->damping;
  result.statistics["damping_steps"] = input.hessian->damping_steps;
  result.statistics["dead_columns"] = static_cast<double>(input.hessian->dead_columns);
  result.statistics["kmeans_steps"] = static_cast<double>(figures.strips.steps) / books;
  result.statistics["unused_centroids"] = static_cast<double>(figures.strips.unused);
  if (p.codebook_update) {
    const double before = std::accumulate(figures.update.before.begin(), figures.update.before.end(), 0.0),
                 after = std::accumulate(figures.update.after.begin(), figures.update.after.end(), 0.0);
    result.statistics["update_gain"] = before > 0 ? 1 - after / before : 0.0;
    result.statistics["update_steps"] =
        static_cast<double>(figures.update.steps) / static_cast<double>(extents.row_groups());
  }
  return result;
}

}  // namespace

const Method& gptvq_method() {
  static const Gptvq method;
  return method;
}

}  // namespace voronoi::quant
