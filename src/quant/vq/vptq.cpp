#include "quant/vq/vptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/packing.h"
#include "core/types.h"
#include "quant/vq/second_order.h"

namespace voronoi::quant {
namespace {

std::vector<std::uint16_t> to_bits(core::DType dtype, std::span<const float> values) {
  std::vector<std::uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(),
                 [&](float value) { return core::to_bits16(dtype, value); });
  return bits;
}

bool is_identity(std::span<const std::int32_t> perm) {
  for (std::size_t i = 0; i < perm.size(); ++i)
    if (perm[i] != static_cast<std::int32_t>(i)) return false;
  return true;
}

std::vector<float> diagonal_of(backend::Context& context, std::int64_t n, const float* matrix) {
  backend::Array<float> diagonal(context, n);
  context.hessian().get_diagonal(context.exec(), n, matrix, diagonal.data());
  return diagonal.to_host();
}

template <class T>
std::vector<T> from_bytes(const std::vector<std::byte>& bytes, std::int64_t count) {
  VORONOI_REQUIRE(bytes.size() == static_cast<std::size_t>(count) * sizeof(T), "a member sent part of its codes");
  std::vector<T> values(static_cast<std::size_t>(count));
  if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
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

VqRun::VqRun(backend::Context& the_context, core::Team& the_team, const QuantInput& the_input,
             const QuantParameters& the_parameters)
    : context(the_context), team(the_team), input(the_input), parameters(the_parameters) {
  VORONOI_REQUIRE(input.hessian != nullptr && input.hessian->n == input.in_features,
                  "the Hessian is of the operator's input");
  VORONOI_REQUIRE(static_cast<std::int64_t>(input.weight.size()) == input.out_features * input.in_features,
                  "the weight has its shape");
  const PreparedHessian& prepared = *input.hessian;
  geometry = make_geometry(parameters, input.out_features, input.in_features);
  columns = column_scales(context, input);
  rows = make_rows(context, geometry, team, input.weight, prepared.perm);
  hessian = prepared.h.data();
  if (!is_identity(prepared.perm)) {
    permuted_hessian_ = backend::Array<float>(context, prepared.h.size());
    const backend::DeviceView<std::int32_t> perm(context, prepared.perm);
    context.hessian().permute(context.exec(), prepared.n, prepared.h.data(), perm.data(), permuted_hessian_.data());
    hessian = permuted_hessian_.data();
  }
  hessian_diagonal = diagonal_of(context, prepared.n, hessian);
  factor_diagonal_ = diagonal_of(context, prepared.n, prepared.factor.data());
  statistics["seed"] = static_cast<double>(parameters.seed);
  statistics["damping"] = prepared.damping;
  statistics["damping_steps"] = prepared.damping_steps;
  statistics["dead_columns"] = static_cast<double>(prepared.dead_columns);
  weight_norm = hessian_norm(rows.weight);
}

void hessian_product(VqRun& run, const backend::Array<float>& x, backend::Array<float>& product) {
  const std::int64_t n = run.geometry.in_features, width = run.rows.slice.width;
  if (width == 0) return;
  run.context.linalg().gemm_f32(run.context.exec(), false, false, n, width, n, 1.0F, run.hessian, n, x.data(), width,
                                0.0F, product.data(), width);
}

/// tr(X H X^T) over the team, X as x [in, width] holds it.
double VqRun::hessian_norm(const backend::Array<float>& x) {
  backend::Array<float> product(context, x.size());
  hessian_product(*this, x, product);
  return sum_over_parts(context, team, geometry.n_parts, rows.parts.count, 1,
                        [&](bool combined, double* sums) {
                          context.slice().dots(context.exec(), rows.slice, x.data(), product.data(), combined, sums);
                        })
      .front();
}

void VqRun::train(TrainingSource source, std::int64_t k, const std::string& name, std::vector<float>& book) {
  // An error of a column costs H_nn at once, and 1 / U_nn^2 after the columns behind it have made up for what they can
  // (the loop's own loss). Either alone is worse on real layers: the first counts what is repaired, the second trusts
  // the damping where a few hot columns carry nearly all of H. Their geometric mean gave the least error over the
  // layers of SmolLM2-135M, the hottest one included.
  std::vector<double> importance;
  for (std::int64_t p = 0; p < geometry.in_features; ++p) {
    const auto at = static_cast<std::size_t>(p);
    importance.push_back(std::sqrt(static_cast<double>(hessian_diagonal[at])) /
                         static_cast<double>(factor_diagonal_[at]));
  }
  book.clear();
  for (std::int64_t group = 0; group < geometry.groups; ++group) {
    const TrainingSet set{geometry.outlier_size + group * geometry.group_size, geometry.group_size, geometry.v};
    const std::string full_name = geometry.groups == 1 ? name : name + "_" + std::to_string(group);
    const std::vector<float> centroids = train_codebook(context, team, geometry, rows, columns, importance, set, source,
                                                        k, input, parameters, full_name, statistics);
    book.insert(book.end(), centroids.begin(), centroids.end());
  }
  if (geometry.outlier_size > 0 && source == TrainingSource::weight)
    books.outlier =
        train_codebook(context, team, geometry, rows, columns, importance, {0, geometry.outlier_size, geometry.v0},
                       source, geometry.k0, input, parameters, "outlier", statistics);
}

void VqRun::run_loop(std::int64_t candidates, bool feedback, bool keep_residual) {
  run_column_loop(context, rows, input.hessian->factor, books, columns, {{candidates, feedback, false}, keep_residual});
}

void VqRun::quantize(std::int64_t candidates) {
  train(TrainingSource::weight, geometry.k, "main", books.main);
  run_loop(1, false, false);
  statistics["error_nearest"] = weight_norm > 0 ? error() / weight_norm : 0;
  run_loop(1, true, geometry.kr > 0);
  statistics["error_pass1"] = weight_norm > 0 ? error() / weight_norm : 0;
  if (geometry.kr == 0) return;
  train(TrainingSource::residual, geometry.kr, "residual", books.residual);
  rows.residual = {};
  run_loop(candidates, true, false);
  statistics["error_pass2"] = weight_norm > 0 ? error() / weight_norm : 0;
}

double VqRun::error() {
  backend::Array<float> lost(context, rows.weight.size());
  context.slice().subtract(context.exec(), lost.size(), rows.weight.data(), rows.quantized.data(), lost.data());
  return hessian_norm(lost);
}

/// Each member packs its rows; their words stand one after another.
void VqRun::pack(format::VqEncoding& encoding) {
  const VqGeometry& g = geometry;
  const int bits = core::index_bits(g.k) + core::index_bits(g.kr);
  const std::int64_t vectors = core::ceil_div(g.out_features, g.v), row_words = core::packed_words(g.group_size, bits);
  std::vector<std::int32_t> stored;  // column of each position within its group
  for (std::int64_t i = 0; i < g.in_features - g.outlier_size; ++i)
    stored.push_back(encoding.perm.empty() ? input.hessian->perm[static_cast<std::size_t>(i)]
                                           : static_cast<std::int32_t>(i % g.group_size));
  const backend::DeviceView<std::int32_t> device_stored(context, stored);
  backend::Array<std::uint32_t> words(context, g.groups * core::ceil_div(rows.slice.rows, g.v) * row_words);
  backend::Array<std::uint16_t> outlier_words(
      context, g.outlier_size > 0 ? core::ceil_div(rows.slice.rows, g.v0) * g.outlier_size : 0);
  context.slice().pack(context.exec(), rows.slice, rows.code_view(), device_stored.data(), words.data(),
                       outlier_words.data());

  encoding.indices.resize(static_cast<std::size_t>(g.groups * vectors * row_words));
  const auto all_words = team.all_gather(std::as_bytes(std::span<const std::uint32_t>(words.to_host())));
  const auto all_outliers = team.all_gather(std::as_bytes(std::span<const std::uint16_t>(outlier_words.to_host())));
  for (std::int64_t rank = 0; rank < team.size(); ++rank) {
    const auto at = static_cast<std::size_t>(rank);
    const MemberParts theirs = member_parts(g, rank, team.size());
    const std::int64_t count = core::ceil_div(theirs.rows, g.v) * row_words;
    const auto some = from_bytes<std::uint32_t>(all_words[at], g.groups * count);
    for (std::int64_t group = 0; group < g.groups; ++group)
      std::copy_n(some.begin() + group * count, count,
                  encoding.indices.begin() + (group * vectors + theirs.row_begin / g.v) * row_words);
    if (g.outlier_size == 0) continue;
    const auto outliers =
        from_bytes<std::uint16_t>(all_outliers[at], core::ceil_div(theirs.rows, g.v0) * g.outlier_size);
    encoding.outlier_indices.insert(encoding.outlier_indices.end(), outliers.begin(), outliers.end());
  }
}

QuantResult VqRun::finish(double error) {
  const VqGeometry& g = geometry;
  const PreparedHessian& prepared = *input.hessian;
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
  encoding.dtype = input.stored_dtype;
  encoding.codebook = to_bits(encoding.dtype, books.main);
  encoding.residual_codebook = to_bits(encoding.dtype, books.residual);
  encoding.outlier_codebook = to_bits(encoding.dtype, books.outlier);

  const auto n = static_cast<std::size_t>(g.in_features);
  std::vector<float> scale(n), bias(n);
  for (std::size_t p = 0; p < n; ++p) {
    const auto column = static_cast<std::size_t>(prepared.perm[p]);
    scale[column] = columns.scale[p];
    bias[column] = columns.bias[p];
  }
  encoding.scale = to_bits(encoding.dtype, scale);
  encoding.bias = to_bits(encoding.dtype, bias);

  // Without groups and outliers the order of columns carries nothing: stored in natural order, no permutation is
  // needed.
  const bool natural = g.groups == 1 && g.outlier_size == 0;
  if (!natural)
    for (const std::int32_t column : prepared.perm) encoding.perm.push_back(static_cast<std::uint16_t>(column));

  pack(encoding);
  return {format::to_encoding(encoding), relative_error_of(error, weight_norm), statistics};
}

namespace {

class VptqQuantizer final : public Quantizer {
 public:
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    VqRun run(context, team, input, parameters);
    run.quantize(1);
    return run.finish(run.error());
  }
};

}  // namespace

const Quantizer& vptq_quantizer() {
  static const VptqQuantizer quantizer;
  return quantizer;
}

}  // namespace voronoi::quant
