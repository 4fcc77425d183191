#include "model/block_prefetcher.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace voronoi::model {
namespace {

struct BlockElements {
  std::int64_t all = 0, largest = 0;  ///< of the linears together, and of one
};
BlockElements block_elements(const ModelConfig& config, std::int64_t layer) {
  BlockElements elements;
  for (const SiteSpec& site : block_sites(config, layer))
    for (const LinearSpec& linear : site.linears) {
      elements.all += linear.out_features * linear.in_features;
      elements.largest = std::max(elements.largest, linear.out_features * linear.in_features);
    }
  return elements;
}

}  // namespace

PrefetchMemory prefetch_memory(const ModelConfig& config, core::DType dtype) {
  const std::int64_t size = core::dtype_size(dtype), wide = core::dtype_size(core::DType::f32);
  std::int64_t device = 0, staged = 0, part = 0, converted = 0;
  std::int64_t before = 0, ahead_before = 0;  // bytes of the block before, and where it is read ahead
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const BlockElements elements = block_elements(config, layer);
    const std::int64_t bytes = elements.all * size, ahead = bytes <= kReadAheadBytes ? bytes : 0,
                       at_once = std::min(elements.all, std::max(kStagedPartBytes / wide, elements.largest));
    device = std::max({device, bytes + ahead_before, before + ahead});
    if (ahead > 0)
      staged = std::max(staged, ahead);
    else
      part = std::max(part, at_once * size);
    if (dtype != core::DType::f32) converted = std::max(converted, at_once * wide);
    before = bytes;
    ahead_before = ahead;
  }
  return {device, staged + part + converted};
}

BlockPrefetcher::BlockPrefetcher(const Transformer& transformer, backend::Context& context,
                                 std::vector<std::int64_t> layers, std::int64_t read_ahead_bytes)
    : transformer_(transformer),
      context_(context),
      layers_(std::move(layers)),
      read_ahead_bytes_(read_ahead_bytes),
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

bool BlockPrefetcher::is_read_ahead(std::int64_t layer) const {
  return block_elements(transformer_.config(), layer).all * core::dtype_size(transformer_.dtype()) <= read_ahead_bytes_;
}

void BlockPrefetcher::read_ahead() {
  for (const std::int64_t layer : layers_) {
    if (!is_read_ahead(layer)) continue;
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
  BlockWeights weights = uploaded_              ? std::move(*uploaded_)
                         : is_read_ahead(layer) ? transformer_.upload_block(wait_staged())
                                                : transformer_.load_in_parts(layer, context_.pool());
  uploaded_.reset();
  // An upload waits for work queued before it: this block's must be queued after the next one's upload.
  context_.memory().uploads_join(context_.exec());
  if (n_taken_ < layers_.size() && is_read_ahead(layers_[n_taken_]))
    uploaded_ = transformer_.upload_block(wait_staged());
  return weights;
}

}  // namespace voronoi::model
