// Derivatives of what reduces a row, and sums over rows. Bound by reading the rows, which come from the cache the
// second time. Sums over rows run over parts of fixed size, which are added in their order.
#include "kernels/cuda/nn_gradient.cuh"

namespace voronoi::kernels::gpu {
namespace {

constexpr std::int64_t kPartRows = 64;

/// 1 / sqrt(mean(x^2) + eps) of a row, by the whole block.
__device__ __forceinline__ float norm_factor(std::int64_t dim, const float* x, float eps, float* shared) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) sum = fmaf(x[i], x[i], sum);
  return 1.0F / sqrtf(block_sum(sum, shared) / static_cast<float>(dim) + eps);
}

__global__ void __launch_bounds__(kNnThreads) norm_factors_kernel(std::int64_t n_rows, std::int64_t dim, const float* x,
                                                                  std::int64_t ldx, float eps, float* factors) {
  __shared__ float shared[kWarpSize];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const float factor = norm_factor(dim, x + row * ldx, eps, shared);
    if (threadIdx.x == 0) factors[row] = factor;
  }
}

/// With r the row's factor: dx = r weight d_out - x r^3 mean(x weight d_out).
__global__ void __launch_bounds__(kNnThreads)
    rms_norm_gradient_kernel(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                             const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                             float* dx, std::int64_t ld_dx) {
  __shared__ float shared[kWarpSize];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const float *values = x + row * ldx, *slopes = d_out + row * ld_out;
    const float factor = norm_factor(dim, values, eps, shared);
    float along = 0;
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) along = fmaf(values[i], weight[i] * slopes[i], along);
    along = block_sum(along, shared);
    const float back = factor * factor * factor * (along / static_cast<float>(dim));
    float* target = dx + row * ld_dx;
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) {
      const float slope = fmaf(-values[i], back, factor * (weight[i] * slopes[i]));
      target[i] = accumulate ? target[i] + slope : slope;
    }
  }
}

/// 1 / deviation and mean of every row.
__global__ void __launch_bounds__(kNnThreads) row_moments_kernel(std::int64_t n_rows, std::int64_t dim, const float* x,
                                                                 std::int64_t ldx, float eps, RowMoments* moments) {
  __shared__ float shared[kWarpSize];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const RowMoments own = row_moments(dim, x + row * ldx, eps, shared);
    if (threadIdx.x == 0) moments[row] = own;
  }
}

/// With y the normed row and g = weight d_out: dx = scale (g - mean(g) - y mean(g y)).
__global__ void __launch_bounds__(kNnThreads)
    layer_norm_gradient_kernel(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                               const float* weight, const RowMoments* moments, const float* d_out, std::int64_t ld_out,
                               bool accumulate, float* dx, std::int64_t ld_dx) {
  __shared__ float shared[kWarpSize];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const float *values = x + row * ldx, *slopes = d_out + row * ld_out;
    const RowMoments own = moments[row];
    float sum = 0, along = 0;
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) {
      const float slope = weight[i] * slopes[i];
      sum += slope;
      along = fmaf(slope, (values[i] - own.mean) * own.scale, along);
    }
    const float mean = block_sum(sum, shared) / static_cast<float>(dim);
    const float bent = block_sum(along, shared) / static_cast<float>(dim);
    float* target = dx + row * ld_dx;
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) {
      const float normed = (values[i] - own.mean) * own.scale;
      const float slope = own.scale * (weight[i] * slopes[i] - mean - normed * bent);
      target[i] = accumulate ? target[i] + slope : slope;
    }
  }
}

/// Terms of sums over rows.
struct Values {
  const float* x;
  std::int64_t ldx;
  __device__ float operator()(std::int64_t row, std::int64_t column) const { return x[row * ldx + column]; }
};
struct NormTerms {
  const float *x, *d_out, *factors;
  std::int64_t ldx, ld_out;
  __device__ float operator()(std::int64_t row, std::int64_t column) const {
    return d_out[row * ld_out + column] * (x[row * ldx + column] * factors[row]);
  }
};

struct LayerNormTerms {
  const float *x, *d_out;
  const RowMoments* moments;
  std::int64_t ldx, ld_out;
  __device__ float operator()(std::int64_t row, std::int64_t column) const {
    return d_out[row * ld_out + column] * ((x[row * ldx + column] - moments[row].mean) * moments[row].scale);
  }
};

