#include "export/tensor_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

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

TensorFiles::TensorFiles(const std::filesystem::path& directory, const std::vector<TensorPlan>& plan,
                         std::int64_t max_file_bytes)
    : directory_(directory) {
  const auto files = divide(plan, max_file_bytes);
  for (std::size_t i = 0; i < files.size(); ++i) {
    names_.push_back(files.size() == 1 ? "model.safetensors"
                                       : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size()));
    files_.push_back(std::make_unique<core::OutputFile>(directory / names_.back()));
    write_header(i, files[i]);
  }
  missing_bytes_ = total_bytes_;
}

void TensorFiles::write_header(std::size_t file, const std::vector<TensorPlan>& tensors) {
  SortedJson header;
  header["__metadata__"] = {{"format", "pt"}};
  std::int64_t end = 0;
  for (const TensorPlan& tensor : tensors) {
    const std::int64_t begin = end;
    end += tensor.size_bytes;
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    const bool fresh = places_.emplace(tensor.name, Place{file, begin, tensor.size_bytes}).second;
    VORONOI_REQUIRE(fresh, "tensor " + tensor.name + " twice");
  }
  total_bytes_ += end;
  std::string text = header.dump();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const auto length = static_cast<std::uint64_t>(text.size());
  files_[file]->write_at(0, std::as_bytes(std::span(&length, 1)));
  files_[file]->write_at(sizeof length, std::as_bytes(std::span(text)));
  const auto data = static_cast<std::int64_t>(sizeof length + text.size());
  for (const TensorPlan& tensor : tensors) places_.at(tensor.name).offset += data;
}

void TensorFiles::write(const std::string& tensor, std::int64_t offset, std::span<const std::byte> bytes) {
  const auto place = places_.find(tensor);
  VORONOI_REQUIRE(place != places_.end(), "tensor " + tensor + " was not planned");
  const auto size = static_cast<std::int64_t>(bytes.size());
  VORONOI_REQUIRE(offset >= 0 && offset + size <= place->second.size_bytes,
                  "tensor " + tensor + " is larger than planned");
  files_[place->second.file]->write_at(place->second.offset + offset, bytes);
  missing_bytes_ -= size;
}

void TensorFiles::finish() {
  VORONOI_REQUIRE(missing_bytes_ == 0, fmt::format("{} bytes of the checkpoint were not written", missing_bytes_));
  for (const auto& file : files_) file->finish();
  SortedJson index;
  index["metadata"] = {{"total_size", total_bytes_}};
  SortedJson& map = index["weight_map"];
  for (const auto& [name, place] : places_) map[name] = names_[place.file];
  core::write_file_atomic(directory_ / "model.safetensors.index.json", index.dump(2) + "\n", "export");
}

}  // namespace voronoi::exporting
