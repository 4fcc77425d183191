// The column loop and the sweep of one strip.
#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/column_rows.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vq_slice.h"

namespace voronoi::kernels::slice {
namespace {

class StripLoop {
 public:
  StripLoop(const Exec& exec, const Part& strip, const VqBooks& books, const PackedBooks& packed,
            const ColumnLoopOptions& options, const float* factor, float* target, const VqCodes& codes,
            float* quantized)
      : exec_(exec),
        strip_(strip),
        options_(options),
        n_(strip.slice.in_features),
        width_(strip.width),
        stride_(strip.slice.width),
        factor_(factor),
        slice_target_(target + strip.row),
        codes_(codes),
        quantized_(quantized + strip.row),
        search_(strip, books, packed, options.candidates),
        target_(n_ * width_),
        error_(kColumnBlock * width_) {}

  void run() {
    copy_rows(n_, width_, slice_target_, stride_, target_.data(), width_);
    for (std::int64_t s = 0; s < n_; s += kColumnBlock) {
      const std::int64_t e = std::min(n_, s + kColumnBlock);
      for (std::int64_t t = s; t < e; t += kColumnStep) {
        const std::int64_t u = std::min(e, t + kColumnStep);
        for (std::int64_t column = t; column < u; ++column) {
          if (options_.feedback)
            pay_back(column - t, factor_ + t * n_ + column, n_, error_.data() + (t - s) * width_, width_,
                     target_.data() + column * width_);
          quantize(column, s);
        }
        if (options_.feedback) spread(t, u, u, e, s);
      }
      if (options_.feedback) spread(s, e, e, n_, s);
    }
    copy_rows(n_, width_, target_.data(), width_, slice_target_, stride_);
  }

 private:
  void quantize(std::int64_t column, std::int64_t block_start) {
    const std::int64_t at = strip_.codes_at(column);
    const float* target = target_.data() + column * width_;
    float* quantized = quantized_ + column * stride_;
    search_.choose(column, target, codes_.main + at, codes_.residual != nullptr ? codes_.residual + at : nullptr,
                   quantized);
    if (!options_.feedback) return;
    // Rows past the end are zero in target and quantized alike: they owe nothing.
    const float inverse = 1.0F / factor_[column * n_ + column];
    scale_difference(width_, target, quantized, inverse, error_.data() + (column - block_start) * width_);
  }

  /// target[to, to_end) -= U[from, from_end)[to, to_end)^T error[from, from_end).
  void spread(std::int64_t from, std::int64_t from_end, std::int64_t to, std::int64_t to_end,
              std::int64_t block_start) {
    if (to >= to_end) return;
    cpu_gemm(exec_,
             MatrixProduct<float>{true, false, to_end - to, width_, from_end - from, -1.0F, factor_ + from * n_ + to,
                                  n_, error_.data() + (from - block_start) * width_, width_, 1.0F,
                                  target_.data() + to * width_, width_},
             kernels::Part::all, 1);
  }

  const Exec& exec_;
  const Part& strip_;
  const ColumnLoopOptions& options_;
  std::int64_t n_, width_, stride_;
  const float* factor_;
  float* slice_target_;
  const VqCodes& codes_;
  float* quantized_;
  ColumnSearch search_;
  Scratch<float> target_;  ///< [in, width] weights with the feedback so far
  Scratch<float> error_;   ///< [kColumnBlock, width] e_n of the block's columns
};

class StripSweep {
 public:
  StripSweep(const Exec& exec, const Part& strip, const VqBooks& books, const PackedBooks& packed,
             std::int64_t candidates, const float* hessian, float* gradient, const VqCodes& codes, float* quantized)
      : exec_(exec),
        strip_(strip),
        hessian_(hessian),
        n_(strip.slice.in_features),
        width_(strip.width),
        stride_(strip.slice.width),
        slice_gradient_(gradient + strip.row),
        codes_(codes),
        quantized_(quantized + strip.row),
        search_(strip, books, packed, candidates),
        gradient_(n_ * width_),
        block_(kColumnBlock * width_),
        change_(kColumnBlock * width_),
        target_(static_cast<std::size_t>(width_)),
        chosen_(target_.size()),
        new_codes_(static_cast<std::size_t>(strip.max_vectors())),
        new_residual_codes_(new_codes_.size()) {}

