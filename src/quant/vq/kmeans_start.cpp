#include "quant/vq/kmeans_start.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "core/types.h"

namespace voronoi::quant {
namespace {

constexpr std::int64_t kGreedySeeds = 1024;  // above, seeds are drawn in about kRounds rounds of many
constexpr std::int64_t kRounds = 128;
constexpr std::int64_t kBlock = kernels::kPotentialBlock;
constexpr std::uint64_t kSamplePurpose = 0x73616D706C65, kSeedPurpose = 0x7365656473;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void append_row(std::vector<float>& rows, const float* row, std::int64_t dim, float weight) {
  rows.insert(rows.end(), row, row + dim);
  rows.push_back(weight);
}

// Rows [dim + 1] (point, weight) of every member, in order of chunk.
KmeansSample gather_rows(core::Team& team, const std::vector<float>& rows, std::int64_t dim) {
  KmeansSample sample;
  const auto gathered = team.all_gather(std::as_bytes(std::span(rows)));
  for (const std::vector<std::byte>& bytes : gathered) {
    std::vector<float> part(bytes.size() / sizeof(float));
    if (!part.empty()) std::memcpy(part.data(), bytes.data(), part.size() * sizeof(float));
    for (std::size_t row = 0; row < part.size(); row += at(dim + 1)) {
      sample.points.insert(sample.points.end(), part.begin() + static_cast<std::ptrdiff_t>(row),
                           part.begin() + static_cast<std::ptrdiff_t>(row) + dim);
      sample.weights.push_back(part[row + at(dim)]);
      ++sample.n;
    }
  }
  // Only ratios matter; with weights up to 1 no potential overflows.
  const float largest = sample.n > 0 ? *std::max_element(sample.weights.begin(), sample.weights.end()) : 1.0F;
  for (float& weight : sample.weights) weight /= largest;
  return sample;
}

// Potential w_i min_s |x_i - s|^2 of the sample's points and its block sums.
class Potential {
 public:
  Potential(backend::Context& context, const KmeansSample& sample, std::int64_t dim)
      : context_(context),
        sample_(sample),
        dim_(dim),
        columns_(at(sample.n * dim)),
        distance2_(at(sample.n), std::numeric_limits<float>::infinity()),
        scratch_(at(sample.n)),
        nearest_(at(sample.n)),
        block_sums_(at(core::ceil_div(sample.n, kBlock))) {
    for (std::int64_t i = 0; i < sample.n; ++i)
      for (std::int64_t d = 0; d < dim; ++d) columns_[at(d * sample.n + i)] = sample.points[at(i * dim + d)];
  }

  /// One more seed.
  void add(const float* seed) {
    context_.vq().potentials(context_.exec(), sample_.n, dim_, columns_.data(), sample_.weights.data(),
                             distance2_.data(), 1, seed, true, block_sums_.data());
    total_ = 0;
    for (const double sum : block_sums_) total_ += sum;
  }

  /// Which of `count` candidates [count, dim] would leave the least potential; ties to the first.
  std::int64_t best_of(const std::vector<float>& candidates, std::int64_t count) {
    candidate_sums_.resize(block_sums_.size() * at(count));
    context_.vq().potentials(context_.exec(), sample_.n, dim_, columns_.data(), sample_.weights.data(),
                             distance2_.data(), count, candidates.data(), false, candidate_sums_.data());
    std::vector<double> sums(at(count), 0.0);
    for (std::size_t i = 0; i < candidate_sums_.size(); ++i) sums[i % at(count)] += candidate_sums_[i];
    return std::min_element(sums.begin(), sums.end()) - sums.begin();
  }

  /// Many more seeds.
  void add(const float* seeds, std::int64_t count) {
    context_.vq().nearest(context_.exec(), sample_.n, dim_, sample_.points.data(), count, seeds, nullptr,
                          nearest_.data(), scratch_.data());
    context_.pool().parallel_for(static_cast<std::int64_t>(block_sums_.size()), [&](std::int64_t block) {
      double sum = 0;
      for (std::int64_t i = block * kBlock; i < std::min(sample_.n, (block + 1) * kBlock); ++i) {
        distance2_[at(i)] = std::min(distance2_[at(i)], scratch_[at(i)]);
        sum += potential(i);
      }
      block_sums_[at(block)] = sum;
    });
    total_ = 0;
    for (const double sum : block_sums_) total_ += sum;
  }

  double total() const { return total_; }

  /// The point at `share` in [0, 1) of the running sum of potentials; without any potential, of the points.
  std::int64_t point_at(double share) const {
    if (!(total_ > 0))
      return std::min(sample_.n - 1, static_cast<std::int64_t>(share * static_cast<double>(sample_.n)));
    double left = share * total_;
    std::int64_t block = 0;
    while (block + 1 < static_cast<std::int64_t>(block_sums_.size()) && left >= block_sums_[at(block)])
      left -= block_sums_[at(block++)];
    const std::int64_t begin = block * kBlock, end = std::min(sample_.n, begin + kBlock);
    std::int64_t last = begin;
    for (std::int64_t i = begin; i < end; ++i) {
      const double own = potential(i);
      if (own > 0) last = i;
      if (left < own) return i;
      left -= own;
    }
    return last;  // rounding only
  }

 private:
  double potential(std::int64_t i) const {
    return static_cast<double>(sample_.weights[at(i)]) * static_cast<double>(distance2_[at(i)]);
  }

