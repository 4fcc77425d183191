// Linears in trellis codes: units of 16 rows are decoded, and either turned and written out, or multiplied at once.
#include "kernels/trellis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/rotated.h"
#include "kernels/cpu/rotation.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/trellis_units.h"
#include "kernels/cpu/trellis_values.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using packed::index;

constexpr std::size_t kStates = std::size_t{1} << kMostStateBits;
using Values = std::array<float, kStates>;

std::unique_ptr<const Values> make_values(TrellisCode code) {
  auto values = std::make_unique<Values>();
  for (std::size_t state = 0; state < kStates; ++state)
    (*values)[state] = trellis_value(code, static_cast<std::uint32_t>(state));
  return values;
}

static_assert(rotation::kVectors == kTrellisUnit);

/// W before its rows are turned back into one another.
void decode_unturned(const Exec& exec, const PackedTrellis& p, float* weight) {
  const rotation::Turner turner(exec, p.in, true);
  const std::int64_t in = p.in_features;
  exec.pool->parallel_for(trellis_units(p.out_features), [&](std::int64_t unit) {
    const std::int64_t first = unit * kTrellisUnit, count = std::min(kTrellisUnit, p.out_features - first);
    Scratch<float> panel(in * kTrellisUnit), spare(turner.spare_size());
    trellis::decode_columns(trellis::UnitCodes(p, unit), 0, in, panel.data());
    for (std::int64_t i = 0; i < in * kTrellisUnit; ++i) panel.data()[i] *= p.scale;
    if (p.in.n > 0) turner.turn(panel.data(), spare.data());
    rotation::from_panel(count, in, panel.data(), weight + first * in, in);
  });
}

void decode_f32(const Exec& exec, const PackedTrellis& p, float* weight) {
  decode_unturned(exec, p, weight);
  rotation::finish_decoding(exec, p, weight);
}

void decode_16(const Exec& exec, const PackedTrellis& p, std::uint16_t* weight) {
  Scratch<float> wide(p.out_features * p.in_features);
  decode_f32(exec, p, wide.data());
  packed::narrow_rows(exec, p.out_features, p.in_features, p.dtype, wide.data(), weight);
}

/// products [n_tokens, out] = tokens [n_tokens, in] Q^T.
void multiply_states(const Exec& exec, const PackedTrellis& p, std::int64_t n_tokens, const float* tokens,
                     float* products) {
  const std::int64_t n_out = p.out_features;
  exec.pool->parallel_for(trellis_units(n_out), [&](std::int64_t unit) {
    const std::int64_t first = unit * kTrellisUnit, count = std::min(kTrellisUnit, n_out - first);
    std::array<float, index(kMaxTrellisTokens * kTrellisUnit)> sums;
    trellis::multiply_unit(trellis::UnitCodes(p, unit), n_tokens, tokens, sums.data());
    for (std::int64_t token = 0; token < n_tokens; ++token)
      for (std::int64_t row = 0; row < count; ++row)
        products[token * n_out + first + row] = p.scale * sums[index(token * kTrellisUnit + row)];
  });
}

void fused_matmul(const Exec& exec, const PackedTrellis& p, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxTrellisTokens, "a fused product has 1 to 16 tokens");
  rotation::multiply_turned(exec, p, n_tokens, x, accumulate, out, [&](const float* tokens, float* products) {
    multiply_states(exec, p, n_tokens, tokens, products);
  });
}

}  // namespace

float trellis_value(TrellisCode code, std::uint32_t state) {
  if (code == TrellisCode::mul1) {
    const std::uint32_t x = state * trellis::kMul1Factor;
    const std::uint32_t sum = (x & 0xFFU) + (x >> 8 & 0xFFU) + (x >> 16 & 0xFFU) + (x >> 24);
    // Both are whole multiples of 2^-18 below 16, so that the one rounding is that of 16 bits.
    const float scaled = static_cast<float>(trellis::kMul1Offset + sum) * trellis::kMul1Scale;
    return core::half_to_float(core::float_to_half(scaled + trellis::kMul1Shift));
  }
  const std::uint32_t x = code == TrellisCode::mcg ? state * 0xCBAC1FEDU : state * 89226354U + 64248484U;
  const std::uint32_t halves = (x & 0x8FFF8FFFU) ^ 0x3B603B60U;
  const float sum = core::half_to_float(static_cast<std::uint16_t>(halves & 0xFFFFU)) +
                    core::half_to_float(static_cast<std::uint16_t>(halves >> 16));
  return core::half_to_float(core::float_to_half(sum));
}

void pack_trellis(int bits, std::int64_t units, std::int64_t n, const std::uint8_t* symbols, std::uint16_t* codes) {
  for (std::int64_t unit = 0; unit < units; ++unit)
    for (std::int64_t column = 0; column < n; ++column) {
      std::uint64_t window = 0;
      std::uint16_t* word = codes + (unit * n + column) * bits;
      int held = 0;
      for (std::int64_t row = 0; row < kTrellisUnit; ++row) {
        window = window << bits | symbols[(unit * kTrellisUnit + row) * n + column];
        held += bits;
        if (held < 16) continue;
        held -= 16;
        *word++ = static_cast<std::uint16_t>(window >> held & 0xFFFFU);
      }
    }
}

namespace trellis {

const float* values_of(TrellisCode code) {
  static const std::array<std::unique_ptr<const Values>, kTrellisCodes> made{
      make_values(TrellisCode::mul1), make_values(TrellisCode::mcg), make_values(TrellisCode::three_inst)};
  return made[static_cast<std::size_t>(code)]->data();
}

std::int16_t level_of(float by_level, float value) {
  return static_cast<std::int16_t>(std::lrintf(std::clamp(value * by_level, -kMostLevel, kMostLevel)));
}

}  // namespace trellis

TrellisKernels cpu_trellis_kernels() {
  return {.decode_f32 = decode_f32, .decode_16 = decode_16, .fused_matmul = fused_matmul, .search = trellis::search};
}

}  // namespace voronoi::kernels
