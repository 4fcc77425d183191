// Linears in trellis codes: decoding, products for a few tokens, and Viterbi's algorithm.
//
// Decoding and product read each word of the strings once: a thread takes 16 rows of a column, its neighbours the
// columns beside it, whose words stand side by side. The search is bound by shared memory: a block has a tile, and the
// costs of all edges before and behind a weight; which predecessor an edge has goes out to global memory.
#include <algorithm>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/rotated.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kUnit = static_cast<int>(kTrellisUnit);
constexpr int kTile = static_cast<int>(kTrellisTile);
constexpr std::int64_t kTokensAPass = 4;  // their sums of 16 rows must fit the registers of a thread
// Blocks wanted at work, and the least columns for one: a matter of the shape alone, so that sums do not depend on the
// GPU.
constexpr std::int64_t kBlocksWanted = 1024, kLeastColumns = kThreads;

/// trellis_value of the CPU twin, with its roundings.
__device__ __forceinline__ float value_of(TrellisCode code, std::uint32_t state) {
  if (code == TrellisCode::mul1) {
    const std::uint32_t x = state * 0x83DCD12DU;
    const std::uint32_t sum = (x & 0xFFU) + (x >> 8 & 0xFFU) + (x >> 16 & 0xFFU) + (x >> 24);
    return f16_to_float(float_to_f16(static_cast<float>(1024 + sum) * f16_to_float(0x1EEE) + f16_to_float(0xC931)));
  }
  const std::uint32_t x = code == TrellisCode::mcg ? state * 0xCBAC1FEDU : state * 89226354U + 64248484U;
  const std::uint32_t halves = (x & 0x8FFF8FFFU) ^ 0x3B603B60U;
  return f16_to_float(float_to_f16(f16_to_float(static_cast<std::uint16_t>(halves & 0xFFFFU)) +
                                   f16_to_float(static_cast<std::uint16_t>(halves >> 16))));
}

/// first_unit, for a given number of tiles.
__device__ __forceinline__ std::int64_t first_of(std::int64_t units, std::int64_t n_tiles, std::int64_t tile) {
  return units * tile / n_tiles;
}
/// The unit that stands before one in the circle of its tile.
__device__ __forceinline__ std::int64_t unit_before(std::int64_t units, std::int64_t n_tiles, std::int64_t unit) {
  const std::int64_t tile = (n_tiles * (unit + 1) - 1) / units;
  return unit == first_of(units, n_tiles, tile) ? first_of(units, n_tiles, tile + 1) - 1 : unit - 1;
}

/// The states' values of the 16 rows of a unit in a column.
__device__ __forceinline__ void load_unit(const PackedTrellis& p, std::int64_t unit, std::int64_t before,
                                          std::int64_t column, float (&values)[kUnit]) {
  const std::uint16_t* words = p.codes + (unit * p.in_features + column) * p.bits;
  std::uint64_t window = load_constant(p.codes + (before * p.in_features + column) * p.bits + p.bits - 1);
  const std::uint32_t mask = (1U << p.state_bits) - 1U;
  int next = 0, held = 0;
#pragma unroll
  for (int row = 0; row < kUnit; ++row) {
    if (held < p.bits) {
      window = window << 16 | load_constant(words + next++);
      held += 16;
    }
    held -= p.bits;
    values[row] = value_of(p.code, static_cast<std::uint32_t>(window >> held) & mask);
  }
}

/// A thread a unit of a column.
__global__ void __launch_bounds__(kThreads)
    states_kernel(PackedTrellis p, std::int64_t units, std::int64_t n_tiles, float* weight) {
  for (std::int64_t at = global_thread(); at < units * p.in_features; at += global_threads()) {
    const std::int64_t unit = at / p.in_features, column = at % p.in_features;
    float values[kUnit];
    load_unit(p, unit, unit_before(units, n_tiles, unit), column, values);
#pragma unroll
    for (int row = 0; row < kUnit; ++row)
      if (unit * kUnit + row < p.out_features)
        weight[(unit * kUnit + row) * p.in_features + column] = values[row] * p.scale;
  }
}

