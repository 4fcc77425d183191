#include "model/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/stand_in.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;
using core::quote_text;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeader = 100'000'000;  // the reference's own limit
constexpr std::size_t kMaxShape = 16;

struct FormatType {
  std::string_view name;
  std::int64_t bits;
};
constexpr auto kTypes = std::to_array<FormatType>(
    {{"F64", 64},    {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64},    {"I32", 32}, {"I16", 16},
     {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},    {"U8", 8},      {"BOOL", 8}, {"C64", 64},
     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}});

/// A JSON integer that is not negative and fits 63 bits.
std::optional<std::int64_t> size_from(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (!std::in_range<std::int64_t>(number)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

/// Offsets into the data part.
struct DataExtent {
  std::int64_t begin = 0, end = 0;
  const std::string* name = nullptr;
};

struct Entry {
  SafetensorsTensor tensor;
  DataExtent extent;
};

Entry parse_entry(const std::string& file, const std::string& name, const Json& json) {
  const auto refuse = [&](const std::string& message) {
    throw FormatError(file, "tensor " + quote_text(name) + ": " + message);
  };
  if (!json.is_object()) refuse("its header entry is not an object");
  const auto member = [&](std::string_view key) -> const Json& {
    const auto found = json.find(key);
    if (found == json.end()) refuse("has no \"" + std::string(key) + "\"");
    return *found;
  };
  const Json &dtype = member("dtype"), &shape = member("shape"), &offsets = member("data_offsets");

  Entry entry;
  if (!dtype.is_string()) refuse("its dtype is not a string");
  entry.tensor.dtype_name = dtype.get<std::string>();
  const auto* type = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const FormatType& t) { return t.name == entry.tensor.dtype_name; });
  if (type == kTypes.end()) refuse("unknown dtype " + quote_text(entry.tensor.dtype_name));
  entry.tensor.dtype = core::dtype_from_name(type->name);

  if (!shape.is_array() || shape.size() > kMaxShape)
    refuse(fmt::format("its shape is not a list of at most {} sizes", kMaxShape));
  for (const Json& dimension : shape) {
    const auto size = size_from(dimension);
    if (!size) refuse("its shape holds " + quote_text(dimension.dump()) + ", which is no size");
    entry.tensor.shape.push_back(*size);
  }
  if (!offsets.is_array() || offsets.size() != 2) refuse("its data_offsets are not two numbers");
  const auto begin = size_from(offsets[0]), end = size_from(offsets[1]);
  if (!begin || !end || *begin > *end) refuse("its data_offsets " + quote_text(offsets.dump()) + " are no range");

  const auto count = core::element_count(entry.tensor.shape);
  const auto bits = count ? core::checked_multiply(*count, type->bits) : std::nullopt;
  if (!bits || *bits % 8 != 0)
    refuse("its shape " + core::to_string(entry.tensor.shape) + " is too large or no whole number of bytes");
  if (*bits / 8 != *end - *begin)
    refuse(fmt::format("{} of shape {} takes {} bytes, its data_offsets give {}", type->name,
                       core::to_string(entry.tensor.shape), *bits / 8, *end - *begin));
  entry.extent = {*begin, *end, nullptr};
  return entry;
}

/// The format allows neither holes nor overlaps, nor bytes after the last tensor.
void check_tiling(const std::string& file, std::vector<DataExtent> extents, std::int64_t data_size) {
  std::sort(extents.begin(), extents.end(), [](const DataExtent& a, const DataExtent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::int64_t position = 0;
  for (const DataExtent& extent : extents) {
    if (extent.end > data_size)
      throw FormatError(file, fmt::format("tensor {}: its data end at byte {} of the data, but the file holds {} bytes "
                                          "of data: it is truncated or its offsets are wrong",
                                          quote_text(*extent.name), extent.end, data_size));
    if (extent.begin != position)
      throw FormatError(file, fmt::format("tensor {}: its data begin at byte {} of the data; {} is wanted, because "
                                          "data may neither overlap nor leave holes",
                                          quote_text(*extent.name), extent.begin, position));
    position = extent.end;
  }
  if (position != data_size)
    throw FormatError(file, fmt::format("holds {} bytes of data, its tensors cover {}", data_size, position));
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const std::uint64_t file_size = file_.bytes().size();
  core::refuse_stand_in({reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size()}, path);
  if (file_size < kLengthBytes)
    throw FormatError(path, fmt::format("is {} bytes long, too short for a safetensors header length", file_size));
  std::uint64_t header_size;
  std::memcpy(&header_size, file_.bytes().data(), sizeof header_size);
  if (header_size > kMaxHeader || header_size > file_size - kLengthBytes)
    throw FormatError(path, 0,
                      fmt::format("claims a header of {} bytes; {} bytes follow, and at most {} are read: it is "
                                  "truncated or no safetensors file",
                                  header_size, file_size - kLengthBytes, kMaxHeader));
  data_start_ = static_cast<std::size_t>(kLengthBytes + header_size);
  const auto data = file_.bytes().subspan(data_start_);
  const std::string_view header(reinterpret_cast<const char*>(file_.bytes().data()) + kLengthBytes,
                                static_cast<std::size_t>(header_size));
  if (!header.starts_with('{')) throw FormatError(path, kLengthBytes, "its header does not begin with \"{\"");

  const Json json = core::parse_json(header, path);
  std::vector<DataExtent> extents;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object() ||
          !std::all_of(value.begin(), value.end(), [](const Json& entry) { return entry.is_string(); }))
        throw FormatError(path, "its __metadata__ is not an object of strings");
      continue;
    }
    Entry entry = parse_entry(path, name, value);
    const auto stored = tensors_.emplace(name, std::move(entry.tensor)).first;
    extents.push_back({entry.extent.begin, entry.extent.end, &stored->first});
  }
  check_tiling(path, extents, static_cast<std::int64_t>(data.size()));
  for (const DataExtent& extent : extents)
    tensors_.find(*extent.name)->second.bytes =
        data.subspan(static_cast<std::size_t>(extent.begin), static_cast<std::size_t>(extent.end - extent.begin));
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
  const auto entry = tensors_.find(name);
  return entry == tensors_.end() ? nullptr : &entry->second;
}

}  // namespace voronoi::model
