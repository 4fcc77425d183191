#include "quant/vq/second_order.h"

#include "core/index.h"

namespace voronoi::quant {

backend::Array<float> run_column_loop(backend::Context& context, const VqRows& rows,
                                      const std::vector<const float*>& factors,
                                      const kernels::ColumnLoopOptions& options, bool keep_residual, VqState& state) {
  backend::Array<float> target = rows.weight.clone();
  const DeviceBooks books(context, state.books, state.columns);
  for (const VqPiece& piece : rows.pieces)
    context.slice().column_loop(context.exec(), piece.slice, books.view(), options,
                                factors[core::index(piece.row_group)], piece.values(target.data()),
                                piece.codes(state.code_view()), piece.values(state.quantized.data()));
  if (!keep_residual) return {};
  // The target is of no further use: the residual takes its place.
  context.slice().subtract(context.exec(), target.size(), target.data(), state.quantized.data(), target.data());
  return target;
}

}  // namespace voronoi::quant
