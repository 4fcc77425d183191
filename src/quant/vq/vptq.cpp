#include "quant/vq/vptq.h"

#include <algorithm>
#include <bit>
#include <cmath>
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

int log2_of(std::int64_t power_of_two) { return std::countr_zero(static_cast<std::uint64_t>(power_of_two)); }

/// tr(X H X^T) over the pieces, X as fill(piece, x) writes it.
template <class Fill>
double hessian_norm(VqRun& run, const Fill& fill) {
  std::vector<std::vector<double>> parts(run.pieces.size());
  run.context.pool().parallel_for(static_cast<std::int64_t>(parts.size()), [&](std::int64_t i) {
    const Piece& piece = run.pieces[static_cast<std::size_t>(i)];
    const std::int64_t n = run.geometry.in_features;
    std::vector<float> x(piece.weight.size()), product(piece.weight.size());
    fill(piece, x);
    run.context.linalg().gemm_f32(run.context.exec(), false, false, n, piece.width, n, 1.0F, run.hessian.data(), n,
                                  x.data(), piece.width, 0.0F, product.data(), piece.width);
    double sum = 0;
    for (std::size_t j = 0; j < x.size(); ++j) sum += static_cast<double>(x[j]) * static_cast<double>(product[j]);
    parts[static_cast<std::size_t>(i)] = {sum};
  });
  return sum_over_pieces(run.team, 1, std::move(parts)).front();
}

}  // namespace

