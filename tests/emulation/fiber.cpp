#include "tests/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the emulator switches stacks on x86-64 and aarch64 only; configure with -DVORONOI_BUILD_TESTS=OFF"
#endif

extern "C" void voronoi_switch_stack(void** save, void* load);

// Saves the registers that a call must keep on the current stack, its pointer in *save, and takes those of `load`.
#if defined(__x86_64__)
asm(R"(
.text
.globl voronoi_switch_stack
.hidden voronoi_switch_stack
.type voronoi_switch_stack, @function
voronoi_switch_stack:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size voronoi_switch_stack, . - voronoi_switch_stack
)");
#else
asm(R"(
.text
.globl voronoi_switch_stack
.hidden voronoi_switch_stack
.type voronoi_switch_stack, @function
voronoi_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size voronoi_switch_stack, . - voronoi_switch_stack
)");
#endif

namespace voronoi::emulation {
namespace {

constexpr std::size_t kStackBytes = 128 << 10, kGuardBytes = 4096 * 16;  // a page on any machine

Fiber* running = nullptr;

}  // namespace

Fiber::~Fiber() {
  if (stack_ != nullptr) ::munmap(stack_, kGuardBytes + kStackBytes);
}

Fiber::Fiber(Fiber&& other) noexcept : stack_(std::exchange(other.stack_, nullptr)) {}

void Fiber::entry() {
  Fiber& self = *running;
  self.main_();
  self.started_ = false;
  self.suspend();
}

void Fiber::resume(void (*main)()) {
  if (stack_ == nullptr) {
    void* memory = ::mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    ::mprotect(memory, kGuardBytes, PROT_NONE);
    stack_ = static_cast<std::byte*>(memory);
  }
  if (!started_) {
    started_ = true;
    main_ = main;
    auto** top = reinterpret_cast<void**>(stack_ + kGuardBytes + kStackBytes);
#if defined(__x86_64__)
    // Six registers, then where `ret` goes; behind it the stack is aligned as after a call.
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&Fiber::entry);
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    own_ = top - 8;
#else
    for (int i = 1; i <= 20; ++i) top[-i] = nullptr;
    top[-20 + 11] = reinterpret_cast<void*>(&Fiber::entry);  // x30
    own_ = top - 20;
#endif
  }
  running = this;
  voronoi_switch_stack(&caller_, own_);
}

void Fiber::suspend() { voronoi_switch_stack(&own_, caller_); }

}  // namespace voronoi::emulation