/// Block (unit, split): its warps add over the split's columns. tokens [n_tokens, in]; partials [splits * kWarps,
/// n_tokens, out].
template <int kTokens>
__global__ void __launch_bounds__(kThreads)
    trellis_product_kernel(PackedTrellis p, std::int64_t units, std::int64_t n_tiles, std::int64_t split_columns,
                           int n_tokens, const float* tokens, float* partials) {
  const std::int64_t unit = blockIdx.x, before = unit_before(units, n_tiles, unit);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * split_columns;
  const std::int64_t end = first + split_columns < p.in_features ? first + split_columns : p.in_features;
  float sums[kUnit][kTokens] = {};
  for (std::int64_t column = first + threadIdx.x; column < end; column += kThreads) {
    float weights[kUnit];
    load_unit(p, unit, before, column, weights);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float value = t < n_tokens ? tokens[t * p.in_features + column] : 0.0F;
#pragma unroll
      for (int r = 0; r < kUnit; ++r) sums[r][t] = fmaf(weights[r], value, sums[r][t]);
    }
  }
  float* target = partials + (static_cast<std::int64_t>(blockIdx.y) * kWarps + warp_id()) * n_tokens * p.out_features;
#pragma unroll
  for (int r = 0; r < kUnit; ++r)
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float total = warp_sum(sums[r][t]);
      const std::int64_t row = unit * kUnit + r;
      if (lane_id() == (r * kTokens + t) % kWarpSize && t < n_tokens && row < p.out_features)
        target[t * p.out_features + row] = total;
    }
}

std::int64_t units_of(const PackedTrellis& p) { return trellis_units(p.out_features); }

void decode_f32(const Exec& exec, const PackedTrellis& p, float* weight) {
  Native& gpu = native(exec);
  launch(gpu, states_kernel, grid_for(gpu, units_of(p) * p.in_features, kThreads), dim3(kThreads), 0, p, units_of(p),
         trellis_tiles(units_of(p)), weight);
  turn_back(exec, p, weight);
}

void decode_16(const Exec& exec, const PackedTrellis& p, std::uint16_t* weight) {
  decode_narrow(exec, p, decode_f32, weight);
}

/// sums [n, out] = x [n, in] Q^T of one pass.
void multiply_states(Native& gpu, const PackedTrellis& p, std::int64_t n, const float* x, float* sums) {
  const std::int64_t units = units_of(p), wanted = core::ceil_div(kBlocksWanted, units);
  const std::int64_t split =
      std::max(kLeastColumns, core::ceil_div(core::ceil_div(p.in_features, wanted), kLeastColumns) * kLeastColumns);
  const std::int64_t splits = core::ceil_div(p.in_features, split), parts = splits * kWarps;
  const Scratch<float> partials(gpu, parts * n * p.out_features);
  launch(gpu, n == 1 ? trellis_product_kernel<1> : trellis_product_kernel<kTokensAPass>, grid_of(units, splits),
         dim3(kThreads), 0, p, units, trellis_tiles(units), split, static_cast<int>(n), x, partials.data());
  launch(gpu, add_codes_kernel<float>, grid_for(gpu, n * p.out_features, kThreads), dim3(kThreads), 0,
         n * p.out_features, parts, partials.data(), p.scale, sums);
}

void fused_matmul(const Exec& exec, const PackedTrellis& p, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxTrellisTokens, "a fused product has 1 to 16 tokens");
  multiply_turned(exec, p, n_tokens, x, accumulate, out, kTokensAPass, multiply_states);
}

constexpr int kSearchThreads = 512;
// Predecessors that are kept at a time: tiles are searched in turn beyond that.
constexpr std::int64_t kMostMarks = std::int64_t{1} << 28;

/// What a block is told of its tile's search.
struct SearchTask {
  TrellisSearch search;
  float by_level = 0;
  const std::int16_t* levels = nullptr;  ///< [2^state_bits]
  const std::int32_t* begin = nullptr;   ///< [n_tiles + 1], device memory
  std::int64_t n_rows = 0;
  const float* target = nullptr;
  std::uint8_t* symbols = nullptr;
  float* value = nullptr;
  std::uint8_t* marks = nullptr;  ///< [tiles of the launch, kTile, n_edges]
};

__device__ __forceinline__ std::int16_t level_of(float by_level, float value) {
  return static_cast<std::int16_t>(rintf(fminf(fmaxf(value * by_level, -trellis::kMostLevel), trellis::kMostLevel)));
}

