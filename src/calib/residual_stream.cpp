#include "calib/residual_stream.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/thread_pool.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kMaxChunks = 64;

}  // namespace

std::int64_t calibration_chunks(std::int64_t n_sequences) { return std::min(n_sequences, kMaxChunks); }

ResidualStream::ResidualStream(model::Transformer& transformer, backend::Context& context,
                               const comm::Communicator& communicator, const model::Windows& windows,
                               std::function<bool()> stop)
    : transformer_(transformer),
      context_(context),
      stop_(communicator, std::move(stop)),
      n_chunks_(calibration_chunks(windows.count)) {
  const std::int64_t rank = communicator.rank(), size = communicator.size();
  for (std::int64_t chunk = n_chunks_ * rank / size; chunk < n_chunks_ * (rank + 1) / size; ++chunk) {
    const std::int64_t first = windows.count * chunk / n_chunks_, last = windows.count * (chunk + 1) / n_chunks_;
    const std::span ids(windows.ids.data() + first * windows.context,
                        static_cast<std::size_t>((last - first) * windows.context));
    chunks_.push_back({chunk, first, transformer.embed(ids, last - first, windows.context)});
  }
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
