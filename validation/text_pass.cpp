#include "validation/text_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "model/block_prefetcher.h"
#include "model/transformer.h"

namespace voronoi::validation {
namespace {

/// Residual streams a rank holds at a time; blocks are read again for every such batch.
constexpr std::int64_t kHiddenBytes = std::int64_t{1} << 29;

using Clock = std::chrono::steady_clock;

/// What rank 0 shows of its share of the windows.
class Display {
 public:
  Display(std::int64_t n_windows, std::int64_t context, std::int64_t n_layers, int n_ranks)
      : n_windows_(n_windows), context_(context), n_layers_(n_layers), n_ranks_(n_ranks) {}

  /// `done` windows are over, `count` more have left `layers` blocks of all models. Returns what it showed of them.
  std::string operator()(std::int64_t done, std::int64_t count, std::int64_t layers) const {
    const double share =
        (static_cast<double>(done) + static_cast<double>(count * layers) / static_cast<double>(n_layers_)) /
        static_cast<double>(n_windows_);
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    const std::string text = fmt::format("windows {}-{} of {} on rank 0, block {}/{}, {:.0f} tokens/s, about {} left",
                                         done + 1, done + count, n_windows_, layers, n_layers_,
                                         share * static_cast<double>(n_windows_ * context_ * n_ranks_) / elapsed,
                                         core::format_duration(elapsed * (1 - share) / share));
    core::show_progress("evaluating: " + text, done + count == n_windows_ && layers == n_layers_);
    return text;
  }

