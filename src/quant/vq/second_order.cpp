#include "quant/vq/second_order.h"

#include <algorithm>

namespace voronoi::quant {
namespace {

// Columns whose feedback is held back and paid in one product; inside, columns go in smaller steps of the same kind.
constexpr std::int64_t kBlock = 128;
constexpr std::int64_t kStep = 16;

class PieceLoop {
 public:
  PieceLoop(backend::Context& context, const VqGeometry& geometry, Piece& piece, std::span<const float> factor,
            const Codebooks& books, const ColumnScale& columns, const ColumnLoopOptions& options)
      : context_(context),
        piece_(piece),
        options_(options),
        n_(geometry.in_features),
        width_(piece.width),
        factor_(factor.data()),
        search_(context, geometry, books, columns, options.candidates, piece,
                options.padding_counts ? piece.width : piece.rows),
        target_(piece.weight) {
    if (options.keep_residual) piece.residual.resize(piece.weight.size());
    if (options.feedback) error_.resize(static_cast<std::size_t>(kBlock * width_));
  }

  void run() {
    for (std::int64_t s = 0; s < n_; s += kBlock) {
      const std::int64_t e = std::min(n_, s + kBlock);
      for (std::int64_t t = s; t < e; t += kStep) {
        const std::int64_t u = std::min(e, t + kStep);
        for (std::int64_t column = t; column < u; ++column) {
          if (options_.feedback) pay_back(column, t, s);
          quantize(column, s);
        }
        if (options_.feedback) spread(t, u, u, e, s);
      }
      if (options_.feedback) spread(s, e, e, n_, s);
    }
  }

 private:
  float* column_of(std::vector<float>& matrix, std::int64_t column) const { return matrix.data() + column * width_; }

  /// Takes from `column` what columns [from, column) of its step owe it.
  void pay_back(std::int64_t column, std::int64_t from, std::int64_t block_start) {
    float* target = column_of(target_, column);
    for (std::int64_t j = from; j < column; ++j) {
      const float factor = factor_[j * n_ + column];
      const float* error = column_of(error_, j - block_start);
      for (std::int64_t r = 0; r < width_; ++r) target[r] -= factor * error[r];
    }
  }

  void quantize(std::int64_t column, std::int64_t block_start) {
    const std::int64_t codes_at = column * piece_.code_stride;
    const float* target = column_of(target_, column);
    float* quantized = column_of(piece_.quantized, column);
    std::int32_t* residual_codes = piece_.residual_codes.empty() ? nullptr : piece_.residual_codes.data() + codes_at;
    search_.choose(column, target, piece_.codes.data() + codes_at, residual_codes, quantized);
    if (options_.keep_residual)
      std::transform(target, target + width_, quantized, column_of(piece_.residual, column), std::minus<>());
    if (!options_.feedback) return;
    // Rows past the end are zero in target and quantized alike: they owe nothing.
    const float inverse = 1.0F / factor_[column * n_ + column];
    float* error = column_of(error_, column - block_start);
    for (std::int64_t r = 0; r < width_; ++r) error[r] = (target[r] - quantized[r]) * inverse;
  }

  /// target[to, to_end) -= U[from, from_end)[to, to_end)^T error[from, from_end).
  void spread(std::int64_t from, std::int64_t from_end, std::int64_t to, std::int64_t to_end,
              std::int64_t block_start) {
    if (to >= to_end) return;
    context_.linalg().gemm_f32(context_.exec(), true, false, to_end - to, width_, from_end - from, -1.0F,
                               factor_ + from * n_ + to, n_, column_of(error_, from - block_start), width_, 1.0F,
                               column_of(target_, to), width_);
  }

  backend::Context& context_;
  Piece& piece_;
  const ColumnLoopOptions& options_;
  std::int64_t n_, width_;
  const float* factor_;
  ColumnSearch search_;
  std::vector<float> target_;  ///< [in, width] weights with the feedback so far
  std::vector<float> error_;   ///< [kBlock, width] e_n of the block's columns
};

}  // namespace

void run_column_loop(backend::Context& context, const VqGeometry& geometry, std::vector<Piece>& pieces,
                     std::span<const float> factor, const Codebooks& books, const ColumnScale& columns,
                     const ColumnLoopOptions& options) {
  for_each_piece(context, pieces,
                 [&](Piece& piece) { PieceLoop(context, geometry, piece, factor, books, columns, options).run(); });
}

}  // namespace voronoi::quant
