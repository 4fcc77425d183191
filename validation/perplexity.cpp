#include "validation/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "model/block_prefetcher.h"
#include "model/transformer.h"

namespace voronoi::validation {
namespace {

/// Residual stream a rank holds at a time; blocks are read again for every such batch.
constexpr std::int64_t kHiddenBytes = std::int64_t{1} << 29;

using Clock = std::chrono::steady_clock;

/// What rank 0 shows of its share of the windows.
class Display {
 public:
  Display(std::int64_t n_windows, std::int64_t context, std::int64_t n_layers, int n_ranks)
      : n_windows_(n_windows), context_(context), n_layers_(n_layers), n_ranks_(n_ranks) {}

  /// `done` windows are over, `count` more have left `layers` blocks.
  void operator()(std::int64_t done, std::int64_t count, std::int64_t layers) const {
    const double share =
        (static_cast<double>(done) + static_cast<double>(count * layers) / static_cast<double>(n_layers_)) /
        static_cast<double>(n_windows_);
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    core::show_progress(
        fmt::format("evaluating: windows {}-{} of {} on rank 0, block {}/{}, {:.0f} tokens/s, about {} left", done + 1,
                    done + count, n_windows_, layers, n_layers_,
                    share * static_cast<double>(n_windows_ * context_ * n_ranks_) / elapsed,
                    core::format_duration(elapsed * (1 - share) / share)),
        done + count == n_windows_ && layers == n_layers_);
  }

 private:
  std::int64_t n_windows_, context_, n_layers_;
  int n_ranks_;
  Clock::time_point start_ = Clock::now();
};

struct WindowSum {
  std::int64_t window = 0;
  double sum = 0;
};

/// Every rank's, into `sums` of every rank.
void exchange(const comm::Communicator& communicator, const std::vector<WindowSum>& mine, WindowSums& sums) {
  for (const auto& part : communicator.all_gather(std::as_bytes(std::span(mine))))
    for (std::size_t offset = 0; offset < part.size(); offset += sizeof(WindowSum)) {
      WindowSum one;
      std::memcpy(&one, part.data() + offset, sizeof one);
      sums[static_cast<std::size_t>(one.window)] = one.sum;
    }
}

std::vector<std::int64_t> missing_windows(const WindowSums& sums) {
  std::vector<std::int64_t> missing;
  for (std::int64_t window = 0; window < std::ssize(sums); ++window)
    if (!sums[static_cast<std::size_t>(window)]) missing.push_back(window);
  return missing;
}

}  // namespace

PerplexityResult perplexity(const model::WeightSource& source, backend::Context& context,
                            const comm::Communicator& communicator, const model::Windows& windows, core::DType dtype,
                            PerplexityProgress progress) {
  const model::ModelConfig& config = source.config();
  const std::int64_t rank = communicator.rank(), size = communicator.size();
  progress.sums.resize(static_cast<std::size_t>(windows.count));
  const std::vector<std::int64_t> missing = missing_windows(progress.sums);
  const std::int64_t n_missing = std::ssize(missing);
  const std::int64_t first = n_missing * rank / size, last = n_missing * (rank + 1) / size;
  const std::int64_t window_bytes = windows.context * config.hidden_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t batch =
      progress.batch > 0 ? progress.batch : std::max<std::int64_t>(1, kHiddenBytes / window_bytes);

  std::optional<model::Transformer> transformer;
  if (n_missing > 0) transformer.emplace(source, context, dtype);
  std::vector<std::int64_t> layers(static_cast<std::size_t>(config.n_layers));
  std::iota(layers.begin(), layers.end(), 0);
  const Display display(last - first, windows.context, config.n_layers, communicator.size());

  /// Nothing when a stop was asked for meanwhile.
  const auto run_batch = [&](std::int64_t begin, std::int64_t count) {
    std::vector<WindowSum> done;
    std::vector<std::int32_t> ids;
    for (std::int64_t w = begin; w < begin + count; ++w) {
      const auto window = windows.ids.begin() + missing[static_cast<std::size_t>(w)] * windows.context;
      ids.insert(ids.end(), window, window + windows.context);
    }
    model::HiddenStates hidden = transformer->embed(ids, count, windows.context);
    model::BlockPrefetcher blocks(*transformer, context, layers);
    for (const std::int64_t layer : layers) {
      if (core::stop_requested()) return done;
      transformer->run_block(blocks.next(), hidden);
      if (rank == 0) display(begin - first, count, layer + 1);
    }
    const std::vector<double> nll = transformer->next_token_nll(hidden, ids);
    for (std::int64_t w = 0; w < count; ++w) {
      double sum = 0;
      for (std::int64_t t = 0; t + 1 < windows.context; ++t)
        sum += nll[static_cast<std::size_t>(w * (windows.context - 1) + t)];
      done.push_back({missing[static_cast<std::size_t>(begin + w)], sum});
    }
    return done;
  };

  // As many rounds on every rank, though the last may have nothing for some.
  const std::int64_t most = (n_missing + size - 1) / size, rounds = (most + batch - 1) / batch;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const std::int64_t begin = std::min(first + round * batch, last), count = std::min(batch, last - begin);
    exchange(communicator, count > 0 ? run_batch(begin, count) : std::vector<WindowSum>(), progress.sums);
    if (rank == 0 && progress.keep) progress.keep(progress.sums);
    const bool stop = communicator.all_max(core::stop_requested() ? 1 : 0) != 0;
    if (stop && !missing_windows(progress.sums).empty())
      comm::on_root(communicator, [] { throw core::StopRequested(); });
  }

  double total = 0;
  for (const auto& sum : progress.sums) total += sum.value();
  PerplexityResult result;
  result.windows = windows.count;
  result.predictions = windows.count * (windows.context - 1);
  result.nll = total / static_cast<double>(result.predictions);
  result.perplexity = std::exp(result.nll);
  if (!std::isfinite(result.nll))
    throw core::NumericError(source.path() +
                             ": the likelihoods are not finite; check the weights with voronoi verify or inspect");
  return result;
}

}  // namespace voronoi::validation