/// Block (columns, part): parts [n_parts, dim] = sums of kPartRows rows.
template <class Terms>
__global__ void __launch_bounds__(kNnThreads)
    part_sums_kernel(std::int64_t n_rows, std::int64_t dim, Terms terms, float* parts) {
  const std::int64_t column = global_thread(), first = static_cast<std::int64_t>(blockIdx.y) * kPartRows;
  if (column >= dim) return;
  const std::int64_t end = first + kPartRows < n_rows ? first + kPartRows : n_rows;
  float sum = 0;
  for (std::int64_t row = first; row < end; ++row) sum += terms(row, column);
  parts[blockIdx.y * dim + column] = sum;
}

__global__ void __launch_bounds__(kNnThreads)
    add_row_parts_kernel(std::int64_t n_parts, std::int64_t dim, const float* parts, float* sum) {
  const std::int64_t column = global_thread();
  if (column >= dim) return;
  float total = sum[column];
  for (std::int64_t part = 0; part < n_parts; ++part) total += parts[part * dim + column];
  sum[column] = total;
}

/// sum [dim] += the terms of all rows.
template <class Terms>
void sum_rows(Native& gpu, std::int64_t n_rows, std::int64_t dim, Terms terms, float* sum) {
  const std::int64_t n_parts = core::ceil_div(n_rows, kPartRows), blocks = core::ceil_div(dim, kNnThreads);
  const Scratch<float> parts(gpu, n_parts * dim);
  launch(gpu, part_sums_kernel<Terms>, grid_of(blocks, n_parts), dim3(kNnThreads), 0, n_rows, dim, terms, parts.data());
  launch(gpu, add_row_parts_kernel, grid_of(blocks), dim3(kNnThreads), 0, n_parts, dim, parts.data(), sum);
}

__global__ void __launch_bounds__(kNnThreads)
    weighted_rows_kernel(std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row_of,
                         const float* weight, const float* d_out, float* dx, float* d_weight) {
  __shared__ float shared[kWarpSize];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const float* slopes = d_out + (row_of == nullptr ? row : row_of[row]) * dim;
    const float factor = weight[row];
    float sum = 0;
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) {
      const float slope = slopes[i];
      sum = fmaf(slope, x[row * dim + i], sum);
      dx[row * dim + i] = factor * slope;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) d_weight[row] = sum;
  }
}

__global__ void __launch_bounds__(kNnThreads)
    square_sums_kernel(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, float* sums) {
  __shared__ float shared[kWarpSize];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    float sum = 0;
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) {
      const float value = x[row * ldx + i];
      sum = fmaf(value, value, sum);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[row] = sum;
  }
}

/// Block (row, columns): the first row of an id adds all rows of that id, in their order.
__global__ void __launch_bounds__(kNnThreads)
    scatter_rows_kernel(const std::int32_t* ids, std::int64_t n_ids, std::int64_t dim, const float* x, float* sum) {
  const std::int64_t row = blockIdx.x, column = static_cast<std::int64_t>(blockIdx.y) * kNnThreads + threadIdx.x;
  const std::int32_t id = ids[row];
  for (std::int64_t first = 0; first < row; first += kWarpSize) {
    const std::int64_t other = first + lane_id();
    if (ballot(other < row && ids[other] == id) != 0) return;  // all threads alike
  }
  float total = column < dim ? sum[id * dim + column] : 0.0F;
  for (std::int64_t first = row; first < n_ids; first += kWarpSize) {
    const std::int64_t other = first + lane_id();
    unsigned found = ballot(other < n_ids && ids[other] == id);
    for (; found != 0; found &= found - 1)
      if (column < dim) total += x[(first + lowest_bit(found)) * dim + column];
  }
  if (column < dim) sum[id * dim + column] = total;
}

/// factor * softmax is exp(logit - largest) times this.
__device__ __forceinline__ float share_of_row(const LogSumExp& row, float factor) {
  return factor * static_cast<float>(exp(static_cast<double>(row.largest) - row.value));
}

__global__ void __launch_bounds__(kNnThreads)
    cross_entropy_kernel(std::int64_t n_rows, std::int64_t vocab, float factor, const std::int32_t* target,
                         float* logits, std::int64_t ld, double* nll) {
  __shared__ RowReduction shared;
  for (std::int64_t r = blockIdx.x; r < n_rows; r += gridDim.x) {
    float* values = logits + r * ld;
    const LogSumExp row = log_sum_exp(vocab, values, shared);
    const float share = share_of_row(row, factor);
    for (std::int64_t i = threadIdx.x; i < vocab; i += kNnThreads) {
      const float value = values[i], slope = expf(value - row.largest) * share;
      if (i == target[r]) nll[r] = row.value - static_cast<double>(value);
      values[i] = i == target[r] ? slope - factor : slope;
    }
  }
}

