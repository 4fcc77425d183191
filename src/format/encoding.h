// A quantized linear as it is stored: the format that knows what it means, attributes and named arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"

namespace voronoi::format {

class Format;

/// A named array of raw little-endian elements: the currency between encodings and files.
struct NamedArray {
  std::string name;
  core::DType dtype = core::DType::u8;
  core::Shape shape;
  std::vector<std::byte> bytes;
  bool operator==(const NamedArray&) const = default;
};

/// Of any format. Nothing here is checked before find_problem() has looked at it.
struct Encoding {
  const Format* format = nullptr;  ///< null: none
  std::int64_t out_features = 0, in_features = 0;
  core::DType dtype = core::DType::f16;            ///< of its 16-bit numbers: f16 or bf16
  std::map<std::string, std::int64_t> attributes;  ///< further ones, as the format names them
  std::vector<NamedArray> arrays;                  ///< in the format's order, none empty
  bool operator==(const Encoding&) const = default;
};

/// What is wrong with the encoding: attributes, extents, arrays and their sizes, indices out of range, numbers that are
/// not finite. Empty: nothing.
std::string find_problem(const Encoding& encoding);

/// Dense weight [out, in] row-major, the same bits on every device. InternalError when the encoding has a problem or
/// weight another size.
void decode(const Encoding& encoding, std::span<float> weight);

/// All bits that are stored for the linear: its arrays, padding included.
std::int64_t stored_bits(const Encoding& encoding);
/// Index bits a weight alone, as papers quote.
double nominal_bits(const Encoding& encoding);

/// For files: everything but the arrays as text, the format's name under "encoding".
std::map<std::string, std::string> to_attributes(const Encoding& encoding);
/// Back from attributes (others are passed over) and arrays, of one of `formats`; checks everything and throws
/// FormatError naming `file`.
Encoding from_arrays(const std::map<std::string, std::string>& attributes, std::vector<NamedArray> arrays,
                     const std::string& file, std::span<const Format* const> formats);
/// Of one of known_formats().
Encoding from_arrays(const std::map<std::string, std::string>& attributes, std::vector<NamedArray> arrays,
                     const std::string& file);

}  // namespace voronoi::format
