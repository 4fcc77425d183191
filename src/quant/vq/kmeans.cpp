#include "quant/vq/kmeans.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <set>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/types.h"
#include "core/work_counts.h"
#include "quant/vq/kmeans_start.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr float kLargest = 1e15F;  // squares and their sums stay finite in fp32
// Lloyd steps on the sample before those on all points: cheaper by the ratio of their sizes.
constexpr int kSampleIterations = 30;
constexpr double kSampleTolerance = 1e-3;

class Lloyd {
 public:
  Lloyd(backend::Context& context, core::Team& team, std::int64_t n_chunks, const KmeansPoints& mine, std::int64_t k,
        std::int64_t dim)
      : context_(context),
        team_(team),
        mine_(mine),
        n_chunks_(n_chunks),
        k_(k),
        dim_(dim),
        index_(context, mine.n()),
        distance2_(context, mine.n()) {}

  /// Assigns every point and makes the sums of every cluster; returns the objective.
  double assign(const std::vector<float>& centroids) {
    const backend::DeviceView<float> book(context_, centroids);
    core::count_work(core::Counted::nearest_flops, 2 * static_cast<double>(mine_.n()) * static_cast<double>(k_ * dim_));
    if (assigned_)
      context_.vq().nearest_from(context_.exec(), mine_.n(), dim_, mine_.points, k_, book.data(), index_.data(),
                                 distance2_.data());
    else
      context_.vq().nearest(context_.exec(), mine_.n(), dim_, mine_.points, k_, book.data(), nullptr, index_.data(),
                            distance2_.data());
    assigned_ = true;
    sums_ = sum_over_parts(
        context_, team_, n_chunks_, mine_.n_chunks(), k_ * (dim_ + 1) + 1, [&](bool combined, double* sums) {
          context_.vq().centroid_sums(context_.exec(), mine_.n_chunks(), mine_.chunk_begin.data(), dim_, mine_.points,
                                      mine_.weights, index_.data(), distance2_.data(), k_, combined, sums);
        });
    return sums_.back();
  }

  /// Moves each centroid to the mean of its cluster; returns those without weight.
  std::vector<std::int64_t> move(std::vector<float>& centroids) const {
    std::vector<std::int64_t> empty;
    for (std::int64_t j = 0; j < k_; ++j) {
      const double mass = sums_[index(k_ * dim_ + j)];
      if (!(mass > 0)) {
        empty.push_back(j);
        continue;
      }
      for (std::int64_t i = j * dim_; i < (j + 1) * dim_; ++i)
        centroids[index(i)] = static_cast<float>(sums_[index(i)] / mass);
    }
    return empty;
  }

  /// Puts empty clusters on the distinct points of largest weighted error; returns how many were moved.
  std::int64_t repair(const std::vector<std::int64_t>& empty, std::vector<float>& centroids) {
    const std::int64_t wanted = static_cast<std::int64_t>(empty.size());
    const backend::HostView<float> weights(context_, mine_.weights, mine_.n()),
        distances(context_, distance2_.data(), mine_.n());
    // Of each chunk (-error, i): rising order is falling error, then rising i.
    std::vector<std::vector<std::pair<double, std::int32_t>>> worst_of(index(mine_.n_chunks()));
    context_.pool().parallel_for(mine_.n_chunks(), [&](std::int64_t c) {
      std::vector<std::pair<double, std::int32_t>>& worst = worst_of[index(c)];
      for (std::int64_t i = mine_.chunk_begin[index(c)]; i < mine_.chunk_begin[index(c + 1)]; ++i) {
        const double error =
            static_cast<double>(weights.values()[index(i)]) * static_cast<double>(distances.values()[index(i)]);
        if (error > 0) worst.emplace_back(-error, static_cast<std::int32_t>(i));
      }
      const auto kept = worst.begin() + std::min(wanted, static_cast<std::int64_t>(worst.size()));
      std::partial_sort(worst.begin(), kept, worst.end());
      worst.erase(kept, worst.end());
    });
    std::vector<std::int32_t> ids;
    std::vector<double> errors;
    for (const auto& worst : worst_of)
      for (const auto& [error, i] : worst) {
        errors.push_back(-error);
        ids.push_back(i);
      }
    std::vector<float> points = backend::gather_rows(context_, mine_.points, dim_, ids).to_host();
    const auto all_errors = team_.all_gather(std::as_bytes(std::span(errors)));
    const auto all_points = team_.all_gather(std::as_bytes(std::span(points)));
    errors.clear();
    points.clear();
    for (std::size_t rank = 0; rank < all_errors.size(); ++rank) {
      core::append_values(all_errors[rank], errors);
      core::append_values(all_points[rank], points);
    }
    std::vector<std::int64_t> order(errors.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return errors[index(a)] > errors[index(b)]; });
    std::set<std::vector<float>> taken;
    std::size_t next = 0;
    for (const std::int64_t i : order) {
      if (next == empty.size()) break;
      std::vector<float> point(points.begin() + i * dim_, points.begin() + (i + 1) * dim_);
      if (!taken.insert(point).second) continue;
      std::copy(point.begin(), point.end(), centroids.begin() + empty[next++] * dim_);
    }
    return static_cast<std::int64_t>(next);
  }

 private:
  backend::Context& context_;
  core::Team& team_;
  const KmeansPoints& mine_;
  std::int64_t n_chunks_, k_, dim_;
  backend::Array<std::int32_t> index_;
  bool assigned_ = false;  ///< index_ holds the centroids of the step before
  backend::Array<float> distance2_;
  std::vector<double> sums_;  // of all chunks: [k, dim] points, [k] masses, the objective
};

