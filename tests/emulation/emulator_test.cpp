// The emulator against hand-made answers: what it computes, and what it must refuse.
#include "tests/emulation/emulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"
#include "kernels/cuda/uploads.h"

namespace voronoi::kernels::gpu {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Emulator : public ::testing::Test {
 protected:
  void SetUp() override {
    native_.shared_bytes_a_block = 227 << 10;
    native_.n_multiprocessors = 3;
    ASSERT_EQ(cudaStreamCreateWithFlags(&native_.stream, cudaStreamNonBlocking), cudaSuccess);
    const cudaMemPoolProps properties{};
    ASSERT_EQ(cudaMemPoolCreate(&native_.pool, &properties), cudaSuccess);
    native_.uploads = std::make_unique<Uploads>(native_.stream);
  }

  template <class T>
  std::vector<T> read(const Scratch<T>& from, std::int64_t n) {
    std::vector<T> values(static_cast<std::size_t>(n));
    copy_out(native_, from.data(), n * static_cast<std::int64_t>(sizeof(T)), values.data());
    return values;
  }
  template <class T>
  std::unique_ptr<Scratch<T>> device(const std::vector<T>& values) {
    auto array = std::make_unique<Scratch<T>>(native_, static_cast<std::int64_t>(values.size()));
    copy_in(native_, values.data(), static_cast<std::int64_t>(values.size() * sizeof(T)), array->data());
    return array;
  }

  Native native_;
};

__global__ void number_threads(int* out) {
  const unsigned at =
      (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y + threadIdx.y * blockDim.x + threadIdx.x;
  out[at] = static_cast<int>(1000 * (blockIdx.y * 10 + blockIdx.x) + 10 * threadIdx.y + threadIdx.x);
}

TEST_F(Emulator, RunsEveryThreadOnce) {
  const Scratch<int> out(native_, 6 * 12);
  for (int repeat = 0; repeat < 2; ++repeat) {
    launch(native_, number_threads, dim3(3, 2), dim3(4, 3), 0, out.data());
    const std::vector<int> values = read(out, 72);
    for (int b = 0; b < 6; ++b)
      for (int t = 0; t < 12; ++t)
        ASSERT_EQ(values[static_cast<std::size_t>(b * 12 + t)], 1000 * (b / 3 * 10 + b % 3) + 10 * (t / 4) + t % 4);
  }
  launch(native_, number_threads, dim3(0, 2), dim3(4, 3), 0, nullptr);
}

__global__ void reverse_through_shared(const float* in, float* out) {
  __shared__ float fixed[96];
  float* dynamic = dynamic_shared<float>();
  fixed[threadIdx.x] = in[threadIdx.x];
  sync_threads();
  dynamic[threadIdx.x] = fixed[95 - threadIdx.x];
  sync_threads();
  out[threadIdx.x] = dynamic[threadIdx.x ^ 1U];
}

TEST_F(Emulator, SharedMemoryIsSeenBehindABarrier) {
  std::vector<float> in(96);
  std::iota(in.begin(), in.end(), 0.0F);
  const auto from = device(in);
  const Scratch<float> out(native_, 96);
  for (int repeat = 0; repeat < 2; ++repeat) {
    launch(native_, reverse_through_shared, 1, 96, 96 * 4, from->data(), out.data());
    const std::vector<float> values = read(out, 96);
    for (int i = 0; i < 96; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], static_cast<float>(95 - (i ^ 1)));
  }
}

__global__ void warp_operations(int* out) {
  const int lane = lane_id(), at = static_cast<int>(threadIdx.x);
  int* mine = out + at * 8;
  mine[0] = shuffle(at, 5);
  mine[1] = shuffle_xor(at, 3);
  mine[2] = shuffle_down(at, 4);
  mine[3] = shuffle_up(at, 4);
  mine[4] = static_cast<int>(ballot(lane % 3 == 0));
  mine[5] = warp_sum(at);
  int value = (lane * 7) % 16, index = lane;
  warp_min_with_index(value, index);
  mine[6] = value * 100 + index;
  __shared__ int partial[32];
  mine[7] = block_sum(at, partial);
}

TEST_F(Emulator, WarpOperationsFollowTheirDefinition) {
  const Scratch<int> out(native_, 64 * 8);
  launch(native_, warp_operations, 1, 64, 0, out.data());
  const std::vector<int> values = read(out, 64 * 8);
  unsigned thirds = 0;
  for (int lane = 0; lane < 32; lane += 3) thirds |= 1U << lane;
  for (int at = 0; at < 64; ++at) {
    const int* mine = values.data() + at * 8;
    const int base = at / 32 * 32, lane = at % 32;
    EXPECT_EQ(mine[0], base + 5);
    EXPECT_EQ(mine[1], at ^ 3);
    EXPECT_EQ(mine[2], lane + 4 < 32 ? at + 4 : at);
    EXPECT_EQ(mine[3], lane >= 4 ? at - 4 : at);
    EXPECT_EQ(mine[4], static_cast<int>(thirds));
    EXPECT_EQ(mine[5], base == 0 ? 496 : 1520);
    EXPECT_EQ(mine[6], 0) << "lanes 0 and 16 hold 0: the lower index";
    EXPECT_EQ(mine[7], 2016);
  }
}

/// One warp: d [16, 8] = a [16, k] b [k, 8], all through the documented fragments. kind 0: tf32, 1: bf16, 2: f16.
__global__ void one_product(int kind, const float* a, const float* b, float* d) {
  const int lane = lane_id(), g = lane / 4, t = lane % 4, k = kind == 0 ? 8 : 16;
  float sums[4] = {0, 0, 0, 0};
  std::uint32_t fa[4], fb[2];
  if (kind == 0) {
    for (int i = 0; i < 4; ++i) fa[i] = to_tf32(a[(g + 8 * (i % 2)) * k + t + 4 * (i / 2)]);
    for (int i = 0; i < 2; ++i) fb[i] = to_tf32(b[(t + 4 * i) * 8 + g]);
    mma_m16n8k8_tf32(sums, fa, fb);
  } else {
    const auto bits = [kind](float x) -> std::uint32_t { return kind == 1 ? float_to_bf16(x) : float_to_f16(x); };
    for (int i = 0; i < 4; ++i) {
      const float* at = a + (g + 8 * (i % 2)) * k + 2 * t + 8 * (i / 2);
      fa[i] = bits(at[0]) | bits(at[1]) << 16;
    }
    for (int i = 0; i < 2; ++i) {
      const float* at = b + (2 * t + 8 * i) * 8 + g;
      fb[i] = bits(at[0]) | bits(at[8]) << 16;
    }
    if (kind == 1)
      mma_m16n8k16_bf16(sums, fa, fb);
    else
      mma_m16n8k16_f16(sums, fa, fb);
  }
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sums[i];
}

TEST_F(Emulator, TensorCoreFragmentsMultiply) {
  std::mt19937 engine(3);
  std::uniform_int_distribution<int> small(-16, 16);
  for (int kind = 0; kind < 3; ++kind) {
    const int k = kind == 0 ? 8 : 16;
    std::vector<float> a(static_cast<std::size_t>(16 * k)), b(static_cast<std::size_t>(8 * k));
    for (float& value : a) value = static_cast<float>(small(engine)) / 8;
    for (float& value : b) value = static_cast<float>(small(engine)) / 8;
    const auto da = device(a), db = device(b);
    const Scratch<float> out(native_, 128);
    launch(native_, one_product, 1, 32, 0, kind, da->data(), db->data(), out.data());
    const std::vector<float> d = read(out, 128);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        float sum = 0;  // exact: multiples of 1/64 below 2^10
        for (int p = 0; p < k; ++p)
          sum += a[static_cast<std::size_t>(i * k + p)] * b[static_cast<std::size_t>(p * 8 + j)];
        ASSERT_EQ(d[static_cast<std::size_t>(i * 8 + j)], sum) << kind << " " << i << "," << j;
      }
  }
}

