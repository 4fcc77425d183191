// The column loop and the sweep of one part.
#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vq_slice.h"

namespace voronoi::kernels::slice {
namespace {

class PartLoop {
 public:
  PartLoop(const Exec& exec, const Part& part, const VqBooks& books, const ColumnLoopOptions& options,
           const float* factor, float* target, const VqCodes& codes, float* quantized)
      : exec_(exec),
        part_(part),
        options_(options),
        n_(part.slice.in_features),
        width_(part.width),
        stride_(part.slice.width),
        factor_(factor),
        slice_target_(target + part.row),
        codes_(codes),
        quantized_(quantized + part.row),
        gemm_(cpu_linalg_kernels().gemm_f32),
        search_(exec, part, books, options.candidates, options.padding_counts),
        target_(n_ * width_),
        error_(kColumnBlock * width_) {}

  void run() {
    copy_rows(n_, width_, slice_target_, stride_, target_.data(), width_);
    for (std::int64_t s = 0; s < n_; s += kColumnBlock) {
      const std::int64_t e = std::min(n_, s + kColumnBlock);
      for (std::int64_t t = s; t < e; t += kColumnStep) {
        const std::int64_t u = std::min(e, t + kColumnStep);
        for (std::int64_t column = t; column < u; ++column) {
          if (options_.feedback) pay_back(column, t, s);
          quantize(column, s);
        }
        if (options_.feedback) spread(t, u, u, e, s);
      }
      if (options_.feedback) spread(s, e, e, n_, s);
    }
    copy_rows(n_, width_, target_.data(), width_, slice_target_, stride_);
  }

 private:
  /// Takes from `column` what columns [from, column) of its step owe it.
  void pay_back(std::int64_t column, std::int64_t from, std::int64_t block_start) {
    float* target = target_.data() + column * width_;
    for (std::int64_t j = from; j < column; ++j) {
      const float factor = factor_[j * n_ + column];
      const float* error = error_.data() + (j - block_start) * width_;
      for (std::int64_t r = 0; r < width_; ++r) target[r] -= factor * error[r];
    }
  }

  void quantize(std::int64_t column, std::int64_t block_start) {
    const std::int64_t at = part_.codes_at(column);
    const float* target = target_.data() + column * width_;
    float* quantized = quantized_ + column * stride_;
    search_.choose(column, target, codes_.main + at, codes_.residual != nullptr ? codes_.residual + at : nullptr,
                   quantized);
    if (!options_.feedback) return;
    // Rows past the end are zero in target and quantized alike: they owe nothing.
    const float inverse = 1.0F / factor_[column * n_ + column];
    float* error = error_.data() + (column - block_start) * width_;
    for (std::int64_t r = 0; r < width_; ++r) error[r] = (target[r] - quantized[r]) * inverse;
  }

  /// target[to, to_end) -= U[from, from_end)[to, to_end)^T error[from, from_end).
  void spread(std::int64_t from, std::int64_t from_end, std::int64_t to, std::int64_t to_end,
              std::int64_t block_start) {
    if (to >= to_end) return;
    gemm_(exec_, true, false, to_end - to, width_, from_end - from, -1.0F, factor_ + from * n_ + to, n_,
          error_.data() + (from - block_start) * width_, width_, 1.0F, target_.data() + to * width_, width_);
  }

  const Exec& exec_;
  const Part& part_;
  const ColumnLoopOptions& options_;
  std::int64_t n_, width_, stride_;
  const float* factor_;
  float* slice_target_;
  const VqCodes& codes_;
  float* quantized_;
  decltype(LinalgKernels::gemm_f32) gemm_;
  ColumnSearch search_;
  Scratch<float> target_;  ///< [in, width] weights with the feedback so far
  Scratch<float> error_;   ///< [kColumnBlock, width] e_n of the block's columns
};

class PartSweep {
 public:
  PartSweep(const Exec& exec, const Part& part, const VqBooks& books, std::int64_t candidates, const float* hessian,
            float* gradient, const VqCodes& codes, float* quantized)
      : exec_(exec),
        part_(part),
        hessian_(hessian),
        n_(part.slice.in_features),
        width_(part.width),
        stride_(part.slice.width),
        slice_gradient_(gradient + part.row),
        codes_(codes),
        quantized_(quantized + part.row),
        gemm_(cpu_linalg_kernels().gemm_f32),
        search_(exec, part, books, candidates, false),
        gradient_(n_ * width_),
        block_(kColumnBlock * width_),
        change_(kColumnBlock * width_),
        target_(static_cast<std::size_t>(width_)),
        chosen_(target_.size()),
        new_codes_(static_cast<std::size_t>(part.max_vectors())),
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
          for (std::int64_t j = t; j < column; ++j) {
            const float h = hessian_[j * n_ + column];
            const float* change = change_.data() + (j - s) * width_;
            for (std::int64_t r = 0; r < width_; ++r) gradient[r] -= h * change[r];
          }
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
    std::int32_t* codes = codes_.main + part_.codes_at(column);
    std::int32_t* residual_codes = codes_.residual != nullptr ? codes_.residual + part_.codes_at(column) : nullptr;
    float* quantized = quantized_ + column * stride_;
    const float inverse = 1.0F / hessian_[column * (n_ + 1)];
    for (std::int64_t r = 0; r < width_; ++r)
      target_[static_cast<std::size_t>(r)] = quantized[r] + gradient[r] * inverse;
    search_.choose(column, target_.data(), new_codes_.data(), new_residual_codes_.data(), chosen_.data());
    const std::int64_t v = part_.vector_length(column);
    std::fill_n(change, width_, 0.0F);
    for (std::int64_t r = 0, i = 0; r < part_.rows; r += v, ++i) {
      const std::int64_t end = std::min(r + v, part_.rows);
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
    gemm_(exec_, true, false, to_end - to, width_, from_end - from, -1.0F, hessian_ + from * n_ + to, n_,
          change_.data() + (from - block_start) * width_, width_, 1.0F, to_rows, width_);
  }

  const Exec& exec_;
  const Part& part_;
  const float* hessian_;
  std::int64_t n_, width_, stride_;
  float* slice_gradient_;
  const VqCodes& codes_;
  float* quantized_;
  decltype(LinalgKernels::gemm_f32) gemm_;
  ColumnSearch search_;
  Scratch<float> gradient_;        ///< [in, width]
  Scratch<float> block_, change_;  ///< [kColumnBlock, width] gradients and changes of the block's columns
  std::vector<float> target_, chosen_;
  std::vector<std::int32_t> new_codes_, new_residual_codes_;
};

}  // namespace

void column_loop(const Exec& exec, const VqSlice& slice, const VqBooks& books, const ColumnLoopOptions& options,
                 const float* factor, float* target, const VqCodes& codes, float* quantized) {
  exec.pool->parallel_for(slice.n_parts, [&](std::int64_t index) {
    const Part part = part_of(slice, index);
    PartLoop(exec, part, books, options, factor, target, codes, quantized).run();
  });
}

void sweep(const Exec& exec, const VqSlice& slice, const VqBooks& books, std::int64_t candidates, const float* hessian,
           float* gradient, const VqCodes& codes, float* quantized) {
  exec.pool->parallel_for(slice.n_parts, [&](std::int64_t index) {
    const Part part = part_of(slice, index);
    PartSweep(exec, part, books, candidates, hessian, gradient, codes, quantized).run();
  });
}

}  // namespace voronoi::kernels::slice
