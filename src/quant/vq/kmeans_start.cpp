#include "quant/vq/kmeans_start.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/random.h"
#include "core/types.h"
#include "core/work_counts.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kRounds = 128;  // of many seeds, above kGreedySeeds
constexpr std::int64_t kBlock = kernels::kPotentialBlock;
constexpr std::uint64_t kSamplePurpose = 0x73616D706C65, kSeedPurpose = 0x7365656473;

// Points of this member that take part in the sample, and with which weight.
struct Draw {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

Draw joined(const std::vector<Draw>& draws) {
  Draw all;
  for (const Draw& draw : draws) {
    all.ids.insert(all.ids.end(), draw.ids.begin(), draw.ids.end());
    all.weights.insert(all.weights.end(), draw.weights.begin(), draw.weights.end());
  }
  return all;
}

// Every member's draw, in order of chunk.
KmeansSample gather_draws(backend::Context& context, core::Team& team, const KmeansPoints& mine, std::int64_t dim,
                          const Draw& draw) {
  KmeansSample sample;
  const std::vector<float> points = backend::gather_rows(context, mine.points, dim, draw.ids).to_host();
  for (const std::vector<std::byte>& bytes : team.all_gather(std::as_bytes(std::span(points))))
    core::append_values(bytes, sample.points);
  for (const std::vector<std::byte>& bytes : team.all_gather(std::as_bytes(std::span(draw.weights))))
    core::append_values(bytes, sample.weights);
  // Only ratios matter; with weights up to 1 no potential overflows.
  const float largest = sample.weights.empty() ? 1.0F : *std::max_element(sample.weights.begin(), sample.weights.end());
  for (float& weight : sample.weights) weight /= largest;
  return sample;
}

std::vector<float> transposed(const std::vector<float>& rows, std::int64_t n, std::int64_t dim) {
  std::vector<float> columns(rows.size());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < dim; ++d) columns[index(d * n + i)] = rows[index(i * dim + d)];
  return columns;
}

// Potential w_i min_s |x_i - s|^2 of the sample's points and its block sums.
class Potential {
 public:
  Potential(backend::Context& context, const KmeansSample& sample, std::int64_t dim)
      : context_(context),
        sample_(sample),
        n_(sample.n()),
        dim_(dim),
        host_columns_(transposed(sample.points, n_, dim)),
        columns_(context, host_columns_),
        points_(context, sample.points),
        weights_(context, sample.weights),
        distance2_(context, std::vector<float>(index(n_), std::numeric_limits<float>::infinity())),
        scratch_(context, n_),
        nearest_(context, n_),
        device_sums_(context, core::ceil_div(n_, kBlock)) {}

  /// One more seed.
  void add(const float* seed) {
    const backend::DeviceView<float> view(context_, {seed, index(dim_)});
    count_potentials(1);
    context_.vq().potentials(context_.exec(), n_, dim_, columns_.data(), weights_.data(), distance2_.data(), 1,
                             view.data(), true, device_sums_.data());
    take_sums();
  }

  /// Which of `count` candidates [count, dim] would leave the least potential; ties to the first.
  std::int64_t best_of(const std::vector<float>& candidates, std::int64_t count) {
    const backend::DeviceView<float> view(context_, candidates);
    count_potentials(count);
    if (candidate_sums_.size() != device_sums_.size() * count)
      candidate_sums_ = backend::Array<double>(context_, device_sums_.size() * count);
    context_.vq().potentials(context_.exec(), n_, dim_, columns_.data(), weights_.data(), distance2_.data(), count,
                             view.data(), false, candidate_sums_.data());
    std::vector<double> sums(index(count), 0.0);
    const std::vector<double> blocks = candidate_sums_.to_host();
    for (std::size_t i = 0; i < blocks.size(); ++i) sums[i % index(count)] += blocks[i];
    return std::min_element(sums.begin(), sums.end()) - sums.begin();
  }

