#include "model/safetensors_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/mapped_file.h"
#include "core/work_counts.h"
#include "model/tensor_names.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;
using core::FormatError;
using core::Json;
using core::quote_text;

constexpr std::size_t kMaxIndexBytes = std::size_t{1} << 28;
constexpr std::array<std::string_view, 4> kPickleEndings{".bin", ".pt", ".pth", ".ckpt"};

/// A shard is a plain file name beside the index: nothing that leaves the directory, nothing that is not safetensors.
void check_shard_name(const std::string& index, const std::string& tensor, const std::string& name) {
  const bool plain = !name.empty() && name.front() != '.' && std::none_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
  });
  if (plain && name.ends_with(".safetensors")) return;
  std::string message = fmt::format("tensor {}: shard {} is not the name of a *.safetensors file in the same folder",
                                    quote_text(tensor), quote_text(name));
  if (plain && is_pickle_name(name)) message += "; " + std::string(kPickleRemedy);
  throw FormatError(index, message);
}

/// Tensor -> shard, every name checked.
std::map<std::string, std::string> parse_index(const std::string& path) {
  const Json json = core::parse_json(core::read_text_file(path, kMaxIndexBytes), path);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object())
    throw FormatError(path, "key \"weight_map\" is missing or not an object of tensor and shard names");
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      throw FormatError(path, "key \"weight_map\": the shard of " + quote_text(tensor) + " is not a string");
    check_shard_name(path, tensor, shard.get_ref<const std::string&>());
    shards.emplace(tensor, shard.get<std::string>());
  }
  return shards;
}

bool is_float(const SafetensorsFolder::Stored& stored) {
  const auto dtype = stored.tensor->dtype;
  return dtype == core::DType::f32 || dtype == core::DType::f16 || dtype == core::DType::bf16 ||
         dtype == core::DType::f64;
}

void require_float(const SafetensorsFolder::Stored& stored) {
  if (is_float(stored)) return;
  throw FormatError(stored.file->path(), fmt::format("tensor {}: is stored as {}; F32, F16, BF16 or F64 is wanted",
                                                     stored.name, stored.tensor->dtype_name));
}

}  // namespace

bool is_pickle_name(const fs::path& path) {
  return std::find(kPickleEndings.begin(), kPickleEndings.end(), path.extension().string()) != kPickleEndings.end();
}

const SafetensorsFile& SafetensorsFolder::open_file(const fs::path& folder, const std::string& name) {
  auto& file = files_[name];
  if (!file) file = std::make_unique<SafetensorsFile>((folder / name).string());
  return *file;
}

SafetensorsFolder::SafetensorsFolder(const fs::path& folder) {
  // The order of the reference: one whole file wins over an index.
  const fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(folder / "model.safetensors")) {
    open_whole(folder, "model.safetensors");
  } else if (fs::exists(index)) {
    open_shards(folder, index.string());
  } else {
    std::vector<std::string> weights, pickles;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") weights.push_back(entry.path().filename().string());
      if (is_pickle_name(entry.path())) pickles.push_back(entry.path().filename().string());
    }
    std::sort(pickles.begin(), pickles.end());
    if (weights.size() > 1)
      throw FormatError(
          folder.string(),
          fmt::format(
              "holds {} *.safetensors files, but no model.safetensors.index.json that says which tensor is where",
              weights.size()));
    if (weights.empty() && !pickles.empty())
      throw FormatError((folder / pickles.front()).string(), "is a pickle; " + std::string(kPickleRemedy));
    if (weights.empty())
      throw FormatError(folder.string(), "holds no model.safetensors and no model.safetensors.index.json");
    open_whole(folder, weights.front());
  }
}

void SafetensorsFolder::open_whole(const fs::path& folder, const std::string& name) {
  const SafetensorsFile& file = open_file(folder, name);
  name_ = file.path();
  for (const auto& [tensor, stored] : file.tensors()) tensors_.emplace(tensor, Stored{&file, &stored, tensor});
}

void SafetensorsFolder::open_shards(const fs::path& folder, const std::string& index) {
  name_ = index;
  for (const auto& [tensor, shard] : parse_index(index)) {
    if (!files_.contains(shard) && !fs::exists(folder / shard))
      throw FormatError(index, fmt::format("tensor {}: its shard {} is not in the folder; download or copy it",
                                           quote_text(tensor), shard));
    const SafetensorsFile& file = open_file(folder, shard);
    const auto stored = file.tensors().find(tensor);
    if (stored == file.tensors().end())
      throw FormatError(index,
                        fmt::format("tensor {}: is not in {}, the shard the index names", quote_text(tensor), shard));
    tensors_.emplace(tensor, Stored{&file, &stored->second, stored->first});
  }
}

