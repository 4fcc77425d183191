// Linears packed in additive codes: a row is decoded at a time, into a buffer that stays in cache, and either written
// out, multiplied, or used for a gradient at once.
#include "kernels/aqlm.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/rows.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using packed::index;

constexpr std::int64_t kRowsATask = 16;  // rows that share buffers

/// add(first column of the group, place of the centroid in the codebooks), codebook by codebook, group by group.
template <class Code, class Add>
void visit_codes(const PackedAqlm& p, const Code* codes, const Add& add) {
  const std::uint32_t mask = (1U << p.code_bits) - 1U;
  const std::int64_t book_size = p.book_size();
  for (std::int64_t j = 0; j < p.groups(); ++j)
    for (std::int64_t m = 0; m < p.codebooks; ++m)
      add(j * p.group, m * book_size + static_cast<std::int64_t>(codes[j * p.codebooks + m] & mask) * p.group);
}

template <class Add>
void visit_row(const PackedAqlm& p, std::int64_t row, const Add& add) {
  const std::int64_t first = row * p.groups() * p.codebooks;
  if (p.codes8 != nullptr)
    visit_codes(p, p.codes8 + first, add);
  else
    visit_codes(p, p.codes16 + first, add);
}

/// kGroup > 0 fixes the group at compile time.
template <int kGroup>
void sum_centroids(const PackedAqlm& p, const float* book, std::int64_t row, float* values) {
  std::fill(values, values + p.in_features, 0.0F);
  visit_row(p, row, [&](std::int64_t column, std::int64_t place) {
    const std::int64_t g = kGroup > 0 ? kGroup : p.group;
    for (std::int64_t i = 0; i < g; ++i) values[column + i] += book[place + i];
  });
}
template <int kGroup>
void add_to_centroids(const PackedAqlm& p, const float* values, std::int64_t row, float* book) {
  visit_row(p, row, [&](std::int64_t column, std::int64_t place) {
    const std::int64_t g = kGroup > 0 ? kGroup : p.group;
    for (std::int64_t i = 0; i < g; ++i) book[place + i] += values[column + i];
  });
}

/// Row `row` before its scale.
void sum_row(const TunedAqlm& t, std::int64_t row, float* values) {
  t.packed.group == 8 ? sum_centroids<8>(t.packed, t.codebook, row, values)
                      : sum_centroids<0>(t.packed, t.codebook, row, values);
}

/// use(row, values) for every row decoded, over the threads.
template <class Use>
void for_rows(const Exec& exec, const TunedAqlm& tuned, const Use& use) {
  const std::int64_t n = tuned.packed.in_features, rows = tuned.packed.out_features;
  exec.pool->parallel_for(core::ceil_div(rows, kRowsATask), [&](std::int64_t task) {
    std::vector<float> values(index(n));
    for (std::int64_t row = task * kRowsATask; row < std::min(rows, (task + 1) * kRowsATask); ++row) {
      sum_row(tuned, row, values.data());
      for (float& value : values) value *= tuned.scale[row];
      use(row, values.data());
    }
  });
}

/// The numbers of a packed linear, widened once a call.
struct Widened {
  explicit Widened(const PackedAqlm& p)
      : codebook(packed::widen(p.dtype, p.codebook, p.codebooks * p.book_size())),
        scale(packed::widen(p.dtype, p.scale, p.out_features)) {}
  TunedAqlm tuned(const PackedAqlm& p) const { return {p, codebook.data(), scale.data()}; }
  std::vector<float> codebook, scale;
};

void decode_tuned(const Exec& exec, const TunedAqlm& tuned, float* weight) {
  const std::int64_t n = tuned.packed.in_features;
  for_rows(exec, tuned,
           [&](std::int64_t row, const float* values) { std::copy(values, values + n, weight + row * n); });
}

void decode_f32(const Exec& exec, const PackedAqlm& p, float* weight) {
  const Widened widened(p);
  decode_tuned(exec, widened.tuned(p), weight);
}

void decode_16(const Exec& exec, const PackedAqlm& p, std::uint16_t* weight) {
  const Widened widened(p);
  const std::int64_t n = p.in_features;
  for_rows(exec, widened.tuned(p), [&](std::int64_t row, const float* values) {
    std::transform(values, values + n, weight + row * n, [&](float value) { return core::to_bits16(p.dtype, value); });
  });
}

void fused_matmul(const Exec& exec, const PackedAqlm& p, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxAqlmTokens, "a fused product has 1 to 16 tokens");
  const Widened widened(p);
  for_rows(exec, widened.tuned(p), [&](std::int64_t row, const float* values) {
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      float& target = out[t * p.out_features + row];
      const float product = packed::dot(p.in_features, values, x + t * p.in_features);
      target = accumulate ? target + product : product;
    }
  });
}

void gradient(const Exec& exec, const TunedAqlm& tuned, const float* d_weight, float* d_codebook, float* d_scale) {
  const PackedAqlm& p = tuned.packed;
  const std::int64_t n = p.in_features, n_sums = p.codebooks * p.book_size();
  // Parts of the rows that have sums of their own: a matter of the shape alone, and few enough that making and adding
  // the sums costs less than a pass over the weights.
  constexpr std::int64_t kMostParts = 64;
  const std::int64_t n_parts =
      std::clamp<std::int64_t>(p.out_features * n / (2 * n_sums), 1, std::min(kMostParts, p.out_features));
  std::vector<std::vector<float>> sums(index(n_parts));
  exec.pool->parallel_for(n_parts, [&](std::int64_t part) {
    std::vector<float> values(index(n));
    std::vector<float>& mine = sums[index(part)];
    mine.resize(index(n_sums));
    for (std::int64_t row = p.out_features * part / n_parts; row < p.out_features * (part + 1) / n_parts; ++row) {
      const float* d = d_weight + row * n;
      sum_row(tuned, row, values.data());
      d_scale[row] += packed::dot(n, d, values.data());
      for (std::int64_t c = 0; c < n; ++c) values[index(c)] = d[c] * tuned.scale[row];
      p.group == 8 ? add_to_centroids<8>(p, values.data(), row, mine.data())
                   : add_to_centroids<0>(p, values.data(), row, mine.data());
    }
  });
  for_row_chunks(exec, n_sums, 1, [&](std::int64_t first, std::int64_t count) {
    for (const std::vector<float>& part : sums)
      for (std::int64_t i = first; i < first + count; ++i) d_codebook[i] += part[index(i)];
  });
}

}  // namespace

AqlmKernels cpu_aqlm_kernels() {
  return {.decode_f32 = decode_f32,
          .decode_16 = decode_16,
          .fused_matmul = fused_matmul,
          .decode_tuned = decode_tuned,
          .gradient = gradient};
}

}  // namespace voronoi::kernels