__global__ void levels_kernel(TrellisCode code, float by_level, std::int64_t n, std::int16_t* levels) {
  for (std::int64_t state = global_thread(); state < n; state += global_threads())
    levels[state] = level_of(by_level, value_of(code, static_cast<std::uint32_t>(state)));
}

/// One tile in the shared memory of its block.
struct TileState {
  std::int16_t targets[kTile];
  std::uint8_t symbols[kTile];
  std::int32_t edges[kTile];
  unsigned long long best;
};

__device__ __forceinline__ int saturated(int value) { return value < -32768 ? -32768 : value > 32767 ? 32767 : value; }

/// The lowest n_bits of the state of the weight at `place`.
__device__ __forceinline__ std::uint32_t state_of(const TileState& tile, int bits, int length, int place, int n_bits) {
  std::uint32_t state = 0;
  for (int back = (n_bits - 1) / bits; back >= 0; --back)
    state = state << bits | tile.symbols[(place - back + 16 * length) % length];
  return state & ((1U << n_bits) - 1U);
}

/// One pass over weights first .. first + count of the circle, from one edge, or any (-1), to one, or any; leaves the
/// edges behind the weights. By all threads of a block; both cost arrays have n_edges.
__device__ void run_pass(const SearchTask& task, TileState& tile, std::uint16_t* before, std::uint16_t* behind,
                         std::uint8_t* marks, int shift, int length, int n_valid, int first, int count, int from,
                         int to) {
  const int bits = task.search.bits, seam_bits = task.search.state_bits - bits;
  const int n_edges = 1 << seam_bits, fan = 1 << bits, n = n_edges >> bits;
  for (int e = static_cast<int>(threadIdx.x); e < n_edges; e += kSearchThreads)
    before[e] = from < 0 || e == from ? 0 : 0xFFFF;
  if (threadIdx.x == 0) tile.best = ~0ULL;
  sync_threads();
  for (int step = 0; step < count; ++step) {
    int base = 0;
    if (step % trellis::kRebase == 0 && step >= trellis::kFirstRebase) {
      int least = 0xFFFF;
      for (int e = static_cast<int>(threadIdx.x); e < n_edges; e += kSearchThreads)
        least = before[e] < least ? before[e] : least;
      atomic_min(&tile.best, static_cast<unsigned long long>(least));
      sync_threads();
      base = static_cast<int>(tile.best);
    }
    const int place = (first + step) % length;
    const bool counts = place < n_valid;
    const int target = counts ? tile.targets[place] : 0;
    for (int e = static_cast<int>(threadIdx.x); e < n_edges; e += kSearchThreads) {
      int least = 0x10000, winner = 0;
      for (int j = 0; j < fan; ++j) {
        const int state = j << seam_bits | e;
        int gap = counts ? saturated(load_constant(task.levels + state) - target) : 0;
        for (int s = 0; s < shift; ++s) gap = saturated(2 * gap);
        const int cost = before[j * n + (e >> bits)] - base + ((gap * gap + (1 << 14)) >> 15);
        const int bounded = cost < 0xFFFF ? cost : 0xFFFF;
        if (bounded >= least) continue;
        least = bounded;
        winner = j;
      }
      behind[e] = static_cast<std::uint16_t>(least);
      marks[static_cast<std::int64_t>(step) * n_edges + e] = static_cast<std::uint8_t>(winner);
    }
    sync_threads();
    if (threadIdx.x == 0) tile.best = ~0ULL;
    std::uint16_t* other = before;
    before = behind;
    behind = other;
    sync_threads();
  }
  if (to < 0) {
    unsigned long long least = ~0ULL;
    for (int e = static_cast<int>(threadIdx.x); e < n_edges; e += kSearchThreads) {
      const unsigned long long key = static_cast<unsigned long long>(before[e]) << 32 | static_cast<unsigned>(e);
      least = key < least ? key : least;
    }
    atomic_min(&tile.best, least);
    sync_threads();
    to = static_cast<int>(tile.best & 0xFFFFFFFFULL);
  }
  if (threadIdx.x == 0)
    for (int step = count - 1, edge = to; step >= 0; --step) {
      tile.edges[step] = edge;
      edge = marks[static_cast<std::int64_t>(step) * n_edges + edge] * n + (edge >> bits);
    }
  sync_threads();
}