  /// Many more seeds.
  void add(const std::vector<float>& seeds) {
    const backend::DeviceView<float> view(context_, seeds);
    core::count_work(core::Counted::nearest_flops,
                     2 * static_cast<double>(n_) * static_cast<double>(std::ssize(seeds)));
    context_.vq().nearest(context_.exec(), n_, dim_, points_.data(), static_cast<std::int64_t>(seeds.size()) / dim_,
                          view.data(), nullptr, nearest_.data(), scratch_.data());
    context_.vq().lower_potentials(context_.exec(), n_, weights_.data(), scratch_.data(), distance2_.data(),
                                   device_sums_.data());
    take_sums();
  }

  /// The points at `shares` in [0, 1) of the running sum of potentials; without any potential, of the points.
  std::vector<std::int64_t> points_at(const std::vector<double>& shares) {
    std::vector<std::int64_t> points;
    if (!(total_ > 0)) {
      for (const double share : shares)
        points.push_back(std::min(n_ - 1, static_cast<std::int64_t>(share * static_cast<double>(n_))));
      return points;
    }
    // Of a few points only their blocks are fetched.
    const bool all = static_cast<std::int64_t>(shares.size()) * kBlock >= n_;
    const backend::HostView<float> distances(context_, distance2_.data(), all ? n_ : 0);
    for (const double share : shares) {
      double left = share * total_;
      std::int64_t block = 0;
      while (block + 1 < static_cast<std::int64_t>(block_sums_.size()) && left >= block_sums_[index(block)])
        left -= block_sums_[index(block++)];
      const std::int64_t begin = block * kBlock, count = std::min(n_ - begin, kBlock);
      if (all) {
        points.push_back(begin + point_in(begin, distances.values().subspan(index(begin), index(count)), left));
      } else {
        const backend::HostView<float> some(context_, distance2_.data() + begin, count);
        points.push_back(begin + point_in(begin, some.values(), left));
      }
    }
    return points;
  }

 private:
  void count_potentials(std::int64_t candidates) const {
    core::count_work(core::Counted::seeding_flops,
                     3 * static_cast<double>(n_ * dim_) * static_cast<double>(candidates));
  }

  void take_sums() {
    block_sums_ = device_sums_.to_host();
    total_ = 0;
    for (const double sum : block_sums_) total_ += sum;
  }

  /// Of the points from `begin`, the one where the running sum of potentials passes `left`.
  std::int64_t point_in(std::int64_t begin, std::span<const float> distances, double left) const {
    std::int64_t last = 0;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(distances.size()); ++i) {
      const double own =
          static_cast<double>(sample_.weights[index(begin + i)]) * static_cast<double>(distances[index(i)]);
      if (own > 0) last = i;
      if (left < own) return i;
      left -= own;
    }
    return last;  // rounding only
  }

  backend::Context& context_;
  const KmeansSample& sample_;
  std::int64_t n_, dim_;
  std::vector<float> host_columns_;
  backend::DeviceView<float> columns_, points_, weights_;
  backend::Array<float> distance2_, scratch_;
  backend::Array<std::int32_t> nearest_;
  backend::Array<double> device_sums_, candidate_sums_;
  std::vector<double> block_sums_;
  double total_ = 0;
};

}  // namespace

