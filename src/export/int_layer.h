// A linear in uniform codes as public layouts of integers store it: codes in natural column order, a scale and a zero a
// row and group, and which group a column is of. What the layouts share; each has its own way of packing it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
#include "export/layout.h"
#include "format/uniform.h"
#include "quant/method.h"

namespace voronoi::exporting {

struct IntShape {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 0;                 ///< 1..8
  std::int64_t group_size = 0;  ///< columns a group; the last may be shorter
  core::DType dtype = core::DType::f16;
  std::int64_t n_groups() const { return core::ceil_div(in_features, group_size); }
};

struct IntLayer : IntShape {
  std::vector<std::uint8_t> codes;     ///< [out, in], w = scale (code - zero)
  std::vector<std::uint8_t> zeros;     ///< [out, n_groups], below 2^bits
  std::vector<std::uint16_t> scale;    ///< [out, n_groups], bits of dtype
  std::vector<std::int32_t> group_of;  ///< [in]; empty: column j is of group j / group_size
};

/// Of an encoding of uniform_format() with at most 8 bits and without scales of columns.
IntShape int_shape(const format::UniformView& fields);
IntLayer int_layer(const format::UniformView& fields);

/// A tensor of a layer as it is stored: a reader takes these types; a writer stores the type of the layer's scales
/// where there are several.
struct IntTensor {
  std::string name;
  std::span<const std::string_view> dtypes;
  core::Shape shape;
};
inline constexpr std::array<std::string_view, 1> kInt32{"I32"}, kInt64{"I64"};
inline constexpr std::array<std::string_view, 2> kHalves{"F16", "BF16"};

/// What a writer will store; `dtype` is that of the scales.
std::vector<TensorPlan> planned(const std::vector<IntTensor>& tensors, core::DType dtype);
/// The same with data, one after the other.
std::vector<LayerTensor> filled(const std::vector<TensorPlan>& plan, std::vector<std::vector<std::byte>> data);

/// Back: a column order is stored where the columns of a group are no neighbours. Throws FormatError naming `place`
/// when group_of names no group, or one has another number of columns than group_size.
format::UniformEncoding uniform_encoding(const IntLayer& layer, const std::string& place);

/// values [rows, columns] -> [columns, rows].
std::vector<std::uint8_t> transposed(std::span<const std::uint8_t> values, std::int64_t rows, std::int64_t columns);

/// Each row of values [rows, columns] as packed words (core/packing.h): [rows, packed_words(columns, bits)].
std::vector<std::uint32_t> pack_rows(std::span<const std::uint8_t> values, std::int64_t rows, std::int64_t columns,
                                     int bits);
/// Back; words may have more than one row needs.
std::vector<std::uint8_t> unpack_rows(std::span<const std::uint32_t> words, std::int64_t rows, std::int64_t columns,
                                      int bits);

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

/// A tensor of a hostile file, of this type and shape: its elements. Throws FormatError naming file and tensor.
std::vector<std::uint32_t> read_words(const model::SafetensorsFolder& folder, const std::string& name,
                                      const core::Shape& shape);
/// Scales [shape]: F16 or BF16, all finite; `dtype` is set to what they are.
std::vector<std::uint16_t> read_scales(const model::SafetensorsFolder& folder, const std::string& name,
                                       const core::Shape& shape, core::DType& dtype);
/// Only looks at the header; returns the bytes.
std::int64_t require_stored(const model::SafetensorsFolder& folder, const std::string& name,
                            std::span<const std::string_view> dtypes, const core::Shape& shape);

/// What layouts of integers have in common: their layers are of uniform_format(), of at most 8 bits.
class IntLayout : public Layout {
 public:
  bool holds(const quant::QuantParameters& parameters) const override;
  bool holds(const format::Encoding& encoding) const override;
  std::vector<std::string> check(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                 Profile profile) const override;
  std::vector<std::string> check(const format::Encoding& encoding, Profile profile) const override;

 protected:
  /// What speaks against layers of this setting; of their shapes, where any are given.
  virtual std::vector<std::string> problems(const quant::UniformLayout& setting,
                                            std::span<const LayerShape> shapes) const = 0;
};

}  // namespace voronoi::exporting
