// A stack of its own that code can leave and come back to. One fiber runs at a time, on the thread that resumes it.
#pragma once

#include <cstddef>

namespace voronoi::emulation {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(Fiber&& other) noexcept;
  Fiber& operator=(Fiber&&) = delete;

  /// What it ran before is forgotten.
  void reset() { started_ = false; }
  /// Starts `main` (which must not throw), or goes on behind suspend(); returns at the next suspend() or its end.
  void resume(void (*main)());
  /// Called on the fiber.
  void suspend();

 private:
  static void entry();
  std::byte* stack_ = nullptr;
  bool started_ = false;
  void (*main_)() = nullptr;
  void* own_ = nullptr;     // stack pointer of the fiber while it is suspended
  void* caller_ = nullptr;  // of the one who resumed it
};

}  // namespace voronoi::emulation
