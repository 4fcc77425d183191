// GGUF files (version 2 and 3, little-endian): header, metadata, tensor directory and dequantization. Layout after the
// specification in docs/gguf.md of ggml-org/ggml. The file counts as hostile: everything is checked when it is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/mapped_file.h"
#include "core/types.h"

namespace voronoi::model {

/// Storage formats of ggml, as numbered in the file. Blocks of the types named here can be dequantized; others are
/// listed (their sizes are known), but reading them is refused.
enum class GgmlType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
  mxfp4 = 39
};

/// One metadata value. The accessors throw FormatError naming file, key, the type found and the type wanted.
class GgufValue {
 public:
  /// Booleans in arrays are 0 and 1; arrays of any integer type are widened to 64 bits, arrays of F64 narrowed to
  /// float.
  using Content = std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<std::int64_t>,
                               std::vector<float>, std::vector<std::string>>;
  GgufValue(std::string file, std::string key, Content content)
      : file_(std::move(file)), key_(std::move(key)), content_(std::move(content)) {}

  /// Bytes as stored: not necessarily UTF-8.
  const std::string& as_string() const;
  /// Any integer type, when the value fits.
  std::uint64_t as_u64() const;
  std::int64_t as_i64() const;
  /// F32 or F64 (an integer is refused).
  double as_f64() const;
  bool as_bool() const;
  const std::vector<std::string>& as_strings() const;
  const std::vector<float>& as_floats() const;
  const std::vector<std::int64_t>& as_ints() const;
  bool is_array() const { return content_.index() >= 5; }

 private:
  [[noreturn]] void refuse(std::string_view wanted) const;
  std::string file_, key_;
  Content content_;
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  core::Shape shape;  ///< row-major, outermost first: the reverse of the order in the file
  std::span<const std::byte> bytes;
};

class GgufFile {
 public:
  /// Maps the file and checks its whole header; no tensor data is read. Throws StoreError / FormatError.
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  /// nullptr when the key is absent.
  const GgufValue* find(std::string_view key) const;
  /// Throws FormatError naming the key when it is absent.
  const GgufValue& at(std::string_view key) const;
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }
  /// In the order of the file.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(std::string_view name) const;
  /// The whole file, and the part before the tensor data.
  std::span<const std::byte> bytes() const { return file_.bytes(); }
  /// After tensor data was read, before it counts: see core::MappedFile.
  void require_unchanged() const { file_.require_unchanged(); }
  std::span<const std::byte> header_bytes() const { return file_.bytes().first(data_start_); }

 private:
  core::MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> tensor_index_;
  std::size_t data_start_ = 0;
};

/// By its name or its first bytes: files in a cache have no ending.
bool is_gguf_file(const std::filesystem::path& path);

/// "Q4_1"; "type 999" for a number without a name.
std::string ggml_type_name(GgmlType type);
/// Elements and bytes of one block; rows are whole blocks.
std::int64_t ggml_block_elements(GgmlType type);
std::int64_t ggml_block_bytes(GgmlType type);
/// False for F32, F16 and BF16.
bool is_quantized(GgmlType type);
bool can_dequantize(GgmlType type);
/// "F32, F16, BF16, Q4_0, ...": those that can be dequantized, for messages.
std::string readable_ggml_types();

/// The elements of whole blocks as floats, in fp32 and in ggml's own order of operations, so that they are its bits;
/// `bytes` holds exactly their blocks.
void dequantize(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace voronoi::model
