#include "export/int_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"
#include "export/stored_tensor.h"

namespace voronoi::exporting {

using core::FormatError;
using core::index;

IntShape int_shape(const format::UniformView& e) {
  VORONOI_REQUIRE(e.bits <= 8, "layouts of integers have bytes at most");
  return {e.out_features, e.in_features, static_cast<int>(e.bits), std::min(e.group_size, e.in_features), e.dtype};
}

std::vector<TensorPlan> planned(const std::vector<IntTensor>& tensors, core::DType dtype) {
  std::vector<TensorPlan> plan;
  for (const IntTensor& tensor : tensors) {
    const std::string_view type = tensor.dtypes.size() > 1 ? core::dtype_name(dtype) : tensor.dtypes.front();
    const std::int64_t width = type == kInt64.front() ? 8 : type == kInt32.front() ? 4 : 2;
    plan.push_back({tensor.name, std::string(type), tensor.shape, width * core::element_count(tensor.shape).value()});
  }
  return plan;
}

std::vector<LayerTensor> filled(const std::vector<TensorPlan>& plan, std::vector<std::vector<std::byte>> data) {
  VORONOI_REQUIRE(plan.size() == data.size(), "other tensors than were planned");
  std::vector<LayerTensor> tensors;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    VORONOI_REQUIRE(std::ssize(data[i]) == plan[i].size_bytes, plan[i].name + ": has another size than was planned");
    tensors.emplace_back(plan[i].name, plan[i].dtype, plan[i].shape, std::move(data[i]));
  }
  return tensors;
}

IntLayer int_layer(const format::UniformView& e) {
  VORONOI_REQUIRE(e.column_scale.empty(), "layouts of integers have no scales of columns");
  IntLayer layer{int_shape(e), {}, {}, {}, {}};
  layer.scale.assign(e.scale.begin(), e.scale.end());
  layer.zeros = unpack_rows(e.zeros, e.out_features, layer.n_groups(), layer.bits);
  layer.codes = unpack_rows(e.codes, e.out_features, e.in_features, layer.bits);
  if (e.perm.empty()) return layer;
  layer.group_of.resize(index(e.in_features));
  for (std::int64_t p = 0; p < e.in_features; ++p)
    layer.group_of[e.perm[index(p)]] = static_cast<std::int32_t>(p / layer.group_size);
  std::vector<std::uint8_t> row(index(e.in_features));
  for (std::int64_t r = 0; r < e.out_features; ++r) {
    std::uint8_t* codes = layer.codes.data() + r * e.in_features;
    for (std::int64_t p = 0; p < e.in_features; ++p) row[e.perm[index(p)]] = codes[p];
    std::copy(row.begin(), row.end(), codes);
  }
  return layer;
}

format::UniformEncoding uniform_encoding(const IntLayer& layer, const std::string& place) {
  format::UniformEncoding e;
  e.out_features = layer.out_features;
  e.in_features = layer.in_features;
  e.bits = layer.bits;
  e.group_size = layer.group_size;
  e.dtype = layer.dtype;
  e.scale = layer.scale;
  e.zeros = pack_rows(layer.zeros, layer.out_features, layer.n_groups(), layer.bits);
  std::vector<std::uint16_t> order;
  if (!layer.group_of.empty()) {
    std::vector<std::int64_t> filled(index(layer.n_groups()), 0);
    for (std::size_t j = 0; j < layer.group_of.size(); ++j) {
      const std::int32_t group = layer.group_of[j];
      if (group < 0 || group >= layer.n_groups())
        throw FormatError(place, fmt::format("column {} is of group {}, there are {}", j, group, layer.n_groups()));
      ++filled[index(group)];
    }
    for (std::int64_t g = 0; g < layer.n_groups(); ++g) {
      const std::int64_t due = std::min(layer.group_size, layer.in_features - g * layer.group_size);
      if (filled[index(g)] != due)
        throw FormatError(place, fmt::format("group {} has {} columns; {} are due", g, filled[index(g)], due));
    }
    if (!std::is_sorted(layer.group_of.begin(), layer.group_of.end())) {
      if (layer.in_features > 65536)
        throw FormatError(place, "has a column order of more columns than 16 bits can number");
      order.resize(index(layer.in_features));
      std::iota(order.begin(), order.end(), std::uint16_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](std::uint16_t a, std::uint16_t b) { return layer.group_of[a] < layer.group_of[b]; });
    }
  }
  if (order.empty()) {
    e.codes = pack_rows(layer.codes, layer.out_features, layer.in_features, layer.bits);
  } else {
    std::vector<std::uint8_t> codes(layer.codes.size());
    for (std::int64_t r = 0; r < layer.out_features; ++r)
      for (std::int64_t p = 0; p < layer.in_features; ++p)
        codes[index(r * layer.in_features + p)] = layer.codes[index(r * layer.in_features + order[index(p)])];
    e.codes = pack_rows(codes, layer.out_features, layer.in_features, layer.bits);
    e.perm = std::move(order);
  }
  return e;
}

