#include "model/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/stand_in.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::quote_text;

/// Types of metadata values, as numbered in the file.
enum class ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kMinEntryBytes = 8 + 4 + 1;           // empty key, type, one byte
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;  // empty name, one dimension, type, offset

/// Reads forward through the header; every length is compared with what is left before it is used.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t left() const { return bytes_.size() - position_; }
  [[noreturn]] void refuse(const std::string& message) const { throw FormatError(file_, position_, message); }

  template <class T>
  T number(const std::string& what) {
    if (left() < sizeof(T)) refuse("the file ends inside " + what);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }
  std::string_view string(const std::string& what) {
    const auto length = number<std::uint64_t>(what);
    if (length > left()) refuse(fmt::format("{} claims {} bytes, {} are left in the file", what, length, left()));
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_,
                                static_cast<std::size_t>(length));
    position_ += length;
    return text;
  }
  /// A number of things that take at least min_bytes each.
  std::size_t count(const std::string& what, std::uint64_t min_bytes) {
    const auto n = number<std::uint64_t>("the number of " + what);
    if (n > left() / min_bytes)
      refuse(fmt::format("claims {} {}, more than fit in the {} bytes that are left", n, what, left()));
    return static_cast<std::size_t>(n);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::uint64_t position_ = 0;
};

GgufValue::Content read_scalar(Cursor& cursor, ValueType type, const std::string& what) {
  switch (type) {
    case ValueType::u8:
      return std::uint64_t{cursor.number<std::uint8_t>(what)};
    case ValueType::i8:
      return std::int64_t{cursor.number<std::int8_t>(what)};
    case ValueType::u16:
      return std::uint64_t{cursor.number<std::uint16_t>(what)};
    case ValueType::i16:
      return std::int64_t{cursor.number<std::int16_t>(what)};
    case ValueType::u32:
      return std::uint64_t{cursor.number<std::uint32_t>(what)};
    case ValueType::i32:
      return std::int64_t{cursor.number<std::int32_t>(what)};
    case ValueType::u64:
      return cursor.number<std::uint64_t>(what);
    case ValueType::i64:
      return cursor.number<std::int64_t>(what);
    case ValueType::f32:
      return static_cast<double>(cursor.number<float>(what));
    case ValueType::f64:
      return cursor.number<double>(what);
    case ValueType::boolean: {
      const auto byte = cursor.number<std::uint8_t>(what);
      if (byte > 1) cursor.refuse(fmt::format("{} is a boolean of value {}", what, byte));
      return byte == 1;
    }
    case ValueType::string:
      return std::string(cursor.string(what));
    case ValueType::array:
      break;
  }
  cursor.refuse(fmt::format("{} has the unknown value type {}", what, static_cast<std::uint32_t>(type)));
}

template <class Stored, class Element>
std::vector<Element> read_numbers(Cursor& cursor, const std::string& what) {
  const std::size_t n = cursor.count("elements of " + what, sizeof(Stored));
  std::vector<Element> values(n);
  for (Element& value : values) {
    const Stored stored = cursor.number<Stored>(what);
    if constexpr (std::integral<Stored> && std::integral<Element>) {
      if (!std::in_range<Element>(stored)) cursor.refuse(what + " holds an integer above 2^63 - 1");
    }
    value = static_cast<Element>(stored);
  }
  return values;
}

GgufValue::Content read_array(Cursor& cursor, const std::string& what) {
  using Ints = std::int64_t;
  const auto type = static_cast<ValueType>(cursor.number<std::uint32_t>(what));
  switch (type) {
    case ValueType::u8:
      return read_numbers<std::uint8_t, Ints>(cursor, what);
    case ValueType::i8:
      return read_numbers<std::int8_t, Ints>(cursor, what);
    case ValueType::u16:
      return read_numbers<std::uint16_t, Ints>(cursor, what);
    case ValueType::i16:
      return read_numbers<std::int16_t, Ints>(cursor, what);
    case ValueType::u32:
      return read_numbers<std::uint32_t, Ints>(cursor, what);
    case ValueType::i32:
      return read_numbers<std::int32_t, Ints>(cursor, what);
    case ValueType::u64:
      return read_numbers<std::uint64_t, Ints>(cursor, what);
    case ValueType::i64:
      return read_numbers<std::int64_t, Ints>(cursor, what);
    case ValueType::boolean:
      return read_numbers<std::uint8_t, Ints>(cursor, what);
    case ValueType::f32:
      return read_numbers<float, float>(cursor, what);
    case ValueType::f64:
      return read_numbers<double, float>(cursor, what);
    case ValueType::string: {
      std::vector<std::string> values(cursor.count("elements of " + what, 8));
      for (std::string& value : values) value = cursor.string(what);
      return values;
    }
    case ValueType::array:
      cursor.refuse(what + " is an array of arrays, which is not supported");
  }
  cursor.refuse(fmt::format("{} is an array of the unknown value type {}", what, static_cast<std::uint32_t>(type)));
}

/// Elements and bytes of one block of each storage format (ggml-common.h of ggml-org/ggml).
struct TypeLayout {
  std::uint32_t number;
  std::string_view name;
  std::int64_t elements, bytes;
};
constexpr auto kLayouts = std::to_array<TypeLayout>({
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
});