/// A block a tile, from `first_tile` on. Dynamic shared memory: costs before and behind.
__global__ void __launch_bounds__(kSearchThreads) search_kernel(SearchTask task, std::int64_t first_tile, int shift) {
  __shared__ TileState tile;
  auto* costs = dynamic_shared<std::uint16_t>();
  const int bits = task.search.bits, seam_bits = task.search.state_bits - bits;
  const int n_edges = 1 << seam_bits;
  const std::int64_t row = task.begin[first_tile + blockIdx.x];
  const int length = static_cast<int>(task.begin[first_tile + blockIdx.x + 1] - row);
  const std::int64_t left = task.n_rows - row;
  const int n_valid = static_cast<int>(left < 0 ? 0 : left < length ? left : length);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < length) {
    tile.targets[thread] = thread < n_valid ? level_of(task.by_level, task.target[row + thread]) : std::int16_t{0};
    tile.symbols[thread] = task.search.keep_seam ? task.symbols[row + thread] : std::uint8_t{0};
  }
  sync_threads();
  std::uint8_t* marks = task.marks + static_cast<std::int64_t>(blockIdx.x) * kTile * n_edges;
  const int first = task.search.from_middle ? length / 2 : 0;
  int seam = 0;
  if (task.search.keep_seam) {
    seam = static_cast<int>(state_of(tile, bits, length, (first + length - 1) % length, seam_bits));
  } else {
    const int lead =
        static_cast<int>(trellis::kSeamLead) < length / 2 ? static_cast<int>(trellis::kSeamLead) : length / 2;
    run_pass(task, tile, costs, costs + n_edges, marks, shift, length, n_valid, (first + length - lead) % length,
             2 * lead, -1, -1);
    seam = tile.edges[lead - 1];
    sync_threads();
  }
  run_pass(task, tile, costs, costs + n_edges, marks, shift, length, n_valid, first, length, seam, seam);
  if (thread < length)
    tile.symbols[(first + thread) % length] = static_cast<std::uint8_t>(tile.edges[thread] & ((1 << bits) - 1));
  sync_threads();
  if (thread < length) {
    task.symbols[row + thread] = tile.symbols[thread];
    task.value[row + thread] = value_of(task.search.code, state_of(tile, bits, length, thread, task.search.state_bits));
  }
}
static_assert(kSearchThreads >= kTile);

void search(const Exec& exec, const TrellisSearch& search, std::int64_t n_tiles, const std::int32_t* begin,
            std::int64_t n_rows, const float* target, std::uint8_t* symbols, float* value) {
  VORONOI_REQUIRE(search.bits >= 1 && search.bits <= kMostTrellisBits &&
                      search.state_bits >= least_state_bits(search.bits) && search.state_bits <= kMostStateBits,
                  "a trellis of other bits than these");
  if (n_tiles == 0) return;
  Native& gpu = native(exec);
  const std::int64_t n_states = std::int64_t{1} << search.state_bits, n_edges = n_states >> search.bits;
  const Scratch<std::int32_t> rows(gpu, n_tiles + 1);
  copy_in(gpu, begin, (n_tiles + 1) * std::int64_t{sizeof(std::int32_t)}, rows.data());
  const Scratch<std::int16_t> levels(gpu, n_states);
  const float by_level = trellis::kLevel / trellis_rms(search.code);
  launch(gpu, levels_kernel, grid_for(gpu, n_states, kThreads), dim3(kThreads), 0, search.code, by_level, n_states,
         levels.data());
  const std::int64_t at_once = std::min(n_tiles, std::max(std::int64_t{1}, kMostMarks / (kTile * n_edges)));
  const Scratch<std::uint8_t> marks(gpu, at_once * kTile * n_edges);
  const SearchTask task{search, by_level, levels.data(), rows.data(), n_rows, target, symbols, value, marks.data()};
  for (std::int64_t first = 0; first < n_tiles; first += at_once)
    launch(gpu, search_kernel, grid_of(std::min(at_once, n_tiles - first)), dim3(kSearchThreads),
           2 * n_edges * std::int64_t{sizeof(std::uint16_t)}, task, first, trellis::level_shift(search.bits));
}

}  // namespace
}  // namespace gpu

TrellisKernels cuda_trellis_kernels() {
  return {.decode_f32 = gpu::decode_f32,
          .decode_16 = gpu::decode_16,
          .fused_matmul = gpu::fused_matmul,
          .search = gpu::search};
}

}  // namespace voronoi::kernels
