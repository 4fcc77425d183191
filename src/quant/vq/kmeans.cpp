#include "quant/vq/kmeans.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/types.h"
#include "quant/vq/kmeans_start.h"

namespace voronoi::quant {
namespace {

constexpr std::int64_t kPiecePoints = 8192;   // least points whose sums are made apart from their chunk's
constexpr std::int64_t kPiecesAtMost = 8;     // a chunk
constexpr std::int64_t kCombineBlock = 1024;  // centroids
constexpr float kLargest = 1e15F;             // squares and their sums stay finite in fp32
// Lloyd steps on the sample before those on all points: cheaper by the ratio of their sizes.
constexpr int kSampleIterations = 30;
constexpr double kSampleTolerance = 1e-3;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T>
std::vector<T> from_bytes(const std::vector<std::byte>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// Part of a chunk whose sums are made by one thread.
struct Piece {
  std::int64_t chunk = 0;  // place in `mine`
  std::int64_t begin = 0, end = 0;
};

// Neighbours in memory: one kernel call for all of them.
struct Run {
  const float* points = nullptr;
  std::int64_t begin = 0, n = 0;  // begin: over all of this member's points
};

class Lloyd {
 public:
  Lloyd(backend::Context& context, core::Team& team, std::int64_t n_chunks, std::span<const KmeansChunk> mine,
        const KmeansParameters& parameters)
      : context_(context),
        team_(team),
        mine_(mine),
        n_chunks_(n_chunks),
        k_(parameters.k),
        dim_(parameters.dim),
        sums_size_(k_ * (dim_ + 1) + 1) {
    std::int64_t n = 0;
    for (std::int64_t c = 0; c < static_cast<std::int64_t>(mine.size()); ++c) {
      const KmeansChunk& chunk = mine[at(c)];
      first_.push_back(n);
      if (!runs_.empty() && runs_.back().points + runs_.back().n * dim_ == chunk.points)
        runs_.back().n += chunk.n;
      else
        runs_.push_back({chunk.points, n, chunk.n});
      // A matter of the chunk's size alone, so that every team cuts alike.
      const std::int64_t count = std::clamp<std::int64_t>(chunk.n / std::max(kPiecePoints, 4 * k_), 1, kPiecesAtMost);
      first_piece_.push_back(static_cast<std::int64_t>(pieces_.size()));
      for (std::int64_t p = 0; p < count; ++p) pieces_.push_back({c, chunk.n * p / count, chunk.n * (p + 1) / count});
      n += chunk.n;
    }
    first_piece_.push_back(static_cast<std::int64_t>(pieces_.size()));
    index_.resize(at(n));
    distance2_.resize(at(n));
    sums_.resize(at(static_cast<std::int64_t>(pieces_.size()) * sums_size_));
  }

  /// Assigns every point and makes the sums of every cluster; returns the objective.
  double assign(const std::vector<float>& centroids) {
    for (const Run& run : runs_)
      context_.vq().nearest(context_.exec(), run.n, dim_, run.points, k_, centroids.data(), nullptr,
                            index_.data() + run.begin, distance2_.data() + run.begin);
    context_.pool().parallel_for(static_cast<std::int64_t>(pieces_.size()), [&](std::int64_t p) { sum_piece(p); });
    for (std::size_t c = 0; c < mine_.size(); ++c) {
      for (std::int64_t p = first_piece_[c] + 1; p < first_piece_[c + 1]; ++p) {
        const double* part = piece_sums(p);
        double* whole = piece_sums(first_piece_[c]);
        for (std::int64_t i = 0; i < sums_size_; ++i) whole[i] += part[i];
      }
    }
    exchange();
    double objective = 0;
    for (const double* sums : chunk_sums_) objective += sums[sums_size_ - 1];
    return objective;
  }

  /// Moves each centroid to the mean of its cluster; returns those without weight.
  std::vector<std::int64_t> move(std::vector<float>& centroids) {
    std::vector<char> empty(at(k_), 0);
    context_.pool().parallel_for(core::ceil_div(k_, kCombineBlock), [&](std::int64_t block) {
      std::vector<double> mean(at(dim_));
      for (std::int64_t j = block * kCombineBlock; j < std::min(k_, (block + 1) * kCombineBlock); ++j) {
        double mass = 0;
        std::fill(mean.begin(), mean.end(), 0.0);
        for (const double* sums : chunk_sums_) {
          mass += sums[k_ * dim_ + j];
          for (std::int64_t d = 0; d < dim_; ++d) mean[at(d)] += sums[j * dim_ + d];
        }
        if (!(mass > 0)) {
          empty[at(j)] = 1;
          continue;
        }
        for (std::int64_t d = 0; d < dim_; ++d) centroids[at(j * dim_ + d)] = static_cast<float>(mean[at(d)] / mass);
      }
    });
    std::vector<std::int64_t> ids;
    for (std::int64_t j = 0; j < k_; ++j)
      if (empty[at(j)] != 0) ids.push_back(j);
    return ids;
  }

  /// Puts empty clusters on the distinct points of largest weighted error; returns how many were moved.
  std::int64_t repair(const std::vector<std::int64_t>& empty, std::vector<float>& centroids) {
    const std::int64_t wanted = static_cast<std::int64_t>(empty.size());
    std::vector<float> points;
    std::vector<double> errors;
    for (std::int64_t c = 0; c < static_cast<std::int64_t>(mine_.size()); ++c) {
      const KmeansChunk& chunk = mine_[at(c)];
      std::vector<std::pair<double, std::int64_t>> worst;  // (-error, i): rising order is falling error, then rising i
      for (std::int64_t i = 0; i < chunk.n; ++i)
        if (error(c, i) > 0) worst.emplace_back(-error(c, i), i);
      const auto kept = worst.begin() + std::min(wanted, static_cast<std::int64_t>(worst.size()));
      std::partial_sort(worst.begin(), kept, worst.end());
      for (auto it = worst.begin(); it != kept; ++it) {
        errors.push_back(-it->first);
        points.insert(points.end(), chunk.points + it->second * dim_, chunk.points + (it->second + 1) * dim_);
      }
    }
    const auto all_errors = team_.all_gather(std::as_bytes(std::span(errors)));
    const auto all_points = team_.all_gather(std::as_bytes(std::span(points)));
    errors.clear();
    points.clear();
    for (std::size_t rank = 0; rank < all_errors.size(); ++rank) {
      const auto some_errors = from_bytes<double>(all_errors[rank]);
      const auto some_points = from_bytes<float>(all_points[rank]);
      errors.insert(errors.end(), some_errors.begin(), some_errors.end());
      points.insert(points.end(), some_points.begin(), some_points.end());
    }
    std::vector<std::int64_t> order(errors.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return errors[at(a)] > errors[at(b)]; });
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
  double* piece_sums(std::int64_t piece) { return sums_.data() + piece * sums_size_; }
  double error(std::int64_t chunk, std::int64_t i) const {
    return static_cast<double>(mine_[at(chunk)].weights[i]) *
           static_cast<double>(distance2_[at(first_[at(chunk)] + i)]);
  }

  void sum_piece(std::int64_t p) {
    const Piece& piece = pieces_[at(p)];
    const KmeansChunk& chunk = mine_[at(piece.chunk)];
    double* sums = piece_sums(p);
    std::fill_n(sums, sums_size_, 0.0);
    context_.vq().centroid_sums(piece.end - piece.begin, dim_, chunk.points + piece.begin * dim_,
                                chunk.weights + piece.begin, index_.data() + first_[at(piece.chunk)] + piece.begin, k_,
                                sums, sums + k_ * dim_);
    // Four running sums: one would wait for each addition.
    std::array<double, 4> objective{};
    std::int64_t i = piece.begin;
    for (; i + 4 <= piece.end; i += 4)
      for (std::int64_t lane = 0; lane < 4; ++lane) objective[at(lane)] += error(piece.chunk, i + lane);
    for (; i < piece.end; ++i) objective[0] += error(piece.chunk, i);
    sums[sums_size_ - 1] = (objective[0] + objective[1]) + (objective[2] + objective[3]);
  }

  // chunk_sums_: each chunk's [k, dim] sums, [k] masses and objective, in order of id.
  void exchange() {
    chunk_sums_.clear();
    if (team_.size() == 1) {
      for (std::size_t c = 0; c < mine_.size(); ++c) chunk_sums_.push_back(piece_sums(first_piece_[c]));
      return;
    }
    std::vector<double> payload;
    payload.reserve(mine_.size() * at(sums_size_));
    for (std::size_t c = 0; c < mine_.size(); ++c) {
      const double* sums = piece_sums(first_piece_[c]);
      payload.insert(payload.end(), sums, sums + sums_size_);
    }
    const auto gathered = team_.all_gather(std::as_bytes(std::span(payload)));
    received_.clear();
    for (const std::vector<std::byte>& bytes : gathered) received_.push_back(from_bytes<double>(bytes));
    for (const std::vector<double>& part : received_)
      for (std::size_t begin = 0; begin < part.size(); begin += at(sums_size_))
        chunk_sums_.push_back(part.data() + begin);
    VORONOI_REQUIRE(static_cast<std::int64_t>(chunk_sums_.size()) == n_chunks_, "k-means: a chunk's sums are missing");
  }

  backend::Context& context_;
  core::Team& team_;
  std::span<const KmeansChunk> mine_;
  std::int64_t n_chunks_, k_, dim_, sums_size_;
  std::vector<std::int64_t> first_, first_piece_;  // of each chunk: its first point, its first piece
  std::vector<Piece> pieces_;
  std::vector<Run> runs_;
  std::vector<std::int32_t> index_;
  std::vector<float> distance2_;
  std::vector<double> sums_;
  std::vector<std::vector<double>> received_;
  std::vector<const double*> chunk_sums_;
};

// What every member knows of a chunk.
struct ChunkFacts {
  std::int64_t id = 0, n = 0;
  double weight = 0;
  std::int64_t sound = 1;
};

ChunkFacts facts_of(const KmeansChunk& chunk, std::int64_t dim) {
  ChunkFacts facts{chunk.id, chunk.n, 0, 1};
  bool sound = true;
  for (std::int64_t i = 0; i < chunk.n * dim; ++i) sound &= std::fabs(chunk.points[i]) <= kLargest;
  for (std::int64_t i = 0; i < chunk.n; ++i) {
    sound &= chunk.weights[i] >= 0 && chunk.weights[i] <= std::numeric_limits<float>::max();
    facts.weight += static_cast<double>(chunk.weights[i]);
  }
  facts.sound = sound ? 1 : 0;
  return facts;
}

// Every member sees the same facts and so throws alike.
std::vector<ChunkFacts> gather_facts(backend::Context& context, core::Team& team, std::int64_t n_chunks,
                                     std::span<const KmeansChunk> mine, std::int64_t dim) {
  std::vector<ChunkFacts> facts(mine.size());
  context.pool().parallel_for(static_cast<std::int64_t>(mine.size()),
                              [&](std::int64_t c) { facts[at(c)] = facts_of(mine[at(c)], dim); });
  std::vector<ChunkFacts> all;
  for (const std::vector<std::byte>& bytes : team.all_gather(std::as_bytes(std::span(facts)))) {
    const auto part = from_bytes<ChunkFacts>(bytes);
    all.insert(all.end(), part.begin(), part.end());
  }
  VORONOI_REQUIRE(static_cast<std::int64_t>(all.size()) == n_chunks,
                  "k-means: members hold other chunks than 0 .. n_chunks - 1");
  for (std::int64_t id = 0; id < n_chunks; ++id) {
    VORONOI_REQUIRE(all[at(id)].id == id, "k-means: chunk ids must rise by one over the members in order of rank");
    if (all[at(id)].sound == 0)
      throw core::NumericError("k-means: chunk " + std::to_string(id) +
                               " has a point that is not finite or above 1e15, or a weight "
                               "that is negative or not finite; check the weights of the layer and its Hessian");
  }
  return all;
}

}  // namespace

KmeansResult lloyd(backend::Context& context, core::Team& team, std::int64_t n_chunks,
                   std::span<const KmeansChunk> mine, const KmeansParameters& parameters) {
  KmeansResult result;
  result.centroids.assign(parameters.initial.begin(), parameters.initial.end());
  Lloyd steps(context, team, n_chunks, mine, parameters);
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

KmeansResult kmeans(backend::Context& context, core::Team& team, std::int64_t n_chunks,
                    std::span<const KmeansChunk> mine, const KmeansParameters& parameters) {
  const std::int64_t k = parameters.k, dim = parameters.dim;
  VORONOI_REQUIRE(k >= 1 && dim >= 1 && n_chunks >= 1 && parameters.max_iterations >= 0,
                  "k-means: k, dim, n_chunks >= 1");
  VORONOI_REQUIRE(parameters.initial.empty() || static_cast<std::int64_t>(parameters.initial.size()) == k * dim,
                  "k-means: initial centroids must be [k, dim]");
  const std::vector<ChunkFacts> facts = gather_facts(context, team, n_chunks, mine, dim);
  std::int64_t n_total = 0;
  std::vector<double> chunk_weights;
  for (const ChunkFacts& chunk : facts) {
    n_total += chunk.n;
    chunk_weights.push_back(chunk.weight);
  }
  if (n_total == 0) throw core::NumericError("k-means: there is no point to train on");
  if (!parameters.initial.empty()) return lloyd(context, team, n_chunks, mine, parameters);

  KmeansParameters started = parameters;
  const KmeansSample sample = draw_sample(team, chunk_weights, n_total, mine, parameters);
  std::vector<float> initial = seed_centroids(context, sample, parameters);
  if (!sample.complete) {
    core::SoloTeam alone;
    const KmeansChunk whole{0, sample.n, sample.points.data(), sample.weights.data()};
    started.initial = initial;
    started.max_iterations = std::min(kSampleIterations, parameters.max_iterations);
    started.tolerance = std::max(kSampleTolerance, parameters.tolerance);
    initial = lloyd(context, alone, 1, {&whole, 1}, started).centroids;
    started.max_iterations = parameters.max_iterations;
    started.tolerance = parameters.tolerance;
  }
  started.initial = initial;
  return lloyd(context, team, n_chunks, mine, started);
}

}  // namespace voronoi::quant