 private:
  std::int64_t n_windows_, context_, n_layers_;
  int n_ranks_;
  Clock::time_point start_ = Clock::now();
};

/// Rows of the windows of a batch, by model; empty when a stop was asked for meanwhile.
using BatchRows = std::vector<std::vector<std::vector<double>>>;
/// A batch of `count` windows; `told(layers)` says how far it is.
using Batch = std::function<BatchRows(std::span<const std::int32_t> ids, std::int64_t count,
                                      const std::function<void(std::int64_t)>& told)>;

/// Windows that lack a row of some model.
std::vector<std::int64_t> missing_windows(const std::vector<WindowRows>& rows, std::int64_t n_windows) {
  std::vector<std::int64_t> missing;
  for (std::int64_t w = 0; w < n_windows; ++w)
    if (std::any_of(rows.begin(), rows.end(),
                    [w](const WindowRows& of_model) { return !of_model[static_cast<std::size_t>(w)]; }))
      missing.push_back(w);
  return missing;
}

/// A row as it travels: model, window, values.
void append_row(std::vector<double>& message, std::size_t model, std::int64_t window, const std::vector<double>& row) {
  message.push_back(static_cast<double>(model));
  message.push_back(static_cast<double>(window));
  message.insert(message.end(), row.begin(), row.end());
}

/// Every rank's rows of `length` numbers, into those of every rank.
void exchange(const comm::Communicator& communicator, const std::vector<double>& mine, std::size_t length,
              std::vector<WindowRows>& rows) {
  for (const auto& part : communicator.all_gather(std::as_bytes(std::span(mine)))) {
    std::vector<double> message(part.size() / sizeof(double));
    if (!part.empty()) std::memcpy(message.data(), part.data(), part.size());
    for (std::size_t at = 0; at < message.size(); at += length + 2) {
      const auto begin = message.begin() + static_cast<std::ptrdiff_t>(at) + 2;
      rows[static_cast<std::size_t>(message[at])][static_cast<std::size_t>(message[at + 1])] =
          std::vector<double>(begin, begin + static_cast<std::ptrdiff_t>(length));
    }
  }
}

struct PassShape {
  std::size_t row_length;
  std::int64_t stream_bytes;  // residual streams of a window, of all models
  std::int64_t n_layers;      // of all models together
};

/// Divides what is missing over ranks, in batches. `make_batch` is called on ranks that have something to do.
std::vector<WindowRows> run_pass(const PassShape& shape, const comm::Communicator& communicator,
                                 const model::Windows& windows, PassProgress progress,
                                 const std::function<Batch()>& make_batch) {
  const std::int64_t rank = communicator.rank(), size = communicator.size();
  for (WindowRows& rows : progress.rows) rows.resize(static_cast<std::size_t>(windows.count));
  const std::vector<std::int64_t> missing = missing_windows(progress.rows, windows.count);
  const std::int64_t n_missing = std::ssize(missing);
  const std::int64_t first = n_missing * rank / size, last = n_missing * (rank + 1) / size;
  const std::int64_t most_at_once =
      progress.batch > 0 ? progress.batch : std::max<std::int64_t>(1, kHiddenBytes / shape.stream_bytes);
  const Batch batch = n_missing > 0 ? make_batch() : nullptr;
  const Display display(last - first, windows.context, shape.n_layers, communicator.size());
  // As many rounds on every rank, though the last may have nothing for some.
  const std::int64_t most = (n_missing + size - 1) / size, rounds = (most + most_at_once - 1) / most_at_once;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const std::int64_t begin = std::min(first + round * most_at_once, last),
                       count = std::min(most_at_once, last - begin);
    std::vector<std::int32_t> ids;
    for (std::int64_t w = begin; w < begin + count; ++w) {
      const auto window = windows.ids.begin() + missing[static_cast<std::size_t>(w)] * windows.context;
      ids.insert(ids.end(), window, window + windows.context);
    }
    std::vector<double> done;
    if (count > 0) {
      const BatchRows rows = batch(ids, count, [&](std::int64_t layers) {
        if (rank != 0) return;
        const std::string text = display(begin - first, count, layers);
        if (progress.doing) progress.doing(text);
      });
      for (std::size_t model = 0; model < rows.size(); ++model)
        for (std::int64_t w = 0; w < count; ++w)
          append_row(done, model, missing[static_cast<std::size_t>(begin + w)],
                     rows[model][static_cast<std::size_t>(w)]);
    }
    exchange(communicator, done, shape.row_length, progress.rows);
    if (rank == 0 && progress.keep) progress.keep(progress.rows);
    const bool stop = communicator.all_max(core::stop_requested() ? 1 : 0) != 0;
    if (stop && !missing_windows(progress.rows, windows.count).empty()) throw core::StopRequested();
  }
  return std::move(progress.rows);
}

std::int64_t stream_bytes(const model::WeightSource& source, const model::Windows& windows) {
  return windows.context * source.config().hidden_size * static_cast<std::int64_t>(sizeof(float));
}

/// What leaves the last block; nothing when a stop was asked for. `layers`: passed so far, by all models.
std::optional<model::HiddenStates> through_blocks(model::Transformer& transformer, backend::Context& context,
                                                  std::span<const std::int32_t> ids, std::int64_t count,
                                                  std::int64_t n_tokens, std::int64_t& layers,
                                                  const std::function<void(std::int64_t)>& told) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(transformer.config().n_layers));
  std::iota(order.begin(), order.end(), 0);
  model::HiddenStates hidden = transformer.embed(ids, count, n_tokens);
  model::BlockPrefetcher blocks(transformer, context, order);
  for (std::size_t layer = 0; layer < order.size(); ++layer) {
    if (core::stop_requested()) return std::nullopt;
    transformer.run_block(blocks.next(), hidden);
    told(++layers);
  }
  return hidden;
}

/// Sum of a window's predictions, in their order.
double window_sum(const std::vector<double>& values, std::int64_t window, std::int64_t predictions) {
  const auto begin = values.begin() + window * predictions;
  return std::accumulate(begin, begin + predictions, 0.0);
}

