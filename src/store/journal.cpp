#include "store/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace voronoi::store {
namespace {

using core::FormatError;
using core::Json;
using core::StoreError;

constexpr std::size_t kDigits = 16;

std::string numbered(std::size_t number, std::string_view payload) { return fmt::format("{} {}", number, payload); }

std::string make_line(std::size_t number, std::string_view payload) {
  return fmt::format("{} {} {}\n", number, core::sha256(numbered(number, payload)).substr(0, kDigits), payload);
}

/// The payload of a line (without its newline) that is whole and has this number.
std::optional<std::string_view> payload_of(std::string_view line, std::size_t number) {
  const std::string head = fmt::format("{} ", number);
  if (!line.starts_with(head) || line.size() < head.size() + kDigits + 1) return std::nullopt;
  const std::string_view digest = line.substr(head.size(), kDigits);
  const std::string_view payload = line.substr(head.size() + kDigits + 1);
  if (line[head.size() + kDigits] != ' ' ||
      digest != std::string_view(core::sha256(numbered(number, payload))).substr(0, kDigits))
    return std::nullopt;
  return payload;
}

/// A torn write leaves a beginning of a line, in which no whole record can be found: one with more behind it lost its
/// newline to damage. Records end in '}'; the search is bounded, for a hostile tail would make it quadratic.
bool holds_whole_record(std::string_view tail, std::size_t number) {
  constexpr int kMaxTries = 1000;
  const std::string_view searched = tail.substr(0, std::size_t{1} << 20);
  std::size_t end = searched.find('}');
  for (int tries = 0; end != std::string_view::npos && tries < kMaxTries; end = searched.find('}', end + 1), ++tries)
    if (end + 1 < tail.size() && payload_of(tail.substr(0, end + 1), number)) return true;
  return false;
}

struct Replay {
  std::vector<Json> records;
  std::size_t whole_bytes = 0;  ///< the rest is a torn tail
};

[[noreturn]] void damaged(const std::string& file, std::size_t line, std::size_t offset, const std::string& what) {
  throw FormatError(
      file, offset,
      fmt::format("line {} {}; the records before it are whole: keep a copy, cut the file before this line and "
                  "run the same command again, and what the lost records say is done once more",
                  line, what));
}

Replay replay(const std::string& file, std::string_view text) {
  Replay result;
  std::size_t start = 0;
  for (std::size_t number = 1; start < text.size(); ++number) {
    const std::size_t newline = text.find('\n', start);
    const bool complete = newline != std::string_view::npos;
    const std::string_view line = text.substr(start, complete ? newline - start : std::string_view::npos);
    const bool last = !complete || newline + 1 == text.size();
    const auto payload = payload_of(line, number);
    if (last && (!complete || !payload)) {
      if (holds_whole_record(line, number)) damaged(file, number, start, "has lost its end");
      break;
    }
    if (!payload) damaged(file, number, start, "is damaged (number or checksum)");
    Json record;
    try {
      record = core::parse_json(*payload, file);
    } catch (const FormatError& error) {
      damaged(file, number, start, std::string("cannot be read (") + error.what() + ")");
    }
    if (!record.is_object()) damaged(file, number, start, "is not an object");
    result.records.push_back(std::move(record));
    start = newline + 1;
    result.whole_bytes = start;
  }
  return result;
}

}  // namespace

struct Journal::Impl {
  std::string file;
  int descriptor = -1;
  std::vector<Json> records;
  std::size_t count = 0;  ///< records on disk and pending
  std::string pending;    ///< lines that are not written yet
  std::size_t size = 0;
  bool torn = false;
  bool broken = false;

  ~Impl() {
    if (descriptor >= 0) ::close(descriptor);
  }

  [[noreturn]] void fail(const char* what, int error) const { throw core::system_error(file, what, error); }

  /// A crash leaves a beginning of the lines at most; what cannot be written as a whole is taken back.
  void append_lines(const std::string& lines) {
    if (broken) throw StoreError(file + ": an earlier write failed; run the same command again");
    if (const int error = core::write_fully(descriptor, std::as_bytes(std::span(lines))); error != 0) {
      broken = ::ftruncate(descriptor, static_cast<off_t>(size)) != 0;
      fail("append", error);
    }
    if (const int error = core::sync_fully(descriptor); error != 0) {
      // What is on the disk is unknown from here on: only a replay can tell.
      broken = true;
      fail("sync", error);
    }
    size += lines.size();
  }
};

Journal::Journal(const std::filesystem::path& path, const std::filesystem::path& temporary)
    : impl_(std::make_unique<Impl>()) {
  Impl& self = *impl_;
  self.file = path.string();
  // Only a file that surely is not there counts as empty: it will be replaced.
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::none) self.fail("look for", error.value());
  const std::string text = type == std::filesystem::file_type::not_found ? std::string() : core::read_text_file(path);
  Replay result = replay(self.file, text);
  self.records = std::move(result.records);
  self.count = self.records.size();
  self.torn = result.whole_bytes < text.size();
  self.descriptor = ::open(temporary.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (self.descriptor < 0) self.fail("open for appending", errno);
  if (result.whole_bytes > 0) self.append_lines(text.substr(0, result.whole_bytes));
  if (const int failed = core::sync_fully(self.descriptor); failed != 0) self.fail("sync", failed);
  if (::rename(temporary.c_str(), self.file.c_str()) != 0) self.fail("replace", errno);
  core::sync_directory(path.parent_path());
}

Journal::~Journal() = default;
Journal::Journal(Journal&&) noexcept = default;

const std::vector<Json>& Journal::records() const { return impl_->records; }
std::vector<Json> Journal::take_records() { return std::exchange(impl_->records, {}); }
bool Journal::dropped_torn_tail() const { return impl_->torn; }

void Journal::add(const Json& record) {
  VORONOI_REQUIRE(record.is_object(), "a journal record is an object");
  const std::string payload = record.dump(-1, ' ', false, Json::error_handler_t::replace);
  impl_->pending += make_line(impl_->count + 1, payload);
  ++impl_->count;
}

void Journal::commit() {
  if (impl_->pending.empty()) return;
  impl_->append_lines(impl_->pending);
  impl_->pending.clear();
}

void Journal::append(const Json& record) {
  const std::size_t before = impl_->pending.size();
  add(record);
  try {
    commit();
  } catch (...) {
    impl_->pending.resize(before);
    --impl_->count;
    throw;
  }
}

std::vector<Json> Journal::read(const std::filesystem::path& path) {
  const std::string text = core::read_text_file(path);
  return replay(path.string(), text).records;
}

}  // namespace voronoi::store
