#include "core/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/file.h"

namespace voronoi::core {
namespace {

/// A sharded model has a few hundred files; what is beyond is mapped all the same, but not named by the handler.
constexpr std::size_t kMaxNamed = 4096;

struct Range {
  const std::byte* begin;
  std::size_t size;
  const char* path;
};

/// What the signal handler reads: lock-free, each entry constant while it stands here.
std::array<std::atomic<const Range*>, kMaxNamed> ranges;
struct sigaction earlier_action;
std::array<char, 32> line_head{"error: "};

void write_text(const char* text) {
  // Nothing can be done when it fails.
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

void on_bus_error(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (const auto& entry : ranges) {
    const Range* range = entry.load(std::memory_order_acquire);
    if (range == nullptr) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(range->begin);
    if (address < begin || address - begin >= range->size) continue;
    write_text(line_head.data());
    write_text(range->path);
    write_text(
        ": cannot be read any more: the file was cut or its disk failed; put it back as it was and run the same "
        "command again\n");
    ::_exit(static_cast<int>(ExitCode::node));
  }
  // None of ours: the instruction runs again under the action that was there before.
  ::sigaction(SIGBUS, &earlier_action, nullptr);
}

}  // namespace

struct MappedFile::Mapping {
  std::string path;
  int descriptor = -1;
  struct stat opened {};
  std::span<const std::byte> bytes;
  Range range{};
  std::size_t slot = kMaxNamed;

  ~Mapping() {
    if (slot < kMaxNamed) ranges[slot].store(nullptr, std::memory_order_release);
    if (!bytes.empty()) ::munmap(const_cast<std::byte*>(bytes.data()), bytes.size());
    if (descriptor >= 0) ::close(descriptor);
  }

  void name_range() {
    range = {bytes.data(), bytes.size(), path.c_str()};
    for (slot = 0; slot < kMaxNamed; ++slot) {
      const Range* free = nullptr;
      if (ranges[slot].compare_exchange_strong(free, &range, std::memory_order_acq_rel)) return;
    }
  }
};

MappedFile::MappedFile(const std::filesystem::path& path) : mapping_(std::make_unique<Mapping>()) {
  Mapping& self = *mapping_;
  self.path = path.string();
  self.descriptor = open_for_reading(self.path);
  if (::fstat(self.descriptor, &self.opened) != 0) throw system_error(self.path, "stat", errno);
  const auto size = static_cast<std::size_t>(self.opened.st_size);
  if (size == 0) return;
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, self.descriptor, 0);
  if (address == MAP_FAILED) throw system_error(self.path, "map", errno);
  self.bytes = {static_cast<const std::byte*>(address), size};
  self.name_range();
}

MappedFile::~MappedFile() = default;
MappedFile::MappedFile(MappedFile&&) noexcept = default;

std::span<const std::byte> MappedFile::bytes() const { return mapping_->bytes; }
const std::string& MappedFile::path() const { return mapping_->path; }

void MappedFile::require_unchanged() const {
  const Mapping& self = *mapping_;
  struct stat now {};
  if (::fstat(self.descriptor, &now) != 0) throw system_error(self.path, "stat", errno);
  if (now.st_size == self.opened.st_size && now.st_mtim.tv_sec == self.opened.st_mtim.tv_sec &&
      now.st_mtim.tv_nsec == self.opened.st_mtim.tv_nsec)
    return;
  throw StoreError(self.path +
                   ": was changed or cut while it was being read; put it back as it was and run the same command "
                   "again");
}

void will_read(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data()), first = address / page * page;
  ::madvise(reinterpret_cast<void*>(first), address - first + bytes.size(), MADV_WILLNEED);
}

void report_lost_pages(int rank) {
  if (rank > 0) std::snprintf(line_head.data(), line_head.size(), "rank %d: error: ", rank);
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &earlier_action);
}

}  // namespace voronoi::core
