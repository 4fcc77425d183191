// What the fuzz targets share: files in memory, which errors a reader may answer with, and mutators that put checksums
// and lengths right so that what lies behind them is reached.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/log.h"
#include "core/types.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace voronoi::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Ends the run with a finding.
[[noreturn]] inline void finding(std::string_view what) {
  std::fprintf(stderr, "FINDING: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}
inline void require(bool condition, std::string_view what) {
  if (!condition) finding(what);
}

/// A folder in memory for this process. A file keeps its inode from input to input, so that writing it is cheap.
class Folder {
 public:
  Folder() {
    std::string name = "/dev/shm/voronoi-fuzz-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) finding("cannot make " + name);
    path_ = name;
    remove_at_exit();
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  std::string write(std::string_view name, std::string_view content) const {
    std::string file = *this / name;
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor < 0 || ::write(descriptor, content.data(), content.size()) != static_cast<ssize_t>(content.size()))
      finding("cannot write " + file);
    ::close(descriptor);
    return file;
  }

 private:
  /// The fuzzer leaves by exit(), past the destructors of locals; a crash leaves the folder behind.
  void remove_at_exit() {
    static std::string all;
    all += " " + path_;
    static const int registered = std::atexit([] {
      for (std::size_t at = 0; at < all.size();) {
        const std::size_t end = std::min(all.find(' ', at + 1), all.size());
        std::error_code ignored;
        std::filesystem::remove_all(all.substr(at + 1, end - at - 1), ignored);
        at = end;
      }
    });
    static_cast<void>(registered);
  }
  std::string path_;
};

/// What a person may be shown: short, no control characters (a hostile file must not steer a terminal).
inline void check_message(std::string_view message) {
  require(!message.empty(), "an error without a message");
  require(message.size() <= 8500, "an error message of " + std::to_string(message.size()) + " bytes");
  for (const char c : message)
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F, "an error message with control characters");
}

/// True when `read` ends; false when it refuses as readers do. Any other exception is a finding.
template <class Read>
bool accepts(const Read& read) {
  try {
    read();
    return true;
  } catch (const core::FormatError& error) {
    check_message(error.what());
  } catch (const core::StoreError& error) {
    check_message(error.what());
  } catch (const core::ConfigError& error) {
    check_message(error.what());
  } catch (const std::exception& error) {
    finding(std::string("an exception that is no answer to a bad file: ") + error.what());
  }
  return false;
}

/// Weights that a target decodes at most: what a config claims is checked against the file before, but a tensor of the
/// product of two large extents is the caller's to allocate.
inline constexpr std::int64_t kMaxElements = std::int64_t{1} << 20;

inline bool is_small(const core::Shape& shape) {
  const auto count = core::element_count(shape);
  return count && *count <= kMaxElements;
}

/// Logs of readers would drown the fuzzer's own.
inline void quiet() { core::configure_log(0, core::LogLevel::error); }

/// libFuzzer's own mutation of a part of the input; `rest` is kept behind it. Returns the new size of the part.
inline std::size_t mutate(std::string& part, std::size_t max_size) {
  const std::size_t room = std::max(max_size, part.size());
  const std::size_t size = part.size();
  part.resize(room);
  part.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(part.data()), size, room));
  return part.size();
}

/// An input of the mutator back in its buffer.
inline std::size_t give_back(std::string_view content, std::uint8_t* data, std::size_t max_size) {
  const std::size_t size = std::min(content.size(), max_size);
  std::memcpy(data, content.data(), size);
  return size;
}

/// A custom mutator: libFuzzer's own mutation, then `repair` (checksums, lengths) on all but one of `period` inputs.
template <class Repair>
std::size_t mutate_and_repair(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed,
                              unsigned period, const Repair& repair) {
  std::string content(text_of(data, LLVMFuzzerMutate(data, size, max_size)));
  if (seed % period != 0) repair(content);
  return give_back(content, data, max_size);
}

/// Targets of several files take them as one input: texts, each ended by a zero byte, then the rest.
inline std::string_view take_text(std::string_view& input) {
  const std::size_t end = std::min(input.find('\0'), input.size());
  const std::string_view text = input.substr(0, end);
  input.remove_prefix(std::min(end + 1, input.size()));
  return text;
}

/// Makes the length before a safetensors header right, where the header can be told by its braces.
inline void repair_header_length(std::string& file) {
  constexpr std::size_t kLength = 8;
  if (file.size() < kLength) return;
  int depth = 0;
  bool quoted = false;
  for (std::size_t at = kLength; at < file.size(); ++at) {
    const char c = file[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      const std::uint64_t length = at + 1 - kLength;
      std::memcpy(file.data(), &length, kLength);
      return;
    }
  }
}

}  // namespace voronoi::fuzz