template <bool kTrans>
__global__ void load_matrices(unsigned* out) {
  auto* rows = dynamic_shared<std::uint16_t>();
  for (int i = 0; i < 8; ++i) rows[threadIdx.x * 8 + i] = static_cast<std::uint16_t>(threadIdx.x * 8 + i);
  sync_warp();
  std::uint32_t r[4];
  ldmatrix_x4<kTrans>(r, rows + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = r[i];
}

TEST_F(Emulator, LoadsMatricesFromShared) {
  for (const bool trans : {false, true}) {
    const Scratch<unsigned> out(native_, 128);
    launch(native_, trans ? load_matrices<true> : load_matrices<false>, 1, 32, 512, out.data());
    const std::vector<unsigned> values = read(out, 128);
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned m = 0; m < 4; ++m) {
        const unsigned i = lane / 4, j = 2 * (lane % 4);
        const unsigned low = trans ? m * 64 + j * 8 + i : m * 64 + i * 8 + j;
        ASSERT_EQ(values[lane * 4 + m], low | (low + (trans ? 8U : 1U)) << 16);
      }
  }
}

__global__ void pipeline(const float* in, bool wait, float* out) {
  auto* stage = dynamic_shared<float>();
  cp_async_16(stage + threadIdx.x * 4, in + threadIdx.x * 4, threadIdx.x != 1);
  cp_async_commit();
  if (wait) cp_async_wait<0>();
  sync_threads();
  out[threadIdx.x] = stage[threadIdx.x];
  sync_threads();
  if (!wait) cp_async_wait<0>();
}