/// The divergence is the sum of p (log p - log q), p the teacher's.
__global__ void __launch_bounds__(kNnThreads)
    divergence_kernel(std::int64_t n_rows, std::int64_t vocab, float factor, const float* teacher, float* logits,
                      std::int64_t ld, double* divergence) {
  __shared__ RowReduction shared;
  for (std::int64_t r = blockIdx.x; r < n_rows; r += gridDim.x) {
    const float* from_values = teacher + r * ld;
    float* values = logits + r * ld;
    const LogSumExp from = log_sum_exp(vocab, from_values, shared), row = log_sum_exp(vocab, values, shared);
    const float from_share = share_of_row(from, factor), share = share_of_row(row, factor);
    const double gap = row.value - from.value;
    double sum = 0;
    for (std::int64_t i = threadIdx.x; i < vocab; i += kNnThreads) {
      const float from_value = from_values[i], value = values[i];
      const double t = static_cast<double>(from_value);
      sum += exp(t - from.value) * (t - static_cast<double>(value) + gap);
      values[i] = expf(value - row.largest) * share - expf(from_value - from.largest) * from_share;
    }
    sum = block_sum(sum, shared.sums);
    if (threadIdx.x == 0) divergence[r] = sum;
  }
}

}  // namespace

void rms_norm_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                       const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                       float* dx, std::int64_t ld_dx, float* d_weight) {
  if (n_rows <= 0 || dim <= 0) return;
  Native& gpu = native(exec);
  if (d_weight != nullptr) {  // before dx, which may take d_out's place
    const Scratch<float> factors(gpu, n_rows);
    launch(gpu, norm_factors_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, eps, factors.data());
    sum_rows(gpu, n_rows, dim, NormTerms{x, d_out, factors.data(), ldx, ld_out}, d_weight);
  }
  launch(gpu, rms_norm_gradient_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, weight, eps, d_out,
         ld_out, accumulate, dx, ld_dx);
}

void layer_norm_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                         const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                         float* dx, std::int64_t ld_dx, float* d_weight) {
  if (n_rows <= 0 || dim <= 0) return;
  Native& gpu = native(exec);
  const Scratch<RowMoments> moments(gpu, n_rows);
  launch(gpu, row_moments_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, eps, moments.data());
  if (d_weight != nullptr)  // before dx, which may take d_out's place
    sum_rows(gpu, n_rows, dim, LayerNormTerms{x, d_out, moments.data(), ldx, ld_out}, d_weight);
  launch(gpu, layer_norm_gradient_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, weight,
         moments.data(), d_out, ld_out, accumulate, dx, ld_dx);
}

void column_sums(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                 float* sum) {
  if (n_rows <= 0 || dim <= 0) return;
  sum_rows(native(exec), n_rows, dim, Values{x, ldx}, sum);
}

void weighted_rows(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                   const float* weight, const float* d_out, float* dx, float* d_weight) {
  if (n_rows <= 0) return;
  launch(native(exec), weighted_rows_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, row, weight, d_out,
         dx, d_weight);
}

void square_sums(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                 float* sum) {
  if (n_rows <= 0) return;
  launch(native(exec), square_sums_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, sum);
}

void scatter_rows(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t dim, const float* x,
                  float* sum) {
  if (n_ids <= 0 || dim <= 0) return;
  launch(native(exec), scatter_rows_kernel, grid_of(n_ids, core::ceil_div(dim, kNnThreads)), dim3(kNnThreads), 0, ids,
         n_ids, dim, x, sum);
}

void cross_entropy(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, float factor, const std::int32_t* target,
                   float* logits, std::int64_t ld, double* nll) {
  if (n_rows <= 0) return;
  launch(native(exec), cross_entropy_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, vocab, factor, target,
         logits, ld, nll);
}

void divergence(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, float factor, const float* teacher,
                float* logits, std::int64_t ld, double* divergence) {
  if (n_rows <= 0) return;
  launch(native(exec), divergence_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, vocab, factor, teacher, logits,
         ld, divergence);
}

}  // namespace voronoi::kernels::gpu
