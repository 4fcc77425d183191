#include "sched/messages.h"

#include <cstring>
#include <type_traits>

#include "core/error.h"

namespace voronoi::sched {
namespace {

// All ranks run one program on one kind of machine: numbers travel as they lie in memory. Lists and texts begin with
// their length.
class Writer {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&value, sizeof(T));
  }
  template <class List>
  void list(const List& values) {
    number(static_cast<std::uint64_t>(values.size()));
    append(values.data(), values.size() * sizeof(typename List::value_type));
  }
  std::vector<std::byte> bytes() const {
    const auto view = std::as_bytes(std::span(bytes_));
    return {view.begin(), view.end()};
  }

 private:
  void append(const void* data, std::size_t n) {
    if (n > 0) bytes_.append(static_cast<const char*>(data), n);
  }
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  void number(T& value) {
    copy(&value, sizeof(T));
  }
  void flag(bool& value) {
    std::uint8_t byte = 0;
    number(byte);
    value = byte != 0;
  }
  template <class Enum>
  void choice(Enum& value, Enum last) {
    std::uint8_t byte = 0;
    number(byte);
    if (byte > static_cast<std::uint8_t>(last)) bad();
    value = static_cast<Enum>(byte);
  }
  template <class List>
  void list(List& values) {
    using Item = typename List::value_type;
    std::uint64_t n = 0;
    number(n);
    if (n > bytes_.size() / sizeof(Item)) bad();
    values.resize(n);
    copy(values.data(), n * sizeof(Item));
  }
  void end() const {
    if (!bytes_.empty()) bad();
  }

 private:
  void copy(void* out, std::size_t n) {
    if (n > bytes_.size()) bad();
    if (n > 0) std::memcpy(out, bytes_.data(), n);
    bytes_ = bytes_.subspan(n);
  }
  [[noreturn]] static void bad() { throw core::CommError("a malformed message between coordinator and worker"); }
  std::span<const std::byte> bytes_;
};

}  // namespace

std::vector<std::byte> encode(const WorkerMessage& message) {
  Writer writer;
  writer.number(message.kind);
  writer.number(message.status);
  writer.number(static_cast<std::uint8_t>(message.at_fault));
  writer.number(static_cast<std::uint8_t>(message.stop_requested));
  writer.number(message.error_code);
  writer.number(message.task);
  writer.number(message.seconds);
  writer.number(message.waited_seconds);
  writer.list(message.text);
  return writer.bytes();
}

WorkerMessage decode_worker_message(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  WorkerMessage message;
  reader.choice(message.kind, WorkerMessage::Kind::left);
  reader.choice(message.status, TaskStatus::stopped);
  reader.flag(message.at_fault);
  reader.flag(message.stop_requested);
  reader.number(message.error_code);
  reader.number(message.task);
  reader.number(message.seconds);
  reader.number(message.waited_seconds);
  reader.list(message.text);
  reader.end();
  return message;
}

std::vector<std::byte> encode(const Command& command) {
  Writer writer;
  writer.number(command.kind);
  writer.number(command.task);
  writer.number(command.sequence);
  writer.list(command.members);
  writer.number(static_cast<std::uint8_t>(command.stopped));
  writer.list(command.quarantined);
  writer.number(command.error_code);
  writer.list(command.error);
  return writer.bytes();
}

Command decode_command(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Command command;
  reader.choice(command.kind, Command::Kind::finish);
  reader.number(command.task);
  reader.number(command.sequence);
  reader.list(command.members);
  reader.flag(command.stopped);
  reader.list(command.quarantined);
  reader.number(command.error_code);
  reader.list(command.error);
  reader.end();
  return command;
}

}  // namespace voronoi::sched
