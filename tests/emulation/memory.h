// Memory of the emulated GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace voronoi::emulation {

inline constexpr std::size_t kDeviceBytes = std::size_t{2} << 30;

/// Runs the copies that the stream still holds back: as late as its user's waits allow, so that a missing one shows.
void finish_pending(cudaStream_t stream);
/// Throws std::logic_error when bytes beside an array were written.
void check_arrays();

/// Bytes that end at a page no one may touch, with known bytes before them.
class GuardedBuffer {
 public:
  ~GuardedBuffer();
  /// New content: 0xFF everywhere, which is NaN in every format.
  void resize(std::size_t size_bytes);
  void* data() const { return data_; }
  /// Throws std::logic_error when the bytes before the buffer were written.
  void check() const;

 private:
  std::byte* pages_ = nullptr;
  std::size_t capacity_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace voronoi::emulation