void SafetensorsFolder::take_standard_names(const std::string& norm) {
  const TensorNames names(stored_names(), norm);
  if (!names.differ()) return;
  base_ = names.base();
  std::map<std::string, Stored, std::less<>> renamed;
  for (const auto& [name, stored] : tensors_)
    if (const auto [known, fresh] = renamed.emplace(names.standard(name), stored); !fresh)
      throw FormatError(name_, fmt::format("tensors {} and {} are both {}; remove one of them",
                                           quote_text(known->second.name), quote_text(stored.name), known->first));
  tensors_ = std::move(renamed);
  core::log_info("{}: tensors are named as {}, and are taken as {}", name_, quote_text(names.found()),
                 names.standard(names.found()));
}

std::string SafetensorsFolder::stored_name(std::string_view standard) const {
  constexpr std::string_view kModel = "model.", kInner = ".model.";
  if (standard.starts_with(kModel)) return base_ + std::string(standard.substr(kModel.size()));
  // The head is beside the innermost model.
  return (base_.ends_with(kInner) ? base_.substr(0, base_.size() - kModel.size()) : "") + std::string(standard);
}

std::vector<std::string_view> SafetensorsFolder::stored_names() const {
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const auto& [name, stored] : tensors_) names.push_back(stored.name);
  return names;
}

bool SafetensorsFolder::same_values(const Stored& one, const Stored& other) const {
  if (one.tensor->shape != other.tensor->shape) return false;
  require_float(one);
  require_float(other);
  constexpr std::int64_t kChunk = 1 << 16;
  const std::int64_t n = core::element_count(one.tensor->shape).value_or(0);
  std::vector<float> a(static_cast<std::size_t>(std::min(n, kChunk))), b(a.size());
  bool same = true;
  for (std::int64_t begin = 0; begin < n && same; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, n - begin);
    const auto load = [&](const Stored& stored, std::vector<float>& out) {
      const core::DType dtype = *stored.tensor->dtype;
      core::convert_to_f32(dtype, stored.tensor->bytes.data() + begin * core::dtype_size(dtype), count, out.data());
    };
    load(one, a);
    load(other, b);
    same = std::equal(a.begin(), a.begin() + count, b.begin());
  }
  require_unchanged();
  return same;
}

const SafetensorsFolder::Stored* SafetensorsFolder::find(std::string_view name) const {
  const auto entry = tensors_.find(name);
  return entry == tensors_.end() ? nullptr : &entry->second;
}

std::optional<core::Shape> SafetensorsFolder::float_shape(const std::string& name) const {
  if (const ExpertSlice* slice = find_slice(name)) {
    if (const Stored* plain = find(slice->stored)) require_float(*plain);
    core::Shape shape{slice->n_out};
    if (slice->shape.size() > 2) shape.push_back(slice->shape[1]);
    return shape;
  }
  const Stored* stored = find(name);
  if (stored == nullptr) return std::nullopt;
  if (scales_of(name, *stored) == nullptr) require_float(*stored);
  return stored->tensor->shape;
}

const ExpertSlice* SafetensorsFolder::find_slice(const std::string& name) const {
  const auto slice = slices_.find(name);
  return slice == slices_.end() ? nullptr : &slice->second;
}

void SafetensorsFolder::read_slice(const TensorSpec& spec, const ExpertSlice& slice, std::span<float> out) const {
  if (find(slice.stored) == nullptr) return read_mxfp4(spec, slice, out);
  const Stored& stored = *find(slice.stored);
  require_float(stored);
  const SafetensorsTensor& tensor = *stored.tensor;
  const std::int64_t columns = slice.shape.back(), n_in = slice.shape.size() > 2 ? slice.shape[1] : 1;
  VORONOI_REQUIRE(spec.shape.front() == slice.n_out && std::cmp_equal(slice.n_out * n_in, out.size()), spec.name);
  const std::int64_t size = core::dtype_size(*tensor.dtype);
  std::vector<float> row(static_cast<std::size_t>(columns));
  bool good = true;
  for (std::int64_t in = 0; in < n_in; ++in) {
    good =
        convert_finite(*tensor.dtype, tensor.bytes.data() + (slice.expert * n_in + in) * columns * size, row) && good;
    for (std::int64_t o = 0; o < slice.n_out; ++o)
      out[static_cast<std::size_t>(o * n_in + in)] =
          row[static_cast<std::size_t>(slice.first_column + o * slice.column_step)];
  }
  core::count_work(core::Counted::model_bytes, std::ssize(out) * size);
  stored.file->require_unchanged();
  // A bad value of a neighbour is that one's.
  if (good || all_finite(out)) return;
  throw bad_values(stored.file->path(), spec.name, spec.shape,
                   [&](std::int64_t i) { return static_cast<double>(out[static_cast<std::size_t>(i)]); });
}

