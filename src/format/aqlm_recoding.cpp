#include "format/aqlm_recoding.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "format/aqlm.h"
#include "format/recoding.h"
#include "kernels/kernels.h"

namespace voronoi::format {
namespace {

constexpr int kMostPasses = 8;
constexpr std::int64_t kVectorsATask = 64;

/// The search for the codes of single vectors.
class AqlmSearch {
 public:
  explicit AqlmSearch(const kernels::TunedAqlm& tuned)
      : t_(tuned), g_(tuned.packed.group), k_(std::int64_t{1} << tuned.packed.code_bits), rest_(at(g_)) {}

  /// Codes whose centroids sum up to nearly `point`, no further than `present`.
  std::vector<std::uint32_t> search(std::span<const float> point, std::span<const std::uint32_t> present) {
    std::vector<std::uint32_t> kept(present.begin(), present.end()), fresh(present.size());
    rest_.assign(point.begin(), point.end());
    for (std::size_t m = 0; m < fresh.size(); ++m) {
      fresh[m] = nearest(m);
      move(m, fresh[m], -1);
    }
    improve(point, kept);
    improve(point, fresh);
    const float least = distance(point, present), of_kept = distance(point, kept), of_fresh = distance(point, fresh);
    if (of_fresh < of_kept && of_fresh < least) return fresh;
    if (of_kept < least) return kept;
    return {present.begin(), present.end()};
  }

 private:
  const float* centroid(std::size_t m, std::uint32_t code) const {
    return t_.codebook + (static_cast<std::int64_t>(m) * k_ + code) * g_;
  }
  void move(std::size_t m, std::uint32_t code, float by) {
    for (std::int64_t i = 0; i < g_; ++i) rest_[at(i)] += by * centroid(m, code)[i];
  }
  /// The centroid nearest to rest_; of equal ones the first.
  std::uint32_t nearest(std::size_t m) const {
    std::uint32_t best = 0;
    float least = INFINITY;
    for (std::int64_t code = 0; code < k_; ++code) {
      const float* c = centroid(m, static_cast<std::uint32_t>(code));
      float sum = 0;
      for (std::int64_t i = 0; i < g_; ++i) sum += (rest_[at(i)] - c[i]) * (rest_[at(i)] - c[i]);
      if (!(sum < least)) continue;
      least = sum;
      best = static_cast<std::uint32_t>(code);
    }
    return best;
  }
  /// Of the sum as it is decoded.
  float distance(std::span<const float> point, std::span<const std::uint32_t> codes) const {
    float total = 0;
    for (std::int64_t i = 0; i < g_; ++i) {
      float sum = 0;
      for (std::size_t m = 0; m < codes.size(); ++m) sum += centroid(m, codes[m])[i];
      total += (point[at(i)] - sum) * (point[at(i)] - sum);
    }
    return total;
  }
  void improve(std::span<const float> point, std::vector<std::uint32_t>& codes) {
    rest_.assign(point.begin(), point.end());
    for (std::size_t m = 0; m < codes.size(); ++m) move(m, codes[m], -1);
    for (int pass = 0; pass < kMostPasses; ++pass) {
      bool moved = false;
      for (std::size_t m = 0; m < codes.size(); ++m) {
        move(m, codes[m], 1);
        const std::uint32_t code = nearest(m);
        moved = moved || code != codes[m];
        codes[m] = code;
        move(m, code, -1);
      }
      if (!moved) break;
    }
  }

  const kernels::TunedAqlm& t_;
  std::int64_t g_, k_;
  std::vector<float> rest_;  // the point less the centroids it has
};

}  // namespace

std::int64_t recode_aqlm(core::ThreadPool& pool, const kernels::TunedAqlm& tuned, const float* target, double share,
                         std::vector<std::uint8_t>& codes8, std::vector<std::uint16_t>& codes16) {
  const kernels::PackedAqlm& p = tuned.packed;
  const std::int64_t g = p.group, n_books = p.codebooks, n_vectors = p.out_features * p.groups();
  std::vector<float> distances(at(n_vectors));
  {
    std::vector<float> weight(at(p.out_features * p.in_features));
    kernels::cpu().aqlm.decode_tuned({&pool, nullptr}, tuned, weight.data());
    pool.parallel_for(p.out_features, [&](std::int64_t row) {
      for (std::int64_t v = row * p.groups(); v < (row + 1) * p.groups(); ++v) {
        float sum = 0;
        for (std::int64_t i = v * g; i < (v + 1) * g; ++i)
          sum += (target[i] - weight[at(i)]) * (target[i] - weight[at(i)]);
        distances[at(v)] = sum;
      }
    });
  }
  const std::vector<std::int64_t> chosen = farthest(distances, share);
  const std::uint32_t mask = (1U << p.code_bits) - 1U;
  std::vector<std::int64_t> changed(at(core::ceil_div(std::ssize(chosen), kVectorsATask)));
  pool.parallel_for(std::ssize(changed), [&](std::int64_t task) {
    AqlmSearch search(tuned);
    std::vector<float> point(at(g));
    std::vector<std::uint32_t> present(at(n_books));
    const std::int64_t end = std::min(std::ssize(chosen), (task + 1) * kVectorsATask);
    for (std::int64_t i = task * kVectorsATask; i < end; ++i) {
      const std::int64_t vector = chosen[at(i)];
      const float scale = tuned.scale[vector / p.groups()];
      for (std::int64_t c = 0; c < g; ++c) point[at(c)] = target[vector * g + c] / scale;
      if (!std::all_of(point.begin(), point.end(), [](float value) { return std::isfinite(value); })) continue;
      for (std::int64_t m = 0; m < n_books; ++m) {
        const std::size_t place = at(vector * n_books + m);
        present[at(m)] = (codes8.empty() ? codes16[place] : codes8[place]) & mask;
      }
      const std::vector<std::uint32_t> codes = search.search(point, present);
      if (codes == present) continue;
      ++changed[at(task)];
      for (std::int64_t m = 0; m < n_books; ++m) {
        const std::size_t place = at(vector * n_books + m);
        const std::uint16_t stored = stored_code(p.code_bits, codes[at(m)]);
        if (codes8.empty())
          codes16[place] = stored;
        else
          codes8[place] = static_cast<std::uint8_t>(stored);
      }
    }
  });
  std::int64_t n_changed = 0;
  for (const std::int64_t n : changed) n_changed += n;
  return n_changed;
}

}  // namespace voronoi::format