std::vector<std::uint8_t> transposed(std::span<const std::uint8_t> values, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kTile = 64;
  std::vector<std::uint8_t> out(values.size());
  for (std::int64_t row = 0; row < rows; row += kTile)
    for (std::int64_t column = 0; column < columns; column += kTile)
      for (std::int64_t r = row; r < std::min(rows, row + kTile); ++r)
        for (std::int64_t c = column; c < std::min(columns, column + kTile); ++c)
          out[index(c * rows + r)] = values[index(r * columns + c)];
  return out;
}

std::vector<std::uint32_t> pack_rows(std::span<const std::uint8_t> values, std::int64_t rows, std::int64_t columns,
                                     int bits) {
  const std::int64_t n_words = core::packed_words(columns, bits);
  std::vector<std::uint32_t> words(index(rows * n_words)), row(index(columns));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * columns, columns, row.begin());
    core::pack_row(row, bits, std::span(words).subspan(index(r * n_words), index(n_words)));
  }
  return words;
}

std::vector<std::uint8_t> unpack_rows(std::span<const std::uint32_t> words, std::int64_t rows, std::int64_t columns,
                                      int bits) {
  const std::int64_t n_words = std::ssize(words) / std::max<std::int64_t>(rows, 1);
  std::vector<std::uint8_t> values(index(rows * columns));
  std::vector<std::uint32_t> row(index(columns));
  for (std::int64_t r = 0; r < rows; ++r) {
    core::unpack_row(words.subspan(index(r * n_words), index(n_words)), bits, row);
    std::transform(row.begin(), row.end(), values.begin() + r * columns,
                   [](std::uint32_t value) { return static_cast<std::uint8_t>(value); });
  }
  return values;
}

std::vector<std::uint32_t> read_words(const model::SafetensorsFolder& folder, const std::string& name,
                                      const core::Shape& shape) {
  return elements<std::uint32_t>(stored_tensor(folder, name, kInt32, shape));
}

std::vector<std::uint16_t> read_scales(const model::SafetensorsFolder& folder, const std::string& name,
                                       const core::Shape& shape, core::DType& dtype) {
  const auto& stored = stored_tensor(folder, name, kHalves, shape);
  dtype = *stored.tensor->dtype;
  std::vector<std::uint16_t> scales = elements<std::uint16_t>(stored);
  for (std::size_t i = 0; i < scales.size(); ++i)
    if (!std::isfinite(core::from_bits16(dtype, scales[i])))
      throw FormatError(stored.file->path(), fmt::format("tensor {}: element {} is not finite", name, i));
  return scales;
}

std::int64_t require_stored(const model::SafetensorsFolder& folder, const std::string& name,
                            std::span<const std::string_view> dtypes, const core::Shape& shape) {
  return std::ssize(stored_tensor(folder, name, dtypes, shape).tensor->bytes);
}

namespace {

std::optional<quant::UniformLayout> setting_of(const format::Encoding& encoding) {
  if (encoding.format != &format::uniform_format()) return std::nullopt;
  const format::UniformView e = format::uniform_view(encoding);
  return quant::UniformLayout{e.bits, e.group_size >= e.in_features ? 0 : e.group_size, !e.perm.empty()};
}

constexpr int kMostBits = 8;

}  // namespace

bool IntLayout::holds(const quant::QuantParameters& parameters) const {
  return quant::find_method(parameters.method).uniform_layout(parameters).has_value();
}

bool IntLayout::holds(const format::Encoding& encoding) const { return setting_of(encoding).has_value(); }

std::vector<std::string> IntLayout::check(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                          Profile /*profile*/) const {
  const auto setting = quant::find_method(parameters.method).uniform_layout(parameters);
  if (!setting)
    return {
        fmt::format("export: --method {}: {} holds integers with a scale a group only", parameters.method, title())};
  std::vector<std::string> found = problems(*setting, shapes);
  if (setting->scaled_everywhere)
    found.push_back(
        fmt::format("export: --column-scales all: {} has no place for those that fold into nothing before; "
                    "--column-scales foldable makes none of them",
                    title()));
  return found;
}

std::vector<std::string> IntLayout::check(const format::Encoding& encoding, Profile /*profile*/) const {
  const auto setting = setting_of(encoding);
  if (!setting || setting->bits > kMostBits)
    return {fmt::format("export: a layer that is none of integers of at most {} bits: {} holds no others", kMostBits,
                        title())};
  const LayerShape shape{encoding.out_features, encoding.in_features};
  return problems(*setting, std::span(&shape, 1));
}

}  // namespace voronoi::exporting
