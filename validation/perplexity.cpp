#include "validation/perplexity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "model/block_prefetcher.h"
#include "model/transformer.h"

namespace voronoi::validation {
namespace {

/// Residual stream a rank holds at a time; blocks are read again for every such batch.
constexpr std::int64_t kHiddenBytes = std::int64_t{1} << 29;

}  // namespace

PerplexityResult perplexity(const model::WeightSource& source, backend::Context& context,
                            const comm::Communicator& communicator, const model::Windows& windows, core::DType dtype) {
  const model::ModelConfig& config = source.config();
  model::Transformer transformer(source, context, dtype);
  const std::int64_t rank = communicator.rank(), size = communicator.size();
  const std::int64_t first = windows.count * rank / size, last = windows.count * (rank + 1) / size;
  const std::int64_t window_bytes = windows.context * config.hidden_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t batch = std::max<std::int64_t>(1, kHiddenBytes / window_bytes);

  std::vector<std::int64_t> layers(static_cast<std::size_t>(config.n_layers));
  std::iota(layers.begin(), layers.end(), 0);
  std::vector<double> window_sums;
  for (std::int64_t begin = first; begin < last; begin += batch) {
    const std::int64_t count = std::min(batch, last - begin);
    const std::span ids(windows.ids.data() + begin * windows.context,
                        static_cast<std::size_t>(count * windows.context));
    model::HiddenStates hidden = transformer.embed(ids, count, windows.context);
    model::BlockPrefetcher blocks(transformer, context, layers);
    for (const std::int64_t layer : layers) {
      transformer.run_block(blocks.next(), hidden);
      if (rank == 0)
        core::show_progress(fmt::format("evaluating: windows {}-{} of {} on rank 0, block {}/{}", begin + 1,
                                        begin + count, last, layer + 1, config.n_layers),
                            begin + count == last && layer + 1 == config.n_layers);
    }
    const std::vector<double> nll = transformer.next_token_nll(hidden, ids);
    for (std::int64_t w = 0; w < count; ++w) {
      double sum = 0;
      for (std::int64_t t = 0; t + 1 < windows.context; ++t)
        sum += nll[static_cast<std::size_t>(w * (windows.context - 1) + t)];
      window_sums.push_back(sum);
    }
  }

  double total = 0;
  for (const auto& part : communicator.all_gather(std::as_bytes(std::span(window_sums))))
    for (std::size_t offset = 0; offset < part.size(); offset += sizeof(double)) {
      double sum;
      std::memcpy(&sum, part.data() + offset, sizeof sum);
      total += sum;
    }
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