const TypeLayout* layout_of(GgmlType type) {
  const auto* layout = std::find_if(kLayouts.begin(), kLayouts.end(),
                                    [&](const TypeLayout& l) { return l.number == static_cast<std::uint32_t>(type); });
  return layout == kLayouts.end() ? nullptr : layout;
}

/// Place of a tensor in the data part, before the start of that part is known.
struct Extent {
  std::uint64_t offset = 0, size = 0;
  std::size_t tensor = 0;
};

void check_version(Cursor& cursor) {
  const auto version = cursor.number<std::uint32_t>("the header");
  if (version == 2 || version == 3) return;
  const std::uint32_t swapped = __builtin_bswap32(version);
  if (swapped >= 1 && swapped <= 3)
    cursor.refuse(fmt::format("is a big-endian GGUF file (version {}); only little-endian ones are read", swapped));
  cursor.refuse(fmt::format("GGUF version {} is not supported; versions 2 and 3 are", version));
}

std::string read_key(Cursor& cursor) {
  const std::string_view key = cursor.string("a key");
  const bool printable = std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7F; });
  if (key.empty() || key.size() > kMaxKeyBytes || !printable)
    cursor.refuse("key " + quote_text(key) + " is empty, too long or not plain ASCII");
  return std::string(key);
}

GgufTensor read_tensor(Cursor& cursor, Extent& extent) {
  GgufTensor tensor;
  tensor.name = cursor.string("a tensor name");
  const std::string place = "tensor " + quote_text(tensor.name);
  const auto n_dimensions = cursor.number<std::uint32_t>(place);
  if (n_dimensions < 1 || n_dimensions > kMaxDimensions)
    cursor.refuse(fmt::format("{}: has {} dimensions; 1 to {} are possible", place, n_dimensions, kMaxDimensions));
  for (std::uint32_t d = 0; d < n_dimensions; ++d) {
    const auto size = cursor.number<std::uint64_t>(place);
    if (size == 0 || !std::in_range<std::int64_t>(size))
      cursor.refuse(fmt::format("{}: has a dimension of {}", place, size));
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
  }
  tensor.type = static_cast<GgmlType>(cursor.number<std::uint32_t>(place));
  const TypeLayout* layout = layout_of(tensor.type);
  if (layout == nullptr)
    cursor.refuse(fmt::format("{}: {} is unknown or was removed from the format", place, ggml_type_name(tensor.type)));
  if (tensor.shape.back() % layout->elements != 0)
    cursor.refuse(
        fmt::format("{}: rows of {} elements are no whole blocks of {} ({} elements each): the file is "
                    "damaged or was made wrongly; get it again or make it anew",
                    place, tensor.shape.back(), layout->name, layout->elements));
  const auto n = core::element_count(tensor.shape);
  const auto size = n ? core::checked_multiply(*n / layout->elements, layout->bytes) : std::nullopt;
  if (!size) cursor.refuse(place + ": shape " + core::to_string(tensor.shape) + " is too large");
  extent.offset = cursor.number<std::uint64_t>(place);
  extent.size = static_cast<std::uint64_t>(*size);
  return tensor;
}

}  // namespace

GgufFile::GgufFile(const std::string& path) : file_(path) {
  const auto bytes = file_.bytes();
  core::refuse_stand_in({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0)
    throw FormatError(path, 0, "is no GGUF file: it does not begin with \"GGUF\"");
  Cursor cursor(bytes, file_.path());
  cursor.number<std::uint32_t>("the magic");
  check_version(cursor);
  // Both counts stand before the keys; the tensors' is checked again after them, against what is then left.
  const std::size_t n_tensors = cursor.count("tensors", kMinTensorBytes);
  const std::size_t n_keys = cursor.count("keys", kMinEntryBytes);
  for (std::size_t i = 0; i < n_keys; ++i) {
    const std::string key = read_key(cursor);
    const std::string what = "key \"" + key + "\"";
    const auto type = static_cast<ValueType>(cursor.number<std::uint32_t>(what));
    GgufValue::Content content = type == ValueType::array ? read_array(cursor, what) : read_scalar(cursor, type, what);
    if (!values_.try_emplace(key, path, key, std::move(content)).second) cursor.refuse(what + " stands twice");
  }

  if (n_tensors > cursor.left() / kMinTensorBytes)
    cursor.refuse(
        fmt::format("claims {} tensors, more than fit in the {} bytes that are left", n_tensors, cursor.left()));
  std::vector<Extent> extents(n_tensors);
  tensors_.reserve(n_tensors);
  for (std::size_t i = 0; i < n_tensors; ++i) {
    extents[i].tensor = i;
    tensors_.push_back(read_tensor(cursor, extents[i]));
    if (!tensor_index_.try_emplace(tensors_.back().name, i).second)
      cursor.refuse("tensor " + quote_text(tensors_.back().name) + " stands twice");
  }

  const GgufValue* stated = find("general.alignment");
  const std::uint64_t alignment = stated != nullptr ? stated->as_u64() : 32;
  if (!std::has_single_bit(alignment) || alignment > std::numeric_limits<std::uint32_t>::max())
    throw FormatError(path, fmt::format("key \"general.alignment\": is {}; a power of two is wanted", alignment));
  const std::uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
  data_start_ = static_cast<std::size_t>(std::min<std::uint64_t>(start, bytes.size()));
  if (n_tensors > 0 && start > bytes.size())
    throw FormatError(path, fmt::format("tensor {}: the data begin at byte {} (alignment {}), the file ends at {}",
                                        quote_text(tensors_.front().name), start, alignment, bytes.size()));

  const std::uint64_t data_size = bytes.size() - data_start_;
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.offset, a.tensor) < std::pair(b.offset, b.tensor);
  });
  std::uint64_t end = 0;
  for (const Extent& extent : extents) {
    GgufTensor& tensor = tensors_[extent.tensor];
    const std::string place = "tensor " + quote_text(tensor.name);
    if (extent.offset % alignment != 0)
      throw FormatError(
          path, fmt::format("{}: its offset {} is no multiple of the alignment {}", place, extent.offset, alignment));
    if (extent.offset > data_size || extent.size > data_size - extent.offset)
      throw FormatError(path, fmt::format("{}: {} bytes at offset {} of the data, but the file holds {} bytes of data: "
                                          "it is truncated or the offset is wrong; get the file again",
                                          place, extent.size, extent.offset, data_size));
    if (extent.offset < end)
      throw FormatError(path, fmt::format("{}: its data at offset {} overlap those of another tensor, which end at {}",
                                          place, extent.offset, end));
    end = extent.offset + extent.size;
    tensor.bytes =
        bytes.subspan(data_start_ + static_cast<std::size_t>(extent.offset), static_cast<std::size_t>(extent.size));
  }
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto entry = values_.find(key);
  return entry == values_.end() ? nullptr : &entry->second;
}

