// Copies from the host beside the compute stream, through a ring of pinned buffers.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

namespace voronoi::kernels::gpu {

class Uploads {
 public:
  /// compute: the stream whose queued work an upload waits for and which join() holds back.
  explicit Uploads(cudaStream_t compute);
  ~Uploads();
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  /// `host` may be changed when it returns; the copy to the device goes on behind it.
  void upload(const void* host, std::int64_t size_bytes, void* device);
  /// Work queued on the compute stream after this sees all uploads.
  void join();
  cudaStream_t stream() const { return stream_; }

 private:
  static constexpr std::int64_t kBufferBytes = 16 << 20;  // about 0.3 ms of PCIe 5: launches no longer count
  static constexpr std::size_t kBuffers = 4;              // the host fills one while others travel

  struct Buffer {
    void* pinned = nullptr;
    cudaEvent_t sent = nullptr;  // its last copy has left it
  };
  cudaStream_t compute_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t before_ = nullptr, after_ = nullptr;
  std::array<Buffer, kBuffers> buffers_;
  std::size_t next_ = 0;
};

}  // namespace voronoi::kernels::gpu