// What every member knows of a chunk.
struct ChunkFacts {
  std::int64_t id = 0, n = 0;
  double weight = 0;
  std::int64_t sound = 1;
};

// Every member sees the same facts and so throws alike. weights: on the host.
std::vector<ChunkFacts> gather_facts(backend::Context& context, core::Team& team, std::int64_t n_chunks,
                                     const KmeansPoints& mine, std::span<const float> weights, std::int64_t dim) {
  std::vector<ChunkFacts> facts(index(mine.n_chunks()));
  const auto sound = std::make_unique<bool[]>(facts.size());
  context.vq().check_points(context.exec(), mine.n_chunks(), mine.chunk_begin.data(), dim, mine.points, mine.weights,
                            kLargest, sound.get());
  context.pool().parallel_for(mine.n_chunks(), [&](std::int64_t c) {
    const std::int64_t begin = mine.chunk_begin[index(c)], end = mine.chunk_begin[index(c + 1)];
    double weight = 0;
    for (std::int64_t i = begin; i < end; ++i) weight += static_cast<double>(weights[index(i)]);
    facts[index(c)] = {mine.first_chunk + c, end - begin, weight, sound[index(c)] ? 1 : 0};
  });
  std::vector<ChunkFacts> all;
  for (const std::vector<std::byte>& bytes : team.all_gather(std::as_bytes(std::span(facts))))
    core::append_values(bytes, all);
  VORONOI_REQUIRE(static_cast<std::int64_t>(all.size()) == n_chunks,
                  "k-means: members hold other chunks than 0 .. n_chunks - 1");
  for (std::int64_t id = 0; id < n_chunks; ++id) {
    VORONOI_REQUIRE(all[index(id)].id == id, "k-means: chunk ids must rise by one over the members in order of rank");
    if (all[index(id)].sound == 0)
      throw core::NumericError("k-means: chunk " + std::to_string(id) +
                               " has a point that is not finite or above 1e15, or a weight "
                               "that is negative or not finite; check the weights of the layer and its Hessian");
  }
  return all;
}

}  // namespace

KmeansResult lloyd(backend::Context& context, core::Team& team, std::int64_t n_chunks, const KmeansPoints& mine,
                   const KmeansParameters& parameters) {
  KmeansResult result;
  result.centroids.assign(parameters.initial.begin(), parameters.initial.end());
  Lloyd steps(context, team, n_chunks, mine, parameters.k, parameters.dim);
  result.objective.push_back(steps.assign(result.centroids));
  while (result.iterations < parameters.max_iterations && !result.converged) {
    const std::vector<std::int64_t> empty = steps.move(result.centroids);
    const std::int64_t repaired = empty.empty() ? 0 : steps.repair(empty, result.centroids);
    result.repaired += repaired;
    ++result.iterations;
    const double before = result.objective.back(), now = steps.assign(result.centroids);
    result.objective.push_back(now);
    // A cluster that has just been put somewhere has not had its step yet.
    result.converged = repaired == 0 && !(before - now > parameters.tolerance * before);
  }
  return result;
}

KmeansResult kmeans(backend::Context& context, core::Team& team, std::int64_t n_chunks, const KmeansPoints& mine,
                    const KmeansParameters& parameters) {
  const std::int64_t k = parameters.k, dim = parameters.dim;
  VORONOI_REQUIRE(k >= 1 && dim >= 1 && n_chunks >= 1 && parameters.max_iterations >= 0,
                  "k-means: k, dim, n_chunks >= 1");
  VORONOI_REQUIRE(parameters.initial.empty() || static_cast<std::int64_t>(parameters.initial.size()) == k * dim,
                  "k-means: initial centroids must be [k, dim]");
  VORONOI_REQUIRE(!mine.chunk_begin.empty() && mine.n() <= std::numeric_limits<std::int32_t>::max(),
                  "k-means: a member holds fewer than 2^31 points");
  const backend::HostView<float> weights(context, mine.weights, mine.n());
  const std::vector<ChunkFacts> facts = gather_facts(context, team, n_chunks, mine, weights.values(), dim);
  std::int64_t n_total = 0;
  std::vector<double> chunk_weights;
  for (const ChunkFacts& chunk : facts) {
    n_total += chunk.n;
    chunk_weights.push_back(chunk.weight);
  }
  if (n_total == 0) throw core::NumericError("k-means: there is no point to train on");
  if (!parameters.initial.empty()) return lloyd(context, team, n_chunks, mine, parameters);

  KmeansParameters started = parameters;
  const KmeansSample sample = draw_sample(context, team, chunk_weights, n_total, mine, weights.values(), parameters);
  std::vector<float> initial = seed_centroids(context, sample, parameters);
  if (!sample.complete) {
    core::SoloTeam alone;
    alone.stop_when([&] { return team.stop_requested(); });
    const backend::DeviceView<float> sample_points(context, sample.points), sample_weights(context, sample.weights);
    const std::array<std::int64_t, 2> whole{0, sample.n()};
    started.initial = initial;
    started.max_iterations = std::min(kSampleIterations, parameters.max_iterations);
    started.tolerance = std::max(kSampleTolerance, parameters.tolerance);
    initial = lloyd(context, alone, 1, {0, whole, sample_points.data(), sample_weights.data()}, started).centroids;
    started.max_iterations = parameters.max_iterations;
    started.tolerance = parameters.tolerance;
  }
  started.initial = initial;
  return lloyd(context, team, n_chunks, mine, started);
}

}  // namespace voronoi::quant