void require_finite(const WindowRows& rows, const model::WeightSource& source) {
  for (const auto& row : rows)
    if (!std::all_of(row->begin(), row->end(), [](double value) { return std::isfinite(value); }))
      throw core::NumericError(source.path() +
                               ": the likelihoods are not finite; check the weights with voronoi verify or inspect");
}

}  // namespace

WindowRows likelihood_pass(const model::WeightSource& source, backend::Context& context,
                           const comm::Communicator& communicator, const model::Windows& windows, core::DType dtype,
                           PassProgress progress) {
  progress.rows.resize(1);
  const PassShape shape{1, stream_bytes(source, windows), source.config().n_layers};
  std::optional<model::Transformer> transformer;
  std::vector<WindowRows> rows = run_pass(shape, communicator, windows, std::move(progress), [&]() -> Batch {
    transformer.emplace(source, context, dtype);
    return [&](std::span<const std::int32_t> ids, std::int64_t count, const std::function<void(std::int64_t)>& told) {
      std::int64_t layers = 0;
      const auto hidden = through_blocks(*transformer, context, ids, count, windows.context, layers, told);
      if (!hidden) return BatchRows();
      const std::vector<double> nll = transformer->next_token_nll(*hidden, ids);
      BatchRows batch(1);
      for (std::int64_t w = 0; w < count; ++w) batch[0].push_back({window_sum(nll, w, windows.context - 1)});
      return batch;
    };
  });
  require_finite(rows.front(), source);
  return std::move(rows.front());
}

std::vector<WindowRows> comparison_pass(const model::WeightSource& reference,
                                        const std::vector<const model::WeightSource*>& models,
                                        backend::Context& context, const comm::Communicator& communicator,
                                        const model::Windows& windows, core::DType dtype, PassProgress progress) {
  progress.rows.resize(models.size());
  const std::int64_t predictions = windows.context - 1;
  PassShape shape{static_cast<std::size_t>(kRowDivergences + predictions), stream_bytes(reference, windows),
                  reference.config().n_layers};
  // The reference's and one other's.
  std::int64_t widest = 0;
  for (const model::WeightSource* source : models) {
    widest = std::max(widest, stream_bytes(*source, windows));
    shape.n_layers += source->config().n_layers;
  }
  shape.stream_bytes += widest;
  std::optional<model::Transformer> from;
  std::vector<std::unique_ptr<model::Transformer>> transformers;
  std::vector<WindowRows> rows = run_pass(shape, communicator, windows, std::move(progress), [&]() -> Batch {
    from.emplace(reference, context, dtype);
    for (const model::WeightSource* source : models)
      transformers.push_back(std::make_unique<model::Transformer>(*source, context, dtype));
    return [&](std::span<const std::int32_t> ids, std::int64_t count, const std::function<void(std::int64_t)>& told) {
      std::int64_t layers = 0;
      const auto expected = through_blocks(*from, context, ids, count, windows.context, layers, told);
      if (!expected) return BatchRows();
      BatchRows batch;
      for (const auto& transformer : transformers) {
        const auto hidden = through_blocks(*transformer, context, ids, count, windows.context, layers, told);
        if (!hidden) return BatchRows();
        const auto compared = transformer->compare_predictions(*hidden, *from, *expected, ids);
        std::vector<std::vector<double>>& of_model = batch.emplace_back();
        for (std::int64_t w = 0; w < count; ++w) {
          const auto same = compared.same_choice.begin() + w * predictions;
          std::vector<double> row{window_sum(compared.nll, w, predictions),
                                  window_sum(compared.reference_nll, w, predictions),
                                  static_cast<double>(std::count(same, same + predictions, true))};
          const auto divergence = compared.divergence.begin() + w * predictions;
          row.insert(row.end(), divergence, divergence + predictions);
          of_model.push_back(std::move(row));
        }
      }
      return batch;
    };
  });
  for (std::size_t i = 0; i < models.size(); ++i) require_finite(rows[i], *models[i]);
  return rows;
}

}  // namespace voronoi::validation
