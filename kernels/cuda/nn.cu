// Elementwise operations of a decoder block and the table of the family. All are bound by memory: each value is read
// and written once, four at a time where addresses allow it.
#include "kernels/cuda/nn.cuh"
#include "kernels/cuda/rows.cuh"

namespace voronoi::kernels::gpu {
namespace {

__device__ __forceinline__ float logistic_gate(float x, float exponent) { return x / (1.0F + expf(-exponent)); }

struct SwiGlu {
  static constexpr bool kUnary = false;
  __device__ float operator()(float gate, float up) const { return logistic_gate(gate, gate) * up; }
};
struct GeGlu {
  static constexpr bool kUnary = false;
  // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), which keeps its digits where the first form cancels; 2 sqrt(2 / pi).
  __device__ float operator()(float gate, float up) const {
    return logistic_gate(gate, gate * (gate * gate * 0.044715F + 1.0F) * 1.5957691216057308F) * up;
  }
};
struct ClampedSwiGlu {
  static constexpr bool kUnary = false;
  float limit;
  __device__ float operator()(float gate, float up) const {
    const float g = fminf(gate, limit);
    return (fminf(fmaxf(up, -limit), limit) + 1.0F) * logistic_gate(g, g * kClampedSlope);
  }
};
struct Add {
  static constexpr bool kUnary = false;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Scale {
  static constexpr bool kUnary = true;
  float factor;
  __device__ float operator()(float a, float) const { return factor * a; }
};
struct SoftCap {
  static constexpr bool kUnary = true;
  float cap;
  __device__ float operator()(float a, float) const { return cap * tanhf(a / cap); }
};
struct Sigmoid {
  static constexpr bool kUnary = true;
  __device__ float operator()(float a, float) const { return logistic_gate(1.0F, a); }
};

/// out[i] = operation(a[i], b[i]); out may be a. `vectors`: all addresses are multiples of 16 bytes.
template <class Operation>
__global__ void __launch_bounds__(kNnThreads, 4)
    map_kernel(std::int64_t n, bool vectors, const float* a, const float* b, float* out, Operation operation) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kNnThreads;
  std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kNnThreads + threadIdx.x;
  const std::int64_t n_vectors = vectors ? n / 4 : 0;
  for (std::int64_t j = i; j < n_vectors; j += step) {
    const float4 x = reinterpret_cast<const float4*>(a)[j];
    float4 y = x;
    if constexpr (!Operation::kUnary) y = reinterpret_cast<const float4*>(b)[j];
    float4 result;
    result.x = operation(x.x, y.x);
    result.y = operation(x.y, y.y);
    result.z = operation(x.z, y.z);
    result.w = operation(x.w, y.w);
    reinterpret_cast<float4*>(out)[j] = result;
  }
  for (i += 4 * n_vectors; i < n; i += step) {
    float y = 0;
    if constexpr (!Operation::kUnary) y = b[i];
    out[i] = operation(a[i], y);
  }
}

template <class Operation>
void map(const Exec& exec, std::int64_t n, const float* a, const float* b, float* out, Operation operation) {
  if (n <= 0) return;
  const bool vectors = aligned_16(a) && aligned_16(out) && (b == nullptr || aligned_16(b));
  launch(native(exec), map_kernel<Operation>, nn_grid(core::ceil_div(n, 4 * kNnThreads)), dim3(kNnThreads), 0, n,
         vectors, a, b, out, operation);
}

void swiglu(const Exec& exec, std::int64_t n, const float* gate, const float* up, float* out) {
  map(exec, n, gate, up, out, SwiGlu{});
}

void geglu(const Exec& exec, std::int64_t n, const float* gate, const float* up, float* out) {
  map(exec, n, gate, up, out, GeGlu{});
}

void clamped_swiglu(const Exec& exec, std::int64_t n, float limit, const float* gate, const float* up, float* out) {
  map(exec, n, gate, up, out, ClampedSwiGlu{limit});
}

void add(const Exec& exec, std::int64_t n, const float* y, float* x) { map(exec, n, x, y, x, Add{}); }

void scale(const Exec& exec, std::int64_t n, float factor, float* x) {
  map(exec, n, x, static_cast<const float*>(nullptr), x, Scale{factor});
}

void soft_cap(const Exec& exec, std::int64_t n, float cap, float* x) {
  map(exec, n, x, static_cast<const float*>(nullptr), x, SoftCap{cap});
}

void sigmoid(const Exec& exec, std::int64_t n, float* x) {
  map(exec, n, x, static_cast<const float*>(nullptr), x, Sigmoid{});
}

struct AddBias {
  const float* bias;
  float* x;
  std::int64_t ldx;
  __device__ void operator()(std::int64_t row, std::int64_t column) const { x[row * ldx + column] += bias[column]; }
};

struct AddWeighted {
  std::int64_t dim;
  const float* x;
  const std::int32_t* row_of;
  const float* weight;
  float* out;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t target = row_of == nullptr ? row : row_of[row];
    float* at = out + target * dim + column;
    *at = fmaf(weight[row], x[row * dim + column], *at);
  }
};

/// A column is a pair (head, i), turned.
struct Rope {
  RopePlace place;
  const float* cos_sin;
  float* x;
  std::int64_t ldx;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const float* turn = cos_sin + place.turn(row, column);
    float* low = x + row * ldx + place.low(column);
    float* high = low + place.apart();
    const float cosine = turn[0], sine = turn[place.half], a = *low, b = *high;
    *low = fmaf(-b, sine, a * cosine);
    *high = fmaf(a, sine, b * cosine);
  }
};

struct CopyHeads {
  HeadParts parts;
  const float* x;
  float* out;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t head = column / parts.width, i = column % parts.width;
    out[row * parts.ld_out + head * parts.step_out + i] = x[row * parts.ldx + head * parts.step_x + i];
  }
};

void rope(const Exec& exec, const RopeShape& shape, const float* cos_sin, float* x, std::int64_t ldx) {
  for_rows(exec, shape.n_rows, shape.n_heads * (shape.n_turned / 2), Rope{place_of(shape), cos_sin, x, ldx});
}

void copy_heads(const Exec& exec, const HeadParts& parts, const float* x, float* out) {
  for_rows(exec, parts.n_rows, parts.n_heads * parts.width, CopyHeads{parts, x, out});
}

void add_bias(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* bias, float* x, std::int64_t ldx) {
  for_rows(exec, n_rows, dim, AddBias{bias, x, ldx});
}

void add_weighted_rows(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                       const float* weight, float* out) {
  for_rows(exec, n_rows, dim, AddWeighted{dim, x, row, weight, out});
}

}  // namespace

}  // namespace voronoi::kernels::gpu

namespace voronoi::kernels {

NnKernels cuda_nn_kernels() {
  return {.rms_norm = gpu::rms_norm,
          .rope = gpu::rope,
          .attention = gpu::attention,
          .swiglu = gpu::swiglu,
          .add = gpu::add,
          .add_bias = gpu::add_bias,
          .nll = gpu::nll,
          .geglu = gpu::geglu,
          .scale = gpu::scale,
          .soft_cap = gpu::soft_cap,
          .sigmoid = gpu::sigmoid,
          .route = gpu::route,
          .add_weighted_rows = gpu::add_weighted_rows,
          .cached_attention = gpu::cached_attention,
          .argmax = gpu::argmax,
          .layer_norm = gpu::layer_norm,
          .clamped_swiglu = gpu::clamped_swiglu,
          .copy_heads = gpu::copy_heads};
}

}  // namespace voronoi::kernels
