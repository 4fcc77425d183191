#include <algorithm>
#include <cstring>

#include "kernels/cuda/native.h"
#include "kernels/cuda/uploads.h"

namespace voronoi::kernels::gpu {

Uploads::Uploads(cudaStream_t compute) : compute_(compute) {
  VORONOI_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  VORONOI_CUDA_CHECK(cudaEventCreateWithFlags(&before_, cudaEventDisableTiming));
  VORONOI_CUDA_CHECK(cudaEventCreateWithFlags(&after_, cudaEventDisableTiming));
}

Uploads::~Uploads() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (Buffer& buffer : buffers_) {
    if (buffer.sent != nullptr) cudaEventDestroy(buffer.sent);
    if (buffer.pinned != nullptr) cudaFreeHost(buffer.pinned);
  }
  if (after_ != nullptr) cudaEventDestroy(after_);
  if (before_ != nullptr) cudaEventDestroy(before_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void Uploads::upload(const void* host, std::int64_t size_bytes, void* device) {
  // Allocated in the compute stream's order, and perhaps still read there by what held the memory before.
  VORONOI_CUDA_CHECK(cudaEventRecord(before_, compute_));
  VORONOI_CUDA_CHECK(cudaStreamWaitEvent(stream_, before_, 0));
  for (std::int64_t done = 0; done < size_bytes; done += kBufferBytes) {
    Buffer& buffer = buffers_[next_];
    next_ = (next_ + 1) % kBuffers;
    if (buffer.pinned == nullptr) {
      VORONOI_CUDA_CHECK(cudaEventCreateWithFlags(&buffer.sent, cudaEventDisableTiming));
      VORONOI_CUDA_CHECK(cudaMallocHost(&buffer.pinned, static_cast<std::size_t>(kBufferBytes)));
    } else {
      VORONOI_CUDA_CHECK(cudaEventSynchronize(buffer.sent));
    }
    const auto piece = static_cast<std::size_t>(std::min(kBufferBytes, size_bytes - done));
    std::memcpy(buffer.pinned, static_cast<const char*>(host) + done, piece);
    VORONOI_CUDA_CHECK(
        cudaMemcpyAsync(static_cast<char*>(device) + done, buffer.pinned, piece, cudaMemcpyHostToDevice, stream_));
    VORONOI_CUDA_CHECK(cudaEventRecord(buffer.sent, stream_));
  }
}

void Uploads::join() {
  VORONOI_CUDA_CHECK(cudaEventRecord(after_, stream_));
  VORONOI_CUDA_CHECK(cudaStreamWaitEvent(compute_, after_, 0));
}

}  // namespace voronoi::kernels::gpu