  void run() {
    copy_rows(n_, width_, slice_gradient_, stride_, gradient_.data(), width_);
    for (std::int64_t s = 0; s < n_; s += kColumnBlock) {
      const std::int64_t e = std::min(n_, s + kColumnBlock);
      std::copy_n(gradient_.data() + s * width_, (e - s) * width_, block_.data());
      for (std::int64_t t = s; t < e; t += kColumnStep) {
        const std::int64_t u = std::min(e, t + kColumnStep);
        for (std::int64_t column = t; column < u; ++column) {
          float* gradient = block_.data() + (column - s) * width_;
          pay_back(column - t, hessian_ + t * n_ + column, n_, change_.data() + (t - s) * width_, width_, gradient);
          visit(column, gradient, change_.data() + (column - s) * width_);
        }
        spread(t, u, u, e, s, block_.data() + (u - s) * width_);
      }
      spread(s, e, 0, n_, s, gradient_.data());
    }
    copy_rows(n_, width_, gradient_.data(), width_, slice_gradient_, stride_);
  }

 private:
  void visit(std::int64_t column, const float* gradient, float* change) {
    std::int32_t* codes = codes_.main + strip_.codes_at(column);
    std::int32_t* residual_codes = codes_.residual != nullptr ? codes_.residual + strip_.codes_at(column) : nullptr;
    float* quantized = quantized_ + column * stride_;
    const float inverse = 1.0F / hessian_[column * (n_ + 1)];
    add_scaled(width_, quantized, gradient, inverse, target_.data());
    search_.choose(column, target_.data(), new_codes_.data(), new_residual_codes_.data(), chosen_.data());
    const std::int64_t v = strip_.vector_length(column);
    std::fill_n(change, width_, 0.0F);
    for (std::int64_t r = 0, i = 0; r < strip_.rows; r += v, ++i) {
      const std::int64_t end = std::min(r + v, strip_.rows);
      float old_distance = 0, new_distance = 0;
      for (std::int64_t j = r; j < end; ++j) {
        const auto at = static_cast<std::size_t>(j);
        const float a = target_[at] - quantized[j], b = target_[at] - chosen_[at];
        old_distance += a * a;
        new_distance += b * b;
      }
      if (!(new_distance < old_distance)) continue;
      codes[i] = new_codes_[static_cast<std::size_t>(i)];
      if (residual_codes != nullptr) residual_codes[i] = new_residual_codes_[static_cast<std::size_t>(i)];
      for (std::int64_t j = r; j < end; ++j) {
        change[j] = chosen_[static_cast<std::size_t>(j)] - quantized[j];
        quantized[j] = chosen_[static_cast<std::size_t>(j)];
      }
    }
  }

  /// to_rows [to, to_end) -= H[from, from_end)[to, to_end)^T change[from, from_end).
  void spread(std::int64_t from, std::int64_t from_end, std::int64_t to, std::int64_t to_end, std::int64_t block_start,
              float* to_rows) {
    if (to >= to_end) return;
    cpu_gemm(exec_,
             MatrixProduct<float>{true, false, to_end - to, width_, from_end - from, -1.0F, hessian_ + from * n_ + to,
                                  n_, change_.data() + (from - block_start) * width_, width_, 1.0F, to_rows, width_},
             kernels::Part::all, 1);
  }

  const Exec& exec_;
  const Part& strip_;
  const float* hessian_;
  std::int64_t n_, width_, stride_;
  float* slice_gradient_;
  const VqCodes& codes_;
  float* quantized_;
  ColumnSearch search_;
  Scratch<float> gradient_;        ///< [in, width]
  Scratch<float> block_, change_;  ///< [kColumnBlock, width] gradients and changes of the block's columns
  std::vector<float> target_, chosen_;
  std::vector<std::int32_t> new_codes_, new_residual_codes_;
};

}  // namespace

void column_loop(const Exec& exec, const VqSlice& slice, const VqBooks& books, const ColumnLoopOptions& options,
                 const float* factor, float* target, const VqCodes& codes, float* quantized) {
  const std::vector<Part> strips = strips_of(slice, exec.pool->size());
  if (strips.empty()) return;
  const PackedBooks packed(exec, slice, books, options.padding_counts);
  exec.pool->parallel_for(static_cast<std::int64_t>(strips.size()), [&](std::int64_t index) {
    StripLoop(exec, strips[static_cast<std::size_t>(index)], books, packed, options, factor, target, codes, quantized)
        .run();
  });
}

void sweep(const Exec& exec, const VqSlice& slice, const VqBooks& books, std::int64_t candidates, const float* hessian,
           float* gradient, const VqCodes& codes, float* quantized) {
  const std::vector<Part> strips = strips_of(slice, exec.pool->size());
  if (strips.empty()) return;
  const PackedBooks packed(exec, slice, books, false);
  exec.pool->parallel_for(static_cast<std::int64_t>(strips.size()), [&](std::int64_t index) {
    StripSweep(exec, strips[static_cast<std::size_t>(index)], books, packed, candidates, hessian, gradient, codes,
               quantized)
        .run();
  });
}

}  // namespace voronoi::kernels::slice