const GgufValue& GgufFile::at(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) throw FormatError(path(), "key \"" + std::string(key) + "\" is missing");
  return *value;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto entry = tensor_index_.find(name);
  return entry == tensor_index_.end() ? nullptr : &tensors_[entry->second];
}

void GgufValue::refuse(std::string_view wanted) const {
  static constexpr std::array<std::string_view, 8> kNames{
      "a boolean", "an integer",           "an unsigned integer", "a float",
      "a string",  "an array of integers", "an array of floats",  "an array of strings"};
  throw FormatError(file_, fmt::format("key \"{}\": is {}; {} is wanted", key_, kNames[content_.index()], wanted));
}

const std::string& GgufValue::as_string() const {
  if (const auto* value = std::get_if<std::string>(&content_)) return *value;
  refuse("a string");
}

std::uint64_t GgufValue::as_u64() const {
  if (const auto* value = std::get_if<std::uint64_t>(&content_)) return *value;
  if (const auto* value = std::get_if<std::int64_t>(&content_); value != nullptr && *value >= 0)
    return static_cast<std::uint64_t>(*value);
  refuse("an integer of at least 0");
}

std::int64_t GgufValue::as_i64() const {
  if (const auto* value = std::get_if<std::int64_t>(&content_)) return *value;
  if (const auto* value = std::get_if<std::uint64_t>(&content_);
      value != nullptr && std::in_range<std::int64_t>(*value))
    return static_cast<std::int64_t>(*value);
  refuse("an integer below 2^63");
}

double GgufValue::as_f64() const {
  if (const auto* value = std::get_if<double>(&content_)) return *value;
  refuse("a float");
}

bool GgufValue::as_bool() const {
  if (const auto* value = std::get_if<bool>(&content_)) return *value;
  refuse("a boolean");
}

const std::vector<std::string>& GgufValue::as_strings() const {
  if (const auto* value = std::get_if<std::vector<std::string>>(&content_)) return *value;
  refuse("an array of strings");
}

const std::vector<float>& GgufValue::as_floats() const {
  if (const auto* value = std::get_if<std::vector<float>>(&content_)) return *value;
  refuse("an array of floats");
}

const std::vector<std::int64_t>& GgufValue::as_ints() const {
  if (const auto* value = std::get_if<std::vector<std::int64_t>>(&content_)) return *value;
  refuse("an array of integers");
}

bool is_gguf_file(const std::filesystem::path& path) {
  if (path.extension() == ".gguf") return true;
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  return file.read(magic, 4) && std::string_view(magic, 4) == "GGUF";
}

std::string ggml_type_name(GgmlType type) {
  const TypeLayout* layout = layout_of(type);
  return layout != nullptr ? std::string(layout->name) : fmt::format("type {}", static_cast<std::uint32_t>(type));
}

std::int64_t ggml_block_elements(GgmlType type) {
  const TypeLayout* layout = layout_of(type);
  VORONOI_REQUIRE(layout != nullptr, ggml_type_name(type));
  return layout->elements;
}

std::int64_t ggml_block_bytes(GgmlType type) {
  const TypeLayout* layout = layout_of(type);
  VORONOI_REQUIRE(layout != nullptr, ggml_type_name(type));
  return layout->bytes;
}

}  // namespace voronoi::model
