// Weights of one block after the other, the next ones on their way while a block computes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "backend/device.h"
#include "core/thread_pool.h"
#include "model/transformer.h"

namespace voronoi::model {

/// Largest block, in the type of its linears' products, that is read ahead: beyond it (Llama-3.1-405B has 6 GiB in 16
/// bits, DeepSeek-V3 21) a second one on the device, and one in the memory of the host for every GPU, would take more
/// than its time is worth.
inline constexpr std::int64_t kReadAheadBytes = std::int64_t{4} << 30;

/// What blocks take at most while a prefetcher gives neighbours in turn, forward or backward; linears alone.
struct PrefetchMemory {
  std::int64_t device = 0;  ///< the block at work, and the next one where that is read ahead
  std::int64_t host = 0;    ///< a block that was read ahead, and what is being read
};
PrefetchMemory prefetch_memory(const ModelConfig& config, core::DType dtype);

/// On a GPU the host's threads read and convert a block to host memory while the GPU computes, and its upload runs
/// beside the computing of the block before: a step takes as long as the slowest of reading, upload and computing. At
/// most two blocks are in device memory and one in host memory. One of more than kReadAheadBytes is read when it is
/// asked for, in parts. On the CPU the cores that would convert ahead are those that compute, and a second block is
/// memory spent for nothing: every block is converted when it is asked for, and the system is told to fetch the pages
/// of the next one meanwhile.
class BlockPrefetcher {
 public:
  /// `layers` in the order they will be asked for. The references must outlive it.
  BlockPrefetcher(const Transformer& transformer, backend::Context& context, std::vector<std::int64_t> layers,
                  std::int64_t read_ahead_bytes = kReadAheadBytes);
  ~BlockPrefetcher();
  BlockPrefetcher(const BlockPrefetcher&) = delete;
  BlockPrefetcher& operator=(const BlockPrefetcher&) = delete;

  /// The next block of the list. Throws what reading it throws. The block before must be gone, or there are three.
  BlockWeights next();

 private:
  bool is_read_ahead(std::int64_t layer) const;
  void read_ahead();
  StagedBlock wait_staged();

  const Transformer& transformer_;
  backend::Context& context_;
  const std::vector<std::int64_t> layers_;
  const std::int64_t read_ahead_bytes_;
  std::size_t n_taken_ = 0;
  std::optional<BlockWeights> uploaded_;  ///< the next one
  core::ThreadPool pool_;                 ///< of the reader

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<StagedBlock> staged_;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread reader_;
};

}  // namespace voronoi::model
