#include "calib/residual_stream.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/thread_pool.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kFewChunks = 64, kChunkTokens = 2048;

}  // namespace

std::int64_t calibration_chunks(std::int64_t n_sequences, std::int64_t context) {
  return std::min(n_sequences, std::max(kFewChunks, n_sequences * context / kChunkTokens));
}

std::vector<ChunkRange> chunks_of_rank(std::int64_t n_sequences, std::int64_t context, int rank, int n_ranks) {
  const std::int64_t n_chunks = calibration_chunks(n_sequences, context);
  std::vector<ChunkRange> chunks;
  for (std::int64_t id = n_chunks * rank / n_ranks; id < n_chunks * (rank + 1) / n_ranks; ++id) {
    const std::int64_t first = n_sequences * id / n_chunks;
    chunks.push_back({id, first, n_sequences * (id + 1) / n_chunks - first});
  }
  return chunks;
}

std::span<const std::int32_t> ids_of(const model::Windows& windows, const ChunkRange& chunk) {
  return {windows.ids.data() + chunk.first_sequence * windows.context,
          static_cast<std::size_t>(chunk.n_sequences * windows.context)};
}

std::int64_t n_held_out(std::int64_t first, std::int64_t last, double share) {
  const std::int64_t period = share > 0 ? std::llround(1 / share) : 0;
  return period > 0 ? last / period - first / period : 0;
}

ResidualStream::ResidualStream(model::Transformer& transformer, backend::Context& context,
                               const comm::Communicator& communicator, const model::Windows& windows,
                               std::function<bool()> stop)
    : transformer_(transformer),
      context_(context),
      stop_(communicator, std::move(stop)),
      n_chunks_(calibration_chunks(windows.count, windows.context)) {
  for (const ChunkRange& chunk :
       chunks_of_rank(windows.count, windows.context, communicator.rank(), communicator.size()))
    chunks_.push_back({chunk.id, chunk.first_sequence,
                       transformer.embed(ids_of(windows, chunk), chunk.n_sequences, windows.context)});
}

void ResidualStream::each_chunk(const std::function<void(std::size_t index)>& work) {
  try {
    const core::StopScope leaves(context_.pool(), [this] { return stop_.asked(); });
    for (std::size_t i = 0; i < chunks_.size() && !stop_.asked(); ++i) work(i);
  } catch (const core::StopRequested&) {
    // Of the loops within a chunk: told below, on every rank.
  }
  if (stop_.agreed()) throw core::StopRequested();
}

void ResidualStream::advance(const model::BlockWeights& weights) {
  each_chunk([&](std::size_t i) { transformer_.run_block(weights, chunks_[i].hidden); });
}

void ResidualStream::replace(std::size_t index, const model::HiddenStates& hidden) {
  // Into its own memory: arrays that change places leave holes between them, as large as the stream in the end.
  context_.memory().copy_on_device(context_.exec(), hidden.values.data(),
                                   hidden.values.size() * std::int64_t{sizeof(float)},
                                   chunks_.at(index).hidden.values.data());
}

}  // namespace voronoi::calib