const SafetensorsFolder::Stored& SafetensorsFolder::stored_as(const TensorSpec& spec) const {
  const Stored* stored = find(spec.name);
  if (stored == nullptr) throw FormatError(name_, "tensor " + spec.name + ": is missing");
  if (scales_of(spec.name, *stored) == nullptr) require_float(*stored);
  if (stored->tensor->shape != spec.shape)
    throw FormatError(stored->file->path(),
                      fmt::format("tensor {}: has shape {}; {} is wanted", stored->name,
                                  core::to_string(stored->tensor->shape), core::to_string(spec.shape)));
  return *stored;
}

void SafetensorsFolder::read(const TensorSpec& spec, std::span<float> out) const {
  if (const ExpertSlice* slice = find_slice(spec.name)) return read_slice(spec, *slice, out);
  const Stored& stored = stored_as(spec);
  VORONOI_REQUIRE(std::cmp_equal(core::element_count(spec.shape).value_or(-1), out.size()), spec.name);
  if (const Stored* scales = scales_of(spec.name, stored)) return read_f8(spec, stored, *scales, out);
  read_plain(stored, 0, out);
}

bool SafetensorsFolder::read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const {
  if (find_slice(spec.name) != nullptr) return false;
  const Stored& stored = stored_as(spec);
  if (scales_of(spec.name, stored) != nullptr) return false;
  const std::int64_t width = spec.shape.back();
  VORONOI_REQUIRE(spec.shape.size() == 2 && first_row >= 0 && std::ssize(out) % width == 0 &&
                      first_row + std::ssize(out) / width <= spec.shape.front(),
                  spec.name);
  read_plain(stored, first_row * width, out);
  return true;
}

void SafetensorsFolder::read_plain(const Stored& stored, std::int64_t first, std::span<float> out) const {
  const SafetensorsTensor& tensor = *stored.tensor;
  const std::int64_t size = core::dtype_size(*tensor.dtype);
  const bool good = convert_finite(*tensor.dtype, tensor.bytes.data() + first * size, out);
  core::count_work(core::Counted::model_bytes, std::ssize(out) * size);
  stored.file->require_unchanged();
  if (good) return;
  throw bad_values(stored.file->path(), stored.name, tensor.shape, [&](std::int64_t i) {
    float value;
    core::convert_to_f32(*tensor.dtype, tensor.bytes.data() + i * size, 1, &value);
    return static_cast<double>(value);
  });
}

void SafetensorsFolder::will_read(const TensorSpec& spec) const {
  // Of experts in one tensor the neighbours are read with it.
  const ExpertSlice* slice = find_slice(spec.name);
  if (const Stored* stored = find(slice == nullptr ? spec.name : slice->stored)) core::will_read(stored->tensor->bytes);
}

void SafetensorsFolder::require_unchanged() const {
  for (const auto& [name, file] : files_) file->require_unchanged();
}

void SafetensorsFolder::warn_unread(const std::set<std::string>& expected, const std::string& model_type,
                                    const std::function<bool(std::string_view name)>& known) const {
  std::set<std::string> read;
  for (const auto& [name, slice] : slices_)
    for (const char* ending : {"", "_blocks", "_scales"}) read.insert(slice.stored + ending);
  if (scaled_.kind != ScaledWeights::Kind::none)
    for (const std::string& name : expected)
      for (const char* ending : {"_scale_inv", "_scale"}) read.insert(name + ending);
  std::size_t n_unread = 0;
  std::string first;
  for (const auto& [name, stored] : tensors_) {
    if (expected.contains(name) || name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq")) continue;
    if (read.contains(name) || (known && known(name))) continue;
    if (n_unread++ == 0) first = name;
  }
  if (n_unread > 0)
    core::log_warning("{}: {} tensors are not part of a {} model and are not read; the first is {}", name_, n_unread,
                      model_type, quote_text(first));
}

void SafetensorsFolder::add_to_fingerprint(core::Sha256& hash) const {
  for (const auto& [name, file] : files_) add_samples(hash, name, file->bytes(), file->header_bytes());
  require_unchanged();
}

}  // namespace voronoi::model
