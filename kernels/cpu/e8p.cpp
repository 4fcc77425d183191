// Linears in lattice codes: rows are decoded into a buffer that stays in cache, and either turned and written out, or
// multiplied at once.
#include "kernels/e8p.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/e8p_rows.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/rotated.h"
#include "kernels/cpu/rotation.h"
#include "kernels/cpu/scratch.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {

namespace e8p {

using packed::index;

const Tables& tables() {
  static const Tables made = [] {
    Tables t;
    for (std::size_t k = 0; k < index(kEntries); ++k) {
      const bool odd = std::popcount(static_cast<unsigned>(k)) % 2 != 0;
      const std::size_t s = odd ? k ^ 1U : k;
      t.shift[k] = odd ? -0.25F : 0.25F;
      for (int i = 0; i < kDim; ++i) {
        const auto at = index(i);
        t.entries[k][at] = 0.5F * static_cast<float>(doubled_of(kE8p.at[k], i));
        t.e8[k][at] = 0.5F * static_cast<float>(doubled_of(kE8.at[k], i));
        t.signs[k][at] = (s >> nibble_of(i) & 1U) != 0 ? 0x80000000U : 0U;
      }
    }
    return t;
  }();
  return made;
}

}  // namespace e8p

namespace {

using e8p::kDim;
using e8p::kEntries;
using e8p::Tables;
using e8p::tables;
using packed::index;

std::int64_t groups_of(const PackedE8p& p) { return core::ceil_div(p.in_features, std::int64_t{kDim}); }

/// W before its rows are turned back into one another.
void decode_unturned_rows(const Exec& exec, const PackedE8p& p, float* weight) {
  constexpr std::int64_t kVectors = rotation::kVectors;
  const rotation::Turner turner(exec, p.in, true);
  const std::int64_t in = p.in_features, n_groups = groups_of(p);
  exec.pool->parallel_for(core::ceil_div(p.out_features, kVectors), [&](std::int64_t task) {
    const std::int64_t first = task * kVectors, count = std::min(kVectors, p.out_features - first);
    float* rows = weight + first * in;
    if (p.in.n == 0) {
      std::vector<float> values(index(n_groups * kDim));
      for (std::int64_t row = 0; row < count; ++row) {
        e8p::decode_places(p, (first + row) * n_groups, n_groups, values.data());
        for (std::int64_t c = 0; c < in; ++c) rows[row * in + c] = values[index(c)] * p.scale;
      }
      return;
    }
    Scratch<float> panel(n_groups * kDim * kVectors), spare(turner.spare_size());
    if (count < kVectors) std::fill_n(panel.data(), n_groups * kDim * kVectors, 0.0F);
    Scratch<float> values(n_groups * kDim);
    for (std::int64_t lane = 0; lane < count; ++lane) {
      e8p::decode_places(p, (first + lane) * n_groups, n_groups, values.data());
      for (std::int64_t c = 0; c < n_groups * kDim; ++c) panel.data()[c * kVectors + lane] = values.data()[c] * p.scale;
    }
    turner.turn(panel.data(), spare.data());
    rotation::from_panel(count, in, panel.data(), rows, in);
  });
}

void decode_f32(const Exec& exec, const PackedE8p& p, float* weight) {
  decode_unturned_rows(exec, p, weight);
  rotation::finish_decoding(exec, p, weight);
}

void decode_16(const Exec& exec, const PackedE8p& p, std::uint16_t* weight) {
  Scratch<float> wide(p.out_features * p.in_features);
  decode_f32(exec, p, wide.data());
  packed::narrow_rows(exec, p.out_features, p.in_features, p.dtype, wide.data(), weight);
}

void fused_matmul(const Exec& exec, const PackedE8p& p, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxE8pTokens, "a fused product has 1 to 16 tokens");
  constexpr std::int64_t kRowsATask = 16;
  const std::int64_t in = p.in_features, n_out = p.out_features;
  rotation::multiply_turned(exec, p, n_tokens, x, accumulate, out, [&](const float* tokens, float* products) {
    exec.pool->parallel_for(core::ceil_div(n_out, kRowsATask), [&](std::int64_t task) {
      const std::int64_t n_groups = groups_of(p);
      std::vector<float> values(index(n_groups * kDim));
      const std::int64_t end = std::min(n_out, (task + 1) * kRowsATask);
      for (std::int64_t row = task * kRowsATask; row < end; ++row) {
        e8p::decode_places(p, row * n_groups, n_groups, values.data());
        for (std::int64_t token = 0; token < n_tokens; ++token)
          products[token * n_out + row] = p.scale * packed::dot(in, values.data(), tokens + token * in);
      }
    });
  });
}

}  // namespace

void decode_e8p(std::uint16_t code, float* values) {
  PackedE8p one;
  one.codes = &code;
  e8p::decode_places(one, 0, 1, values);
}

void decode_e8(std::uint8_t code, float* values) { std::copy_n(tables().e8[code].data(), kDim, values); }

std::uint16_t nearest_of_part(bool residual, int dim, const float* x) {
  const Tables& t = tables();
  float least = 0;
  int best = -1;
  const auto offer = [&](float distance, unsigned code) {
    if (best >= 0 && !(distance < least)) return;
    best = static_cast<int>(code);
    least = distance;
  };
  for (unsigned entry = 0; residual && entry < kEntries; ++entry) {
    float distance = 0;
    for (std::size_t i = 0; i < index(dim); ++i) distance += (x[i] - t.e8[entry][i]) * (x[i] - t.e8[entry][i]);
    offer(distance, entry);
  }
  for (unsigned entry = 0; !residual && entry < kEntries; ++entry)
    for (const bool odd : {false, true}) {
      float distance = 0;
      unsigned signs = 0;
      for (int i = 0; i < dim; ++i) {
        const float y = x[i] - (odd ? -0.25F : 0.25F), gap = std::fabs(y) - t.entries[entry][index(i)];
        if (y < 0) signs |= 1U << e8p::nibble_of(i);
        distance += gap * gap;
      }
      // The last coordinate, which does not count, makes the number of signs even.
      if (std::popcount(signs) % 2 != 0) signs |= 1U << e8p::nibble_of(kDim - 1);
      offer(distance, entry << 8U | (odd ? signs ^ 1U : signs));
    }
  return static_cast<std::uint16_t>(best);
}

E8pKernels cpu_e8p_kernels() {
  return {.decode_f32 = decode_f32, .decode_16 = decode_16, .fused_matmul = fused_matmul};
}

}  // namespace voronoi::kernels
