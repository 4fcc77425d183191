#include "model/block_prefetcher.h"

#include <utility>

#include "core/error.h"

namespace voronoi::model {

BlockPrefetcher::BlockPrefetcher(const Transformer& transformer, backend::Context& context,
                                 std::vector<std::int64_t> layers)
    : transformer_(transformer),
      context_(context),
      layers_(std::move(layers)),
      pool_(context.on_host() ? 1 : context.n_threads()) {
  if (!context.on_host() && !layers_.empty()) reader_ = std::thread([this] { read_ahead(); });
}

BlockPrefetcher::~BlockPrefetcher() {
  if (!reader_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  reader_.join();
}

void BlockPrefetcher::read_ahead() {
  for (const std::int64_t layer : layers_) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || !staged_; });
      if (stop_) return;
    }
    std::optional<StagedBlock> block;
    std::exception_ptr failure;
    try {
      block = transformer_.stage_block(layer, pool_);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    staged_ = std::move(block);
    failure_ = failure;
    changed_.notify_all();
    if (failure) return;
  }
}

StagedBlock BlockPrefetcher::wait_staged() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return staged_ || failure_; });
  if (failure_) std::rethrow_exception(failure_);
  StagedBlock block = std::move(*staged_);
  staged_.reset();
  changed_.notify_all();
  return block;
}

BlockWeights BlockPrefetcher::next() {
  VORONOI_REQUIRE(n_taken_ < layers_.size(), "no block is left to be taken");
  const std::int64_t layer = layers_[n_taken_++];
  if (context_.on_host()) {
    BlockWeights block = transformer_.load_block(layer);
    if (n_taken_ < layers_.size()) transformer_.will_load(layers_[n_taken_]);
    return block;
  }
  const auto upload = [this] {
    ++n_uploaded_;
    return transformer_.upload_block(wait_staged());
  };
  BlockWeights weights = uploaded_ ? std::move(*uploaded_) : upload();
  uploaded_.reset();
  // An upload waits for work queued before it: this block's must be queued after the next one's upload.
  context_.memory().uploads_join(context_.exec());
  if (n_uploaded_ < layers_.size()) uploaded_ = upload();
  return weights;
}

}  // namespace voronoi::model
