#include "quant/vq/second_order.h"

#include <utility>

namespace voronoi::quant {

void run_column_loop(backend::Context& context, VqRows& rows, const backend::Array<float>& factor,
                     const Codebooks& books, const ColumnScale& columns, const ColumnLoopOptions& options) {
  backend::Array<float> target = rows.weight.clone();
  const DeviceBooks device_books(context, books, columns);
  context.slice().column_loop(context.exec(), rows.slice, device_books.view(), options.loop, factor.data(),
                              target.data(), rows.code_view(), rows.quantized.data());
  if (!options.keep_residual) return;
  // The target is of no further use: the residual takes its place.
  context.slice().subtract(context.exec(), target.size(), target.data(), rows.quantized.data(), target.data());
  rows.residual = std::move(target);
}

}  // namespace voronoi::quant
