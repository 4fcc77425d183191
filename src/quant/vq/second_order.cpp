#include "quant/vq/second_order.h"

#include "core/index.h"
#include "core/work_counts.h"

namespace voronoi::quant {

backend::Array<float> run_column_loop(backend::Context& context, const VqRows& rows,
                                      const std::vector<const float*>& factors,
                                      const kernels::ColumnLoopOptions& options, bool keep_residual, VqState& state) {
  backend::Array<float> target = rows.weight.clone();
  const DeviceBooks books(context, state.books, state.columns);
  count_search(rows, state.books, options.candidates);
  if (options.feedback) core::count_work(core::Counted::gemm_flops, spreading_flops(rows));
  for (const VqPiece& piece : rows.pieces)
    context.slice().column_loop(context.exec(), piece.slice, books.view(), options,
                                factors[core::index(piece.row_group)], piece.values(target.data()),
                                piece.codes(state.code_view()), piece.values(state.quantized.data()));
  if (!keep_residual) return {};
  // The target is of no further use: the residual takes its place.
  context.slice().subtract(context.exec(), target.size(), target.data(), state.quantized.data(), target.data());
  return target;
}

void count_search(const VqRows& rows, const Codebooks& books, std::int64_t candidates) {
  for (const VqPiece& piece : rows.pieces) {
    const double weights = static_cast<double>(piece.slice.rows) * static_cast<double>(piece.slice.in_features);
    const std::int64_t residual = books.residual.empty() ? 0 : piece.slice.kr * candidates;
    core::count_work(core::Counted::nearest_flops, 2 * weights * static_cast<double>(piece.slice.k + residual));
  }
}

double spreading_flops(const VqRows& rows) {
  double flops = 0;
  for (const VqPiece& piece : rows.pieces) {
    const auto in = static_cast<double>(piece.slice.in_features);
    flops += static_cast<double>(piece.slice.rows) * in * in;
  }
  return flops;
}

}  // namespace voronoi::quant