TEST_F(Emulator, AsynchronousCopiesArriveWhenWaitedFor) {
  std::vector<float> in(32);
  std::iota(in.begin(), in.end(), 1.0F);
  const auto from = device(in);
  const Scratch<float> out(native_, 8);
  launch(native_, pipeline, 1, 8, 128, from->data(), true, out.data());
  EXPECT_EQ(read(out, 8), (std::vector<float>{1, 2, 3, 4, 0, 0, 0, 0}));
  launch(native_, pipeline, 1, 8, 128, from->data(), false, out.data());
  for (const float value : read(out, 8)) EXPECT_TRUE(std::isnan(value)) << "seen before it was waited for";
}

__global__ void some_return_first(int* out) {
  if (threadIdx.x >= 40) return;
  sync_threads();
  const unsigned there = ballot(true);
  out[threadIdx.x] = count_bits(there);
}

TEST_F(Emulator, ThreadsThatReturnedAreNotWaitedFor) {
  const Scratch<int> out(native_, 40);
  launch(native_, some_return_first, 1, 64, 0, out.data());
  const std::vector<int> values = read(out, 40);
  EXPECT_EQ(values[0], 32);
  EXPECT_EQ(values[39], 8);
}

__global__ void half_a_barrier(int* out) {
  if (threadIdx.x < 32)
    sync_threads();
  else if (threadIdx.x < 40)
    out[0] = shuffle(1, 0);
}
__global__ void split_lanes(int* out) {
  if (threadIdx.x % 2 == 0)
    out[threadIdx.x] = shuffle(1, 0);
  else
    sync_warp();
}
__global__ void wait_in_a_branch(int* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = shuffle(1, 0);
  sync_threads();
}
__global__ void read_absent(int* out) { out[threadIdx.x] = shuffle_down(static_cast<int>(threadIdx.x), 1); }
__global__ void write_behind(int* out, int at) { out[at] = 1; }
__global__ void write_before_shared(int at) { dynamic_shared<int>()[at] = 1; }
__global__ void forget_copies(const float* in) {
  cp_async_16(dynamic_shared<float>(), in);
  cp_async_commit();
}

TEST_F(Emulator, RefusesWhatAGpuWouldHangOrFaultOn) {
  const Scratch<int> out(native_, 64);
  const Scratch<float> in(native_, 4);
  const auto fails = [&](auto&& call, const char* text) {
    EXPECT_THAT(call, ThrowsMessage<std::logic_error>(HasSubstr(text)));
  };
  fails([&] { launch(native_, wait_in_a_branch, 1, 32, 0, out.data()); }, "wait for each other for ever");
  fails([&] { launch(native_, split_lanes, 1, 32, 0, out.data()); }, "different operations");
  fails([&] { launch(native_, read_absent, 1, 40, 0, out.data()); }, "reads from absent lane");
  fails([&] { launch(native_, write_before_shared, 1, 1, 4, -1); }, "before the shared memory");
  fails([&] { launch(native_, forget_copies, 1, 1, 16, in.data()); }, "did not wait for");
  fails([&] { launch(native_, write_behind, 1, 1, 0, out.data(), 64); }, "behind an array");
}

TEST_F(Emulator, AHalfBarrierEndsWithItsThreads) {
  // Lanes past 40 are gone; those before it finish and the others' barrier is complete, as on a GPU.
  const Scratch<int> out(native_, 1);
  EXPECT_NO_THROW(launch(native_, half_a_barrier, 1, 64, 0, out.data()));
}

TEST_F(Emulator, HostCodeMayNotTouchDeviceMemory) {
  const Scratch<int> out(native_, 1);
  EXPECT_DEATH(*static_cast<volatile int*>(out.data()) = 1, "host code touches device memory");
}

TEST_F(Emulator, UploadsArriveWhenJoined) {
  const std::int64_t n = (40 << 20) / 4;  // more than the ring of pinned buffers at once
  std::vector<int> host(static_cast<std::size_t>(n));
  std::iota(host.begin(), host.end(), 0);
  const std::vector<int> kept = host;
  const Scratch<int> out(native_, n);
  native_.uploads->upload(host.data(), n * 4, out.data());
  std::fill(host.begin(), host.end(), -1);
  std::vector<int> early = read(out, n);
  EXPECT_NE(early, kept) << "the copy should be under way still";
  native_.uploads->join();
  EXPECT_EQ(read(out, n), kept);
}

TEST_F(Emulator, MemoryThatIsShortIsNamed) {
  EXPECT_THAT([&] { const Scratch<char> all(native_, std::int64_t{5} << 30); },
              ThrowsMessage<core::DeviceError>(HasSubstr("asked for 5120 MiB where 2048 MiB of 2048 MiB are free")));
}

TEST_F(Emulator, GridsThatNoGpuTakesAreRefused) {
  EXPECT_THROW(grid_of(1, 65536), core::InternalError);
  EXPECT_THROW(grid_of(std::int64_t{1} << 31), core::InternalError);
  EXPECT_THROW(launch(native_, write_before_shared, 1, 1025, 0, 0), core::InternalError);
  EXPECT_THROW(launch(native_, write_before_shared, 1, 1, 228 << 10, 0), core::InternalError);
}

}  // namespace
}  // namespace voronoi::kernels::gpu
