// Sums of parts (chunks of points, parts of a slice) whose bits depend on the part alone: fixed pieces, fixed order,
// fp64.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"
#include "kernels/cuda/sort.h"

namespace voronoi::kernels::gpu {

inline constexpr int kSumThreads = 256;

/// sums [size] = the parts [n_parts, size], added in order. Bound by memory: 8 bytes a value and part.
void add_parts(Native& native, std::int64_t n_parts, std::int64_t size, const double* parts, double* sums);

/// body(sums of each part [n_parts, size]); combined: then `sums` is the parts added in order.
template <class Body>
void sum_parts(Native& native, std::int64_t n_parts, std::int64_t size, bool combined, double* sums, const Body& body) {
  if (!combined) return body(sums);
  const Scratch<double> parts(native, n_parts * size);
  body(parts.data());
  add_parts(native, n_parts, size, parts.data(), sums);
}

/// Source: `pieces(part)`, and `partial(part, piece)`: this thread's share of a piece. One block a piece.
template <class Source>
__global__ void sum_pieces(Source source, std::int64_t max_pieces, double* __restrict__ partial) {
  __shared__ double warps[kWarpSize];
  const std::int64_t part = blockIdx.y, piece = blockIdx.x;
  if (piece >= source.pieces(part)) return;
  const double sum = block_sum(source.partial(part, piece), warps);
  if (threadIdx.x == 0) partial[part * max_pieces + piece] = sum;
}

/// sums[part * stride] = its pieces. One warp a part.
template <class Source>
__global__ void merge_pieces(Source source, std::int64_t max_pieces, const double* __restrict__ partial,
                             std::int64_t stride, double* __restrict__ sums) {
  const std::int64_t part = blockIdx.x, count = source.pieces(part);
  double sum = 0;
  for (std::int64_t piece = lane_id(); piece < count; piece += kWarpSize) sum += partial[part * max_pieces + piece];
  sum = warp_sum(sum);
  if (lane_id() == 0) sums[part * stride] = sum;
}

/// One sum a part.
template <class Source>
void sum_of_parts(Native& native, const Source& source, std::int64_t n_parts, std::int64_t max_pieces,
                  std::int64_t stride, double* sums) {
  const Scratch<double> partial(native, n_parts * max_pieces);
  launch(native, sum_pieces<Source>, grid_of(max_pieces, n_parts), dim3(kSumThreads), 0, source, max_pieces,
         partial.data());
  launch(native, merge_pieces<Source>, grid_of(n_parts), dim3(kWarpSize), 0, source, max_pieces, partial.data(), stride,
         sums);
}

/// first[s], s <= n_segments: place of the first of the rising keys that is >= s.
void find_segments(Native& native, std::int64_t n, const std::uint32_t* sorted_keys, std::int64_t n_segments,
                   std::int32_t* first);

/// Sums over items of one key. Source: key(i) = entry * n_parts + part; value(i, d) for d < n_values; place(part,
/// entry, d): where that sum goes.
template <class Source>
__global__ void make_keys(Source source, std::int64_t n, std::uint32_t* __restrict__ keys) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) keys[i] = source.key(i);
}

/// A warp a segment: lanes side by side take the values of an item, 32 / width items go in turns, and the turns are
/// added in order. Bound by memory: each value is read once, an item's together.
template <class Source>
__global__ void __launch_bounds__(kSumThreads, 4)
    sum_segments(Source source, std::int64_t n_segments, const std::int32_t* __restrict__ first,
                 const std::int32_t* __restrict__ order, double* __restrict__ sums) {
  const std::int64_t segment = static_cast<std::int64_t>(blockIdx.x) * (kSumThreads / kWarpSize) + warp_id();
  if (segment >= n_segments) return;
  const std::int64_t entry = segment / source.n_parts, part = segment - entry * source.n_parts;
  const std::int32_t begin = first[segment], end = first[segment + 1];
  for (int slab = 0; slab < source.n_values; slab += kWarpSize) {
    int width = 1;
    while (width < kWarpSize && width < source.n_values - slab) width *= 2;
    const int turns = kWarpSize / width, turn = lane_id() / width, d = slab + lane_id() % width;
    double sum = 0;
    if (d < source.n_values) {
#pragma unroll 4
      for (std::int32_t i = begin + turn; i < end; i += turns) sum += source.value(order[i], d);
    }
    for (int other = 1; other < turns; ++other) {
      const double more = shuffle(sum, other * width + lane_id() % width);
      if (turn == 0) sum += more;
    }
    if (turn == 0 && d < source.n_values) sums[source.place(part, entry, d)] = sum;
  }
}

template <class Source>
void sum_by_key(Native& native, const Source& source, std::int64_t n, std::int64_t n_entries, double* sums) {
  const std::int64_t n_segments = n_entries * source.n_parts;
  VORONOI_REQUIRE(n < std::int64_t{1} << 31 && n_segments < std::int64_t{1} << 31,
                  "a GPU sums less than 2^31 items into less than 2^31 sums");
  const Scratch<std::uint32_t> keys(native, n), sorted(native, n);
  const Scratch<std::int32_t> order(native, n), first(native, n_segments + 1);
  launch(native, make_keys<Source>, grid_for(native, n, kSumThreads), dim3(kSumThreads), 0, source, n, keys.data());
  sort_pairs(native, n, std::bit_width(static_cast<std::uint64_t>(n_segments - 1)), keys.data(), sorted.data(),
             order.data());
  find_segments(native, n, sorted.data(), n_segments, first.data());
  launch(native, sum_segments<Source>, grid_of(core::ceil_div(n_segments, std::int64_t{kSumThreads / kWarpSize})),
         dim3(kSumThreads), 0, source, n_segments, first.data(), order.data(), sums);
}

}  // namespace voronoi::kernels::gpu
