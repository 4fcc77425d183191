#include "quant/vq/vptq.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"
#include "core/types.h"
#include "quant/vq/second_order.h"

namespace voronoi::quant {

using core::index;

namespace {

std::vector<std::uint16_t> to_bits(core::DType dtype, std::span<const float> values) {
  std::vector<std::uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(),
                 [&](float value) { return core::to_bits16(dtype, value); });
  return bits;
}

}  // namespace

ColumnScale column_scales(backend::Context& context, const QuantInput& input) {
  const auto n = static_cast<std::size_t>(input.in_features);
  const auto rows = static_cast<double>(input.out_features);
  std::vector<double> mean(n, 0.0), deviation(n, 0.0);
  constexpr std::int64_t kColumns = 64;
  context.pool().parallel_for(core::ceil_div(input.in_features, kColumns), [&](std::int64_t block) {
    const std::int64_t end = std::min(input.in_features, (block + 1) * kColumns);
    const auto for_each_weight = [&](const auto& take) {
      for (std::int64_t r = 0; r < input.out_features; ++r)
        for (std::int64_t c = block * kColumns; c < end; ++c)
          take(static_cast<std::size_t>(c),
               static_cast<double>(input.weight[static_cast<std::size_t>(r * input.in_features + c)]));
    };
    for_each_weight([&](std::size_t c, double weight) { mean[c] += weight / rows; });
    for_each_weight(
        [&](std::size_t c, double weight) { deviation[c] += (weight - mean[c]) * (weight - mean[c]) / rows; });
  });

  ColumnScale columns;
  for (std::size_t p = 0; p < n; ++p) {
    const auto column = static_cast<std::size_t>(input.hessian->perm[p]);
    const float scale = core::round_to(input.stored_dtype, static_cast<float>(std::sqrt(deviation[column])));
    const float bias = core::round_to(input.stored_dtype, static_cast<float>(mean[column]));
    // A column of equal weights, or one that the stored type cannot hold, keeps its own units; so does one so small
    // that 1 / scale is not finite.
    columns.scale.push_back(std::isnormal(scale) ? scale : 1.0F);
    columns.bias.push_back(std::isfinite(bias) ? bias : 0.0F);
  }
  return columns;
}

namespace {

/// Main or residual books of all groups, and with the main ones that of the outliers.
std::vector<float> train_books(const VqProblem& problem, const ColumnScale& columns,
                               const backend::Array<float>* residual, std::int64_t k, const std::string& name,
                               std::map<std::string, double>& statistics) {
  const VqGeometry& g = problem.geometry;
  std::vector<float> books;
  for (std::int64_t group = 0; group < g.groups; ++group) {
    const TrainingSet set{g.outlier_size + group * g.group_size, g.group_size, g.v, residual};
    const std::string full_name = g.groups == 1 ? name : name + "_" + std::to_string(group);
    const std::vector<float> centroids = train_codebook(problem, columns, set, k, full_name, statistics);
    books.insert(books.end(), centroids.begin(), centroids.end());
  }
  return books;
}

/// Each member packs its rows, piece by piece; their words stand one after another.
void pack(const VqProblem& problem, VqState& state, format::VqEncoding& encoding) {
  const VqGeometry& g = problem.geometry;
  backend::Context& context = problem.context;
  const int bits = core::index_bits(g.k) + core::index_bits(g.kr);
  const std::int64_t vectors = core::ceil_div(g.out_features, g.v), row_words = core::packed_words(g.group_size, bits);
  std::vector<std::int32_t> stored;  // column of each position within its group
  for (std::int64_t i = 0; i < g.in_features - g.outlier_size; ++i)
    stored.push_back(encoding.perm.empty() ? problem.input.hessian->perm[index(i)]
                                           : static_cast<std::int32_t>(i % g.group_size));
  const backend::DeviceView<std::int32_t> device_stored(context, stored);
  const auto words_of = [&](const MemberParts& parts) { return core::ceil_div(parts.rows, g.v) * row_words; };
  std::vector<std::uint32_t> my_words;
  std::vector<std::uint16_t> my_outliers;
  for (const VqPiece& piece : problem.rows.pieces) {
    backend::Array<std::uint32_t> words(context, g.groups * words_of(piece.parts));
    backend::Array<std::uint16_t> outlier_words(
        context, g.outlier_size > 0 ? core::ceil_div(piece.parts.rows, g.v0) * g.outlier_size : 0);
    context.slice().pack(context.exec(), piece.slice, piece.codes(state.code_view()), device_stored.data(),
                         words.data(), outlier_words.data());
    const std::vector<std::uint32_t> packed = words.to_host();
    my_words.insert(my_words.end(), packed.begin(), packed.end());
    const std::vector<std::uint16_t> packed_outliers = outlier_words.to_host();
    my_outliers.insert(my_outliers.end(), packed_outliers.begin(), packed_outliers.end());
  }

  encoding.indices.resize(index(g.groups * vectors * row_words));
  const auto all_words = problem.team.all_gather(std::as_bytes(std::span<const std::uint32_t>(my_words)));
  const auto all_outliers = problem.team.all_gather(std::as_bytes(std::span<const std::uint16_t>(my_outliers)));
  for (std::int64_t rank = 0; rank < problem.team.size(); ++rank) {
    const MemberParts theirs = member_parts(g, rank, problem.team.size());
    const auto some = core::values_of<std::uint32_t>(all_words[index(rank)]);
    std::int64_t taken = 0;
    for (const PieceParts& piece : member_pieces(g, rank, problem.team.size())) {
      const std::int64_t count = words_of(piece.parts);
      VORONOI_REQUIRE(taken + g.groups * count <= std::ssize(some), "a member sent part of its codes");
      for (std::int64_t group = 0; group < g.groups; ++group, taken += count)
        std::copy_n(some.begin() + taken, count,
                    encoding.indices.begin() + (group * vectors + piece.parts.row_begin / g.v) * row_words);
    }
    VORONOI_REQUIRE(taken == std::ssize(some), "a member sent more than its codes");
    if (g.outlier_size == 0) continue;
    core::append_values(all_outliers[index(rank)], encoding.outlier_indices);
    VORONOI_REQUIRE(
        encoding.outlier_indices.size() == index(core::ceil_div(theirs.row_begin + theirs.rows, g.v0) * g.outlier_size),
        "a member sent part of its outliers");
  }
}

}  // namespace