KmeansSample draw_sample(backend::Context& context, core::Team& team, std::span<const double> chunk_weights,
                         std::int64_t n_total, const KmeansPoints& mine, std::span<const float> weights,
                         const KmeansParameters& parameters) {
  const std::int64_t dim = parameters.dim, target = sample_size(parameters.k);
  double total = 0;
  for (const double weight : chunk_weights) total += weight;
  // Of each chunk, which knows what the chunks before weigh.
  std::vector<Draw> draws(index(mine.n_chunks()));
  const auto each_chunk = [&](const auto& draw) {
    context.pool().parallel_for(mine.n_chunks(), [&](std::int64_t c) {
      draw(c, [&of = draws[index(c)]](std::int64_t i, float weight) {
        of.ids.push_back(static_cast<std::int32_t>(i));
        of.weights.push_back(weight);
      });
    });
  };
  if (n_total <= target || !(total > 0)) {
    // Everything; of weightless points the first of each chunk are as good as any.
    const std::int64_t share =
        total > 0 ? n_total : core::ceil_div(target, static_cast<std::int64_t>(chunk_weights.size()));
    each_chunk([&](std::int64_t c, const auto& take) {
      const std::int64_t begin = mine.chunk_begin[index(c)], end = mine.chunk_begin[index(c + 1)];
      for (std::int64_t i = begin; i < std::min(end, begin + share); ++i) {
        if (total > 0 && !(weights[index(i)] > 0)) continue;
        take(i, total > 0 ? weights[index(i)] : 1.0F);
      }
    });
    KmeansSample sample = gather_draws(context, team, mine, dim, joined(draws));
    sample.complete = true;
    return sample;
  }
  // Stratum s holds the share [s, s + 1) / target of the running weight and gives the point at a random place in it; a
  // point hit several times counts as often.
  const core::CounterRandom random(parameters.seed ^ kSamplePurpose, parameters.stream);
  const double width = total / static_cast<double>(target);
  each_chunk([&](std::int64_t c, const auto& take) {
    double start = 0;
    for (std::int64_t id = 0; id < mine.first_chunk + c; ++id) start += chunk_weights[index(id)];
    const double stop = start + chunk_weights[index(mine.first_chunk + c)];
    std::int64_t stratum = std::max<std::int64_t>(0, static_cast<std::int64_t>(start / width) - 1);
    const auto place = [&] {
      return (static_cast<double>(stratum) + random.uniform(static_cast<std::uint64_t>(stratum))) * width;
    };
    while (stratum < target && place() < start) ++stratum;
    double running = start;
    const std::int64_t end = mine.chunk_begin[index(c + 1)];
    for (std::int64_t i = mine.chunk_begin[index(c)]; i < end && stratum < target; ++i) {
      running = i + 1 == end ? stop : std::min(stop, running + static_cast<double>(weights[index(i)]));
      if (!(weights[index(i)] > 0)) continue;
      std::int64_t hits = 0;
      for (; stratum < target && place() < running; ++stratum) ++hits;
      if (hits > 0) take(i, static_cast<float>(hits));
    }
  });
  return gather_draws(context, team, mine, dim, joined(draws));
}

std::vector<float> seed_centroids(backend::Context& context, const KmeansSample& sample,
                                  const KmeansParameters& parameters) {
  const std::int64_t k = parameters.k, dim = parameters.dim;
  VORONOI_REQUIRE(sample.n() > 0, "k-means++ needs a point");
  const core::CounterRandom random(parameters.seed ^ kSeedPurpose, parameters.stream);
  std::vector<float> seeds;
  seeds.reserve(index(k * dim));
  const auto take = [&](std::int64_t i) {
    seeds.insert(seeds.end(), sample.points.begin() + i * dim, sample.points.begin() + (i + 1) * dim);
  };
  double weight = 0;
  for (const float w : sample.weights) weight += static_cast<double>(w);
  double left = random.uniform(0) * weight;
  std::int64_t first = 0;
  while (first + 1 < sample.n() && left >= static_cast<double>(sample.weights[index(first)]))
    left -= static_cast<double>(sample.weights[index(first++)]);
  take(first);
  Potential potential(context, sample, dim);
  potential.add(seeds.data());
  std::uint64_t counter = 1;
  // A random point of each of `count` equal shares of the potential.
  const auto draw = [&](std::int64_t count) {
    std::vector<double> shares;
    for (std::int64_t s = 0; s < count; ++s)
      shares.push_back((static_cast<double>(s) + random.uniform(counter++)) / static_cast<double>(count));
    std::vector<float> points;
    points.reserve(index(count * dim));
    for (const std::int64_t i : potential.points_at(shares))
      points.insert(points.end(), sample.points.begin() + i * dim, sample.points.begin() + (i + 1) * dim);
    return points;
  };
  if (k <= kGreedySeeds) {
    const std::int64_t n_candidates = seed_candidates(k);
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
    seeds.insert(seeds.end(), more.begin(), more.end());
    potential.add(more);
    have += static_cast<std::int64_t>(more.size()) / dim;
  }
  return seeds;
}

}  // namespace voronoi::quant