ColumnScale column_scales(const QuantInput& input) {
  const auto n = static_cast<std::size_t>(input.in_features);
  const auto rows = static_cast<double>(input.out_features);
  std::vector<double> mean(n, 0.0), deviation(n, 0.0);
  const auto for_each_weight = [&](const auto& take) {
    for (std::int64_t r = 0; r < input.out_features; ++r) {
      const float* row = input.weight.data() + r * input.in_features;
      for (std::size_t c = 0; c < n; ++c) take(c, static_cast<double>(row[c]));
    }
  };
  for_each_weight([&](std::size_t c, double weight) { mean[c] += weight / rows; });
  for_each_weight(
      [&](std::size_t c, double weight) { deviation[c] += (weight - mean[c]) * (weight - mean[c]) / rows; });

  ColumnScale columns;
  for (std::size_t p = 0; p < n; ++p) {
    const auto column = static_cast<std::size_t>(input.hessian->perm[p]);
    const float scale = core::round_to(input.stored_dtype, static_cast<float>(std::sqrt(deviation[column])));
    const float bias = core::round_to(input.stored_dtype, static_cast<float>(mean[column]));
    // A column of equal weights, or one that the stored type cannot hold, keeps its own units.
    columns.scale.push_back(scale > 0 && std::isfinite(scale) ? scale : 1.0F);
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
  columns = column_scales(input);
  pieces = make_pieces(geometry, team, input.weight, prepared.perm);
  if (is_identity(prepared.perm)) {
    hessian = prepared.h;
  } else {
    const std::int64_t n = prepared.n;
    permuted_hessian_.resize(prepared.h.size());
    context.pool().parallel_for(n, [&](std::int64_t p) {
      const float* source = prepared.h.data() + prepared.perm[static_cast<std::size_t>(p)] * n;
      float* target = permuted_hessian_.data() + p * n;
      for (std::int64_t q = 0; q < n; ++q) target[q] = source[prepared.perm[static_cast<std::size_t>(q)]];
    });
    hessian = permuted_hessian_;
  }
  statistics["seed"] = static_cast<double>(parameters.seed);
  statistics["damping"] = prepared.damping;
  statistics["damping_steps"] = prepared.damping_steps;
  statistics["dead_columns"] = static_cast<double>(prepared.dead_columns);
  weight_norm = hessian_norm(*this, [](const Piece& piece, std::vector<float>& x) { x = piece.weight; });
}

void VqRun::train(TrainingSource source, std::int64_t k, const std::string& name, std::vector<float>& book) {
  // An error of a column costs H_nn at once, and 1 / U_nn^2 after the columns behind it have made up for what they can
  // (the loop's own loss). Either alone is worse on real layers: the first counts what is repaired, the second trusts
  // the damping where a few hot columns carry nearly all of H. Their geometric mean gave the least error over the
  // layers of SmolLM2-135M, the hottest one included.
  std::vector<double> importance;
  for (std::int64_t p = 0; p < geometry.in_features; ++p) {
    const auto diagonal = static_cast<std::size_t>(p * (geometry.in_features + 1));
    importance.push_back(std::sqrt(static_cast<double>(hessian[diagonal])) /
                         static_cast<double>(input.hessian->factor[diagonal]));
  }
  book.clear();
  for (std::int64_t group = 0; group < geometry.groups; ++group) {
    const TrainingSet set{geometry.outlier_size + group * geometry.group_size, geometry.group_size, geometry.v};
    const std::string full_name = geometry.groups == 1 ? name : name + "_" + std::to_string(group);
    const std::vector<float> centroids = train_codebook(context, team, geometry, pieces, columns, importance, set,
                                                        source, k, input, parameters, full_name, {}, statistics);
    book.insert(book.end(), centroids.begin(), centroids.end());
  }
  if (geometry.outlier_size > 0 && source == TrainingSource::weight)
    books.outlier =
        train_codebook(context, team, geometry, pieces, columns, importance, {0, geometry.outlier_size, geometry.v0},
                       source, geometry.k0, input, parameters, "outlier", {}, statistics);
}

void VqRun::quantize(std::int64_t candidates) {
  const std::span<const float> factor = input.hessian->factor;
  train(TrainingSource::weight, geometry.k, "main", books.main);
  run_column_loop(context, geometry, pieces, factor, books, columns, {1, false, false});
  statistics["error_nearest"] = weight_norm > 0 ? error() / weight_norm : 0;
  run_column_loop(context, geometry, pieces, factor, books, columns, {1, true, geometry.kr > 0});
  statistics["error_pass1"] = weight_norm > 0 ? error() / weight_norm : 0;
  if (geometry.kr == 0) return;
  train(TrainingSource::residual, geometry.kr, "residual", books.residual);
  for (Piece& piece : pieces) std::vector<float>().swap(piece.residual);
  run_column_loop(context, geometry, pieces, factor, books, columns, {candidates, true, false});
  statistics["error_pass2"] = weight_norm > 0 ? error() / weight_norm : 0;
}

double VqRun::error() {
  return hessian_norm(*this, [](const Piece& piece, std::vector<float>& x) {
    std::transform(piece.weight.begin(), piece.weight.end(), piece.quantized.begin(), x.begin(), std::minus<>());
  });
}

QuantResult VqRun::finish(double error) {
  const VqGeometry& g = geometry;
  const PreparedHessian& prepared = *input.hessian;
  const AllCodes all = gather_codes(team, g, pieces);
  VqEncoding encoding;
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

  const int main_bits = log2_of(g.k), bits = main_bits + (g.kr > 0 ? log2_of(g.kr) : 0);
  const std::int64_t vectors = core::ceil_div(g.out_features, g.v), words = core::packed_words(g.group_size, bits);
  encoding.indices.resize(static_cast<std::size_t>(g.groups * vectors * words));
  if (g.outlier_size > 0)
    encoding.outlier_indices.resize(static_cast<std::size_t>(core::ceil_div(g.out_features, g.v0) * g.outlier_size));
  std::vector<std::uint32_t> row(static_cast<std::size_t>(g.group_size));
  for (std::int64_t id = 0; id < g.n_pieces; ++id) {
    const auto& codes = all.codes[static_cast<std::size_t>(id)];
    const std::int64_t stride = g.max_vectors(id), rows = g.row_end(id) - g.row_begin(id);
    for (std::int64_t i = 0; i < core::ceil_div(rows, g.v); ++i)
      for (std::int64_t group = 0; group < g.groups; ++group) {
        for (std::int64_t j = 0; j < g.group_size; ++j) {
          const std::int64_t position = g.outlier_size + group * g.group_size + j;
          const auto at = static_cast<std::size_t>(position * stride + i);
          auto value = static_cast<std::uint32_t>(codes[at]);
          if (g.kr > 0)
            value |= static_cast<std::uint32_t>(all.residual_codes[static_cast<std::size_t>(id)][at]) << main_bits;
          row[static_cast<std::size_t>(natural ? prepared.perm[static_cast<std::size_t>(position)] : j)] = value;
        }
        const std::int64_t vector = g.row_begin(id) / g.v + i;
        core::pack_row(row, bits,
                       std::span(encoding.indices)
                           .subspan(static_cast<std::size_t>((group * vectors + vector) * words),
                                    static_cast<std::size_t>(words)));
      }
    for (std::int64_t i = 0; g.outlier_size > 0 && i < core::ceil_div(rows, g.v0); ++i)
      for (std::int64_t position = 0; position < g.outlier_size; ++position)
        encoding.outlier_indices[static_cast<std::size_t>((g.row_begin(id) / g.v0 + i) * g.outlier_size + position)] =
            static_cast<std::uint16_t>(codes[static_cast<std::size_t>(position * stride + i)]);
  }
  return {Encoding(std::move(encoding)), weight_norm > 0 ? error / weight_norm : 0.0, statistics};
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
