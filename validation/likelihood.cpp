#include "validation/likelihood.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "model/block_prefetcher.h"
#include "model/rope.h"
#include "model/transformer.h"

namespace voronoi::validation {
namespace {

/// Residual stream a rank holds at a time; blocks are read again for every such batch.
constexpr std::int64_t kBatchBytes = std::int64_t{1} << 29;

using Clock = std::chrono::steady_clock;

struct Answer {
  std::int64_t request = 0, is_greedy = 0;
  double log_likelihood = 0;
};

/// Every rank's, into `done` of every rank.
void exchange_answers(const comm::Communicator& communicator, const std::vector<Answer>& mine, Likelihoods& done) {
  for (const auto& part : communicator.all_gather(std::as_bytes(std::span(mine))))
    for (std::size_t offset = 0; offset < part.size(); offset += sizeof(Answer)) {
      Answer one;
      std::memcpy(&one, part.data() + offset, sizeof one);
      done[static_cast<std::size_t>(one.request)] = Likelihood{one.log_likelihood, one.is_greedy != 0};
    }
}

/// Packs of each part.
std::vector<RequestPack> pack_parts(std::span<const ScoredInput> inputs, std::vector<std::size_t> parts,
                                    std::int64_t longest_shared) {
  if (parts.empty()) parts = {inputs.size()};
  std::vector<RequestPack> packs;
  std::size_t first = 0;
  for (const std::size_t n : parts) {
    for (RequestPack& pack : pack_requests(inputs.subspan(first, n), longest_shared)) {
      for (RequestPack::Question& question : pack.questions) question.request += static_cast<std::int64_t>(first);
      packs.push_back(std::move(pack));
    }
    first += n;
  }
  VORONOI_REQUIRE(first == inputs.size(), "parts that are not all of the requests");
  return packs;
}

/// Packs with a request that is still to do.
std::vector<RequestPack> missing_packs(std::vector<RequestPack> packs, const Likelihoods& done) {
  std::erase_if(packs, [&](const RequestPack& pack) {
    return std::all_of(pack.questions.begin(), pack.questions.end(), [&](const RequestPack::Question& question) {
      return done[static_cast<std::size_t>(question.request)].has_value();
    });
  });
  return packs;
}

std::int64_t count_rows(std::span<const RequestPack> packs) {
  return std::accumulate(packs.begin(), packs.end(), std::int64_t{0},
                         [](std::int64_t sum, const RequestPack& pack) { return sum + pack.n_rows(); });
}

/// Ends of the shares of `size` ranks, with about as many rows each.
std::vector<std::size_t> divide(std::span<const RequestPack> packs, int size) {
  const std::int64_t total = count_rows(packs);
  std::vector<std::size_t> ends(static_cast<std::size_t>(size), packs.size());
  std::int64_t sum = 0;
  for (std::size_t i = 0, rank = 0; i < packs.size(); ++i) {
    // A pack belongs to the rank in whose share its middle lies.
    const std::int64_t middle = 2 * sum + packs[i].n_rows();
    while (rank + 1 < ends.size() && middle * size > 2 * total * static_cast<std::int64_t>(rank + 1)) ends[rank++] = i;
    sum += packs[i].n_rows();
  }
  return ends;
}

/// What rank 0 shows of its share.
class ScoringDisplay {
 public:
  ScoringDisplay(std::int64_t n_rows, std::int64_t n_layers, int n_ranks)
      : n_rows_(n_rows), n_layers_(n_layers), n_ranks_(n_ranks) {}

  /// `done` rows are over, `count` more have left `layers` blocks. Returns what it showed of them.
  std::string operator()(std::int64_t done, std::int64_t count, std::int64_t layers) const {
    const double share =
        (static_cast<double>(done) + static_cast<double>(count * layers) / static_cast<double>(n_layers_)) /
        static_cast<double>(n_rows_);
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    const std::string text =
        fmt::format("{:.0f}% of {} tokens on rank 0, block {}/{}, {:.0f} tokens/s, about {} left", 100 * share, n_rows_,
                    layers, n_layers_, share * static_cast<double>(n_rows_ * n_ranks_) / elapsed,
                    core::format_duration(elapsed * (1 - share) / share));
    core::show_progress("scoring: " + text, done + count == n_rows_ && layers == n_layers_);
    return text;
  }

