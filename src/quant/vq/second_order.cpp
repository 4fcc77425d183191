#include "quant/vq/second_order.h"

namespace voronoi::quant {

backend::Array<float> run_column_loop(backend::Context& context, const VqRows& rows,
                                      const backend::Array<float>& factor, const kernels::ColumnLoopOptions& options,
                                      bool keep_residual, VqState& state) {
  backend::Array<float> target = rows.weight.clone();
  const DeviceBooks books(context, state.books, state.columns);
  context.slice().column_loop(context.exec(), rows.slice, books.view(), options, factor.data(), target.data(),
                              state.code_view(), state.quantized.data());
  if (!keep_residual) return {};
  // The target is of no further use: the residual takes its place.
  context.slice().subtract(context.exec(), target.size(), target.data(), state.quantized.data(), target.data());
  return target;
}

}  // namespace voronoi::quant