std::string vptq_passes(const VqProblem& problem, std::int64_t candidates, VqState& state,
                        std::map<std::string, double>& statistics) {
  const VqGeometry& g = problem.geometry;
  std::vector<const float*> factors;
  for (const VqMetric& metric : problem.metrics) factors.push_back(metric.prepared->factor.data());
  const auto loop = [&](const kernels::ColumnLoopOptions& options, bool keep_residual) {
    return run_column_loop(problem.context, problem.rows, factors, options, keep_residual, state);
  };
  const auto relative_error = [&] { return problem.relative(undamped_error(problem, state)); };
  state.books = {};
  state.books.main = train_books(problem, state.columns, nullptr, g.k, "main", statistics);
  if (g.outlier_size > 0)
    state.books.outlier =
        train_codebook(problem, state.columns, {0, g.outlier_size, g.v0}, g.k0, "outlier", statistics);
  loop({.feedback = false}, false);
  statistics["error_nearest"] = relative_error();
  {
    const backend::Array<float> residual = loop({}, g.kr > 0);
    if (g.kr == 0) return "error_pass1";
    statistics["error_pass1"] = relative_error();
    state.books.residual = train_books(problem, state.columns, &residual, g.kr, "residual", statistics);
  }
  loop({.candidates = candidates}, false);
  return "error_pass2";
}

QuantResult pack_result(const VqProblem& problem, VqState state, double error,
                        std::map<std::string, double> statistics) {
  const VqGeometry& g = problem.geometry;
  const PreparedHessian& prepared = *problem.input.hessian;
  format::VqEncoding encoding;
  encoding.out_features = g.out_features;
  encoding.in_features = g.in_features;
  encoding.vector_length = g.v;
  encoding.centroids = g.k;
  encoding.residual_centroids = g.kr;
  encoding.groups = g.groups;
  encoding.outlier_size = g.outlier_size;
  encoding.outlier_vector_length = g.outlier_size > 0 ? g.v0 : 0;
  encoding.outlier_centroids = g.outlier_size > 0 ? g.k0 : 0;
  encoding.dtype = problem.input.stored_dtype;
  encoding.codebook = to_bits(encoding.dtype, state.books.main);
  encoding.residual_codebook = to_bits(encoding.dtype, state.books.residual);
  encoding.outlier_codebook = to_bits(encoding.dtype, state.books.outlier);

  const auto n = static_cast<std::size_t>(g.in_features);
  std::vector<float> scale(n), bias(n);
  for (std::size_t p = 0; p < n; ++p) {
    const auto column = static_cast<std::size_t>(prepared.perm[p]);
    scale[column] = state.columns.scale[p];
    bias[column] = state.columns.bias[p];
  }
  encoding.scale = to_bits(encoding.dtype, scale);
  encoding.bias = to_bits(encoding.dtype, bias);

  // Without groups and outliers the order of columns carries nothing: stored in natural order, no permutation is
  // needed.
  const bool natural = g.groups == 1 && g.outlier_size == 0;
  if (!natural)
    for (const std::int32_t column : prepared.perm) encoding.perm.push_back(static_cast<std::uint16_t>(column));

  pack(problem, state, encoding);
  statistics["seed"] = static_cast<double>(problem.parameters.seed);
  // Of groups of rows the largest.
  double damping = 0, damping_steps = 0, dead_columns = 0;
  for (const VqMetric& metric : problem.metrics) {
    damping = std::max(damping, metric.prepared->damping);
    damping_steps = std::max<double>(damping_steps, metric.prepared->damping_steps);
    dead_columns = std::max(dead_columns, static_cast<double>(metric.prepared->dead_columns));
  }
  statistics["damping"] = damping;
  statistics["damping_steps"] = damping_steps;
  statistics["dead_columns"] = dead_columns;
  return {format::to_encoding(encoding), relative_error_of(error, problem.weight_norm), std::move(statistics)};
}

QuantResult run_vptq(backend::Context& context, core::Team& team, const QuantInput& input,
                     const QuantParameters& parameters) {
  const VqProblem problem(context, team, input, parameters);
  VqState state = make_state(context, problem.rows, column_scales(context, input));
  std::map<std::string, double> statistics;
  const std::string last_pass = vptq_passes(problem, 1, state, statistics);
  const double error = undamped_error(problem, state);
  statistics[last_pass] = problem.relative(error);
  return pack_result(problem, std::move(state), error, std::move(statistics));
}

}  // namespace voronoi::quant