 private:
  std::int64_t n_rows_, n_layers_;
  int n_ranks_;
  Clock::time_point start_ = Clock::now();
};

/// The packs through all blocks; `passed` is called after each block. Nothing when a stop was asked for meanwhile.
std::vector<Answer> answer(model::Transformer& transformer, backend::Context& context,
                           std::span<const RequestPack> packs, const std::function<void(std::int64_t)>& passed) {
  std::vector<std::int64_t> layers(static_cast<std::size_t>(transformer.config().n_layers));
  std::iota(layers.begin(), layers.end(), 0);
  std::vector<model::RaggedStates> states;
  for (const RequestPack& pack : packs) states.push_back(transformer.embed(pack.ids, pack.segments));
  model::BlockPrefetcher blocks(transformer, context, layers);
  for (const std::int64_t layer : layers) {
    const model::BlockWeights weights = blocks.next();
    for (model::RaggedStates& pack : states) {
      if (core::stop_requested()) return {};
      transformer.run_block(weights, pack);
    }
    passed(layer + 1);
  }
  std::vector<Answer> answers;
  for (std::size_t p = 0; p < packs.size(); ++p) {
    const std::vector<model::TokenScore> scores = transformer.score(states[p], packs[p].rows, packs[p].targets);
    for (const RequestPack::Question& question : packs[p].questions) {
      Answer one{question.request, 1, 0};
      for (std::int64_t t = question.first; t < question.first + question.n_tokens; ++t) {
        const model::TokenScore& score = scores[static_cast<std::size_t>(t)];
        one.log_likelihood += score.log_likelihood;
        if (!score.is_greedy) one.is_greedy = 0;
      }
      answers.push_back(one);
    }
  }
  return answers;
}

}  // namespace

std::vector<Likelihood> likelihoods(const model::WeightSource& source, backend::Context& context,
                                    const comm::Communicator& communicator, std::span<const ScoredInput> inputs,
                                    core::DType dtype, LikelihoodProgress progress) {
  const model::ModelConfig& config = source.config();
  Likelihoods& done = progress.done;
  done.resize(inputs.size());
  const std::vector<RequestPack> packs =
      missing_packs(pack_parts(inputs, progress.parts, model::rope_limit(config.rope)), done);
  const std::vector<std::size_t> ends = divide(packs, communicator.size());
  const auto rank = static_cast<std::size_t>(communicator.rank());

  // Batches of every rank, so that all know how many rounds there are.
  const std::int64_t most_rows = kBatchBytes / (config.hidden_size * static_cast<std::int64_t>(sizeof(float)));
  std::vector<std::vector<std::span<const RequestPack>>> batches(ends.size());
  for (std::size_t r = 0, first = 0; r < ends.size(); first = ends[r++])
    for (std::size_t begin = first, end = first; begin < ends[r]; begin = end) {
      std::int64_t rows = 0;
      while (end < ends[r] &&
             (end == begin || (progress.batch > 0 ? static_cast<std::int64_t>(end - begin) < progress.batch
                                                  : rows + packs[end].n_rows() <= most_rows)))
        rows += packs[end++].n_rows();
      batches[r].push_back(std::span(packs).subspan(begin, end - begin));
    }
  std::size_t rounds = 0;
  for (const auto& of_rank : batches) rounds = std::max(rounds, of_rank.size());

  std::optional<model::Transformer> transformer;
  if (!packs.empty()) transformer.emplace(source, context, dtype);
  const std::size_t first_pack = rank == 0 ? 0 : ends[rank - 1];
  const ScoringDisplay display(count_rows(std::span(packs).subspan(first_pack, ends[rank] - first_pack)),
                               config.n_layers, communicator.size());
  std::int64_t n_done = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    std::vector<Answer> answers;
    if (round < batches[rank].size()) {
      const std::int64_t count = count_rows(batches[rank][round]);
      answers = answer(*transformer, context, batches[rank][round], [&](std::int64_t layers) {
        if (rank != 0) return;
        const std::string text = display(n_done, count, layers);
        if (progress.doing) progress.doing(text);
      });
      n_done += count;
    }
    exchange_answers(communicator, answers, done);
    if (rank == 0 && progress.keep) progress.keep(done);
    const bool stop = communicator.all_max(core::stop_requested() ? 1 : 0) != 0;
    if (stop && std::any_of(done.begin(), done.end(), [](const auto& one) { return !one.has_value(); }))
      throw core::StopRequested();
  }

  std::vector<Likelihood> result;
  for (const auto& one : done) {
    if (!std::isfinite(one.value().log_likelihood))
      throw core::NumericError(source.path() +
                               ": the likelihoods are not finite; check the weights with voronoi verify or inspect");
    result.push_back(*one);
  }
  return result;
}

}  // namespace voronoi::validation