  backend::Context& context_;
  const KmeansSample& sample_;
  std::int64_t dim_;
  std::vector<float> columns_, distance2_, scratch_;
  std::vector<std::int32_t> nearest_;
  std::vector<double> block_sums_, candidate_sums_;
  double total_ = 0;
};

}  // namespace

KmeansSample draw_sample(core::Team& team, std::span<const double> chunk_weights, std::int64_t n_total,
                         std::span<const KmeansChunk> mine, const KmeansParameters& parameters) {
  const std::int64_t dim = parameters.dim, target = std::max<std::int64_t>(16 * parameters.k, 32768);
  double total = 0;
  for (const double weight : chunk_weights) total += weight;
  std::vector<float> rows;
  if (n_total <= target || !(total > 0)) {
    // Everything; of weightless points the first of each chunk are as good as any.
    const std::int64_t share =
        total > 0 ? n_total : core::ceil_div(target, static_cast<std::int64_t>(chunk_weights.size()));
    for (const KmeansChunk& chunk : mine) {
      for (std::int64_t i = 0; i < std::min(chunk.n, share); ++i) {
        if (total > 0 && !(chunk.weights[i] > 0)) continue;
        append_row(rows, chunk.points + i * dim, dim, total > 0 ? chunk.weights[i] : 1.0F);
      }
    }
    KmeansSample sample = gather_rows(team, rows, dim);
    sample.complete = true;
    return sample;
  }
  // Stratum s holds the share [s, s + 1) / target of the running weight and gives the point at a random place in it; a
  // point hit several times counts as often.
  const core::CounterRandom random(parameters.seed ^ kSamplePurpose, parameters.stream);
  const double width = total / static_cast<double>(target);
  for (const KmeansChunk& chunk : mine) {
    double start = 0;
    for (std::int64_t id = 0; id < chunk.id; ++id) start += chunk_weights[at(id)];
    const double stop = start + chunk_weights[at(chunk.id)];
    std::int64_t stratum = std::max<std::int64_t>(0, static_cast<std::int64_t>(start / width) - 1);
    const auto place = [&] {
      return (static_cast<double>(stratum) + random.uniform(static_cast<std::uint64_t>(stratum))) * width;
    };
    while (stratum < target && place() < start) ++stratum;
    double running = start;
    for (std::int64_t i = 0; i < chunk.n && stratum < target; ++i) {
      running = i + 1 == chunk.n ? stop : std::min(stop, running + static_cast<double>(chunk.weights[i]));
      if (!(chunk.weights[i] > 0)) continue;
      std::int64_t hits = 0;
      for (; stratum < target && place() < running; ++stratum) ++hits;
      if (hits > 0) append_row(rows, chunk.points + i * dim, dim, static_cast<float>(hits));
    }
  }
  return gather_rows(team, rows, dim);
}

std::vector<float> seed_centroids(backend::Context& context, const KmeansSample& sample,
                                  const KmeansParameters& parameters) {
  const std::int64_t k = parameters.k, dim = parameters.dim;
  VORONOI_REQUIRE(sample.n > 0, "k-means++ needs a point");
  const core::CounterRandom random(parameters.seed ^ kSeedPurpose, parameters.stream);
  std::vector<float> seeds;
  seeds.reserve(at(k * dim));
  const auto take = [&](std::int64_t i) {
    seeds.insert(seeds.end(), sample.points.begin() + i * dim, sample.points.begin() + (i + 1) * dim);
  };
  double weight = 0;
  for (const float w : sample.weights) weight += static_cast<double>(w);
  double left = random.uniform(0) * weight;
  std::int64_t first = 0;
  while (first + 1 < sample.n && left >= static_cast<double>(sample.weights[at(first)]))
    left -= static_cast<double>(sample.weights[at(first++)]);
  take(first);
  Potential potential(context, sample, dim);
  potential.add(seeds.data());
  std::uint64_t counter = 1;
  // A random point of each of `count` equal shares of the potential.
  const auto draw = [&](std::int64_t count) {
    std::vector<float> points;
    points.reserve(at(count * dim));
    for (std::int64_t s = 0; s < count; ++s) {
      const double share = (static_cast<double>(s) + random.uniform(counter++)) / static_cast<double>(count);
      const float* point = sample.points.data() + potential.point_at(share) * dim;
      points.insert(points.end(), point, point + dim);
    }
    return points;
  };
  if (k <= kGreedySeeds) {
    const auto n_candidates = 2 + static_cast<std::int64_t>(std::log(static_cast<double>(k)));
    for (std::int64_t have = 1; have < k; ++have) {
      const std::vector<float> candidates = draw(n_candidates);
      const float* best = candidates.data() + potential.best_of(candidates, n_candidates) * dim;
      seeds.insert(seeds.end(), best, best + dim);
      potential.add(best);
    }
    return seeds;
  }
  for (std::int64_t have = 1; have < k;) {
    // No more at once than there are already: the first rounds know little.
    const std::vector<float> more = draw(std::min({core::ceil_div(k, kRounds), have, k - have}));
    const std::int64_t count = static_cast<std::int64_t>(more.size()) / dim;
    seeds.insert(seeds.end(), more.begin(), more.end());
    potential.add(more.data(), count);
    have += count;
  }
  return seeds;
}

}  // namespace voronoi::quant
