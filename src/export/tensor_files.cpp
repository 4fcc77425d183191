#include "export/tensor_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace voronoi::exporting {
namespace {

using SortedJson = nlohmann::json;  // objects by name: adding a key takes no look through all others

constexpr std::size_t kAlignment = 8;

/// By the number that a type's name has behind its letters; "F8_E4M3" and "BOOL" are single bytes.
int element_bytes(std::string_view dtype) {
  return dtype.ends_with("64") ? 8 : dtype.ends_with("32") ? 4 : dtype.ends_with("16") ? 2 : 1;
}

/// Tensors in order, cut where the next one would pass the limit.
std::vector<std::vector<TensorPlan>> divide(const std::vector<TensorPlan>& plan, std::int64_t max_file_bytes) {
  std::vector<std::vector<TensorPlan>> files(1);
  std::int64_t filled = 0;
  for (const TensorPlan& tensor : plan) {
    if (filled > 0 && filled + tensor.size_bytes > max_file_bytes) {
      files.emplace_back();
      filled = 0;
    }
    files.back().push_back(tensor);
    filled += tensor.size_bytes;
  }
  for (auto& tensors : files)
    std::stable_sort(tensors.begin(), tensors.end(), [](const TensorPlan& a, const TensorPlan& b) {
      return element_bytes(a.dtype) > element_bytes(b.dtype);
    });
  return files;
}

}  // namespace

TensorFiles::TensorFiles(const std::vector<TensorPlan>& plan, std::int64_t max_file_bytes) {
  const auto files = divide(plan, max_file_bytes);
  for (std::size_t i = 0; i < files.size(); ++i)
    add_file(
        files.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size()),
        files[i]);
}

void TensorFiles::add_file(std::string name, const std::vector<TensorPlan>& tensors) {
  SortedJson header;
  header["__metadata__"] = {{"format", "pt"}};
  std::int64_t end = 0;
  for (const TensorPlan& tensor : tensors) {
    const std::int64_t begin = end;
    end += tensor.size_bytes;
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    const bool fresh = places_.emplace(tensor.name, Place{files_.size(), begin, tensor.size_bytes}).second;
    VORONOI_REQUIRE(fresh, "tensor " + tensor.name + " twice");
  }
  total_bytes_ += end;
  std::string text = header.dump();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const auto length = static_cast<std::uint64_t>(text.size());
  std::string head(reinterpret_cast<const char*>(&length), sizeof length);
  head += text;
  for (const TensorPlan& tensor : tensors) places_.at(tensor.name).offset += std::ssize(head);
  const std::int64_t size = std::ssize(head) + end;
  files_.push_back({std::move(name), std::move(head), size});
}

bool TensorFiles::holds(std::size_t file, std::string_view tensor) const {
  const auto found = places_.find(tensor);
  return found != places_.end() && found->second.file == file;
}

const TensorFiles::Place& TensorFiles::place(std::string_view tensor) const {
  const auto found = places_.find(tensor);
  VORONOI_REQUIRE(found != places_.end(), "tensor " + std::string(tensor) + " was not planned");
  return found->second;
}

std::string TensorFiles::index() const {
  SortedJson index;
  index["metadata"] = {{"total_size", total_bytes_}};
  SortedJson& map = index["weight_map"];
  for (const auto& [name, place] : places_) map[name] = files_[place.file].name;
  return index.dump(2) + "\n";
}

TensorFile::TensorFile(const TensorFiles& files, std::size_t file, std::filesystem::path path)
    : files_(files), file_(file), path_(std::move(path)), out_(path_), missing_bytes_(files.size_bytes(file)) {
  try {
    const std::string& header = files.header(file);
    out_.write_at(0, std::as_bytes(std::span(header)));
    missing_bytes_ -= std::ssize(header);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
    throw;
  }
}

TensorFile::~TensorFile() {
  std::error_code ignored;
  if (!finished_) std::filesystem::remove(path_, ignored);
}

void TensorFile::write(std::string_view tensor, std::int64_t offset, std::span<const std::byte> bytes) {
  const TensorFiles::Place& place = files_.place(tensor);
  if (place.file != file_) return;
  const auto size = static_cast<std::int64_t>(bytes.size());
  VORONOI_REQUIRE(offset >= 0 && offset + size <= place.size_bytes,
                  "tensor " + std::string(tensor) + " is larger than planned");
  out_.write_at(place.offset + offset, bytes);
  missing_bytes_ -= size;
}

void TensorFile::finish() {
  VORONOI_REQUIRE(missing_bytes_ == 0, fmt::format("{} bytes of the checkpoint were not written", missing_bytes_));
  out_.finish();
  finished_ = true;
}

}  // namespace voronoi::exporting
