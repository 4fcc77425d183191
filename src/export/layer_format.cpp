#include "export/layer_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "core/error.h"
#include "core/packing.h"
#include "export/stored_tensor.h"

namespace voronoi::exporting {
namespace {

using core::DType;
using core::FormatError;
using core::Json;
using core::Shape;
using format::VqEncoding;
using format::VqView;

enum class Kind { words, number, code };  // 32-bit words, 16-bit floats, 16-bit unsigned integers

/// The one list of tensors, for both directions: visit(suffix, name of the encoding's field, array, kind, shape).
template <class Encoding, class Visit>
void for_each_tensor(Encoding& e, bool norm, bool perm, const Visit& visit) {
  const std::int64_t v = e.vector_length;
  visit(".indices", "indices", e.indices, Kind::words, Shape{e.groups, e.vector_rows(), e.row_words()});
  visit(".centroids.weight", "codebook", e.codebook, Kind::number, Shape{e.groups, e.centroids * v});
  if (e.residual_centroids > 0)
    visit(".res_centroids.weight", "residual_codebook", e.residual_codebook, Kind::number,
          Shape{e.groups, e.residual_centroids * v});
  if (norm) {
    visit(".weight_scale", "scale", e.scale, Kind::number, Shape{e.in_features});
    visit(".weight_bias", "bias", e.bias, Kind::number, Shape{e.in_features});
  }
  if (perm) visit(".perm", "perm", e.perm, Kind::code, Shape{e.in_features});
  if (e.outlier_size > 0) {
    visit(".outlier_centroids.weight", "outlier_codebook", e.outlier_codebook, Kind::number,
          Shape{1, e.outlier_centroids * e.outlier_vector_length});
    visit(".outlier_indices", "outlier_indices", e.outlier_indices, Kind::code,
          Shape{1, e.outlier_vector_rows(), e.outlier_size});
  }
}

/// Typed look-ups in a layer's entry.
class Entry {
 public:
  Entry(const Json& json, const std::string& file, const std::string& where) : json_(json), file_(file), where_(where) {
    if (!json.is_object()) throw FormatError(file_, "key \"" + where_ + "\": is not an object");
  }
  [[noreturn]] void refuse(std::string_view key, const std::string& message) const {
    throw FormatError(file_, fmt::format("key \"{}.{}\": {}", where_, key, message));
  }
  const Json& at(std::string_view key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) refuse(key, "is missing");
    return *found;
  }
  std::int64_t integer(std::string_view key, const Json& value, std::int64_t low, std::int64_t high) const {
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || std::in_range<std::int64_t>(value.get<std::uint64_t>()));
    const std::int64_t number = fits ? value.get<std::int64_t>() : low - 1;
    if (number < low || number > high)
      refuse(key, fmt::format("is {}; an integer from {} to {} is wanted", core::quote_text(value.dump()), low, high));
    return number;
  }
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const {
    return integer(key, at(key), low, high);
  }
  void equal(std::string_view key, std::int64_t expected) const {
    if (at(key) != expected)
      refuse(key, fmt::format("is {}; the model's layer has {}", core::quote_text(at(key).dump()), expected));
  }
  bool boolean(std::string_view key) const {
    if (!at(key).is_boolean()) refuse(key, "is not true or false");
    return at(key).get<bool>();
  }
  bool boolean_or(std::string_view key, bool otherwise) const {
    return json_.find(key) == json_.end() ? otherwise : boolean(key);
  }
  /// [of the outliers, of the rest]; -1 stands for none.
  std::pair<std::int64_t, std::int64_t> pair(std::string_view key, std::int64_t most) const {
    const Json& value = at(key);
    if (!value.is_array() || value.size() != 2) refuse(key, "is not a list of two integers");
    return {integer(key, value[0], -1, most), integer(key, value[1], -1, most)};
  }

 private:
  const Json& json_;
  const std::string &file_, &where_;
};

constexpr std::int64_t kMaxVectorLength = 1 << 12, kMaxCodebook = 1 << 16;  // as find_problem() has them

/// A stored tensor of one of the given types and of the given shape.
const model::SafetensorsFolder::Stored& require_tensor(const model::SafetensorsFolder& folder, const std::string& name,
                                                       std::initializer_list<std::string_view> dtypes,
                                                       const Shape& shape) {
  return stored_tensor(folder, name, std::span(dtypes.begin(), dtypes.size()), shape);
}

Shape unpacked_shape(const VqEncoding& e) { return {e.groups, e.vector_rows(), e.group_size()}; }

/// Unpacked codes of one of the two index tensors, each below `limit`.
std::vector<std::uint32_t> read_codes(const model::SafetensorsFolder& folder, const std::string& name,
                                      const VqEncoding& e, std::int64_t limit) {
  const auto& stored = require_tensor(folder, name, {"I16", "U16"}, unpacked_shape(e));
  std::vector<std::uint16_t> narrow(stored.tensor->bytes.size() / sizeof(std::uint16_t));
  std::memcpy(narrow.data(), stored.tensor->bytes.data(), stored.tensor->bytes.size());
  for (std::size_t i = 0; i < narrow.size(); ++i)
    if (narrow[i] >= limit)
      throw FormatError(stored.file->path(),
                        fmt::format("tensor {}: index {} is {}, beyond the {} centroids", name, i, narrow[i], limit));
  return {narrow.begin(), narrow.end()};
}

void pack_indices(const model::SafetensorsFolder& folder, const std::string& linear, VqEncoding& e) {
  std::vector<std::uint32_t> codes = read_codes(folder, linear + ".indices", e, e.centroids);
  if (e.residual_centroids > 0) {
    const auto residual = read_codes(folder, linear + ".res_indices", e, e.residual_centroids);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] |= residual[i] << e.main_bits();
  }
  const auto width = static_cast<std::size_t>(e.group_size()), words = static_cast<std::size_t>(e.row_words());
  const std::size_t n_rows = codes.size() / width;
  e.indices.resize(n_rows * words);
  for (std::size_t row = 0; row < n_rows; ++row)
    core::pack_row(std::span(codes).subspan(row * width, width), e.main_bits() + e.residual_bits(),
                   std::span(e.indices).subspan(row * words, words));
}

/// Column orders of unpacked layers are stored in 64 bits.
void read_wide_perm(const model::SafetensorsFolder::Stored& stored, const std::string& name, VqEncoding& e) {
  e.perm.resize(static_cast<std::size_t>(e.in_features));
  for (std::size_t i = 0; i < e.perm.size(); ++i) {
    std::int64_t column;
    std::memcpy(&column, stored.tensor->bytes.data() + i * sizeof column, sizeof column);
    if (column < 0 || column >= e.in_features || column > 65535)
      throw FormatError(stored.file->path(),
                        fmt::format("tensor {}: entry {} is {}, no column of {}", name, i, column, e.in_features));
    e.perm[i] = static_cast<std::uint16_t>(column);
  }
}

}  // namespace

std::vector<LayerTensor> layer_tensors(const std::string& linear, const VqView& encoding) {
  std::vector<LayerTensor> tensors;
  for_each_tensor(encoding, true, !encoding.perm.empty(),
                  [&](const char* suffix, const char*, const auto& array, Kind kind, const Shape& shape) {
                    const std::string_view dtype = kind == Kind::words  ? "I32"
                                                   : kind == Kind::code ? "I16"
                                                                        : core::dtype_name(encoding.dtype);
                    tensors.push_back({linear + suffix, dtype, shape, std::as_bytes(std::span(array))});
                  });
  return tensors;
}

Json layer_entry(const VqView& e, bool has_bias) {
  const auto pair = [](std::int64_t outliers, std::int64_t rest) {
    Json list = Json::array();
    list.push_back(outliers);
    list.push_back(rest);
    return list;
  };
  const bool outliers = e.outlier_size > 0;
  return {{"in_features", e.in_features},
          {"out_features", e.out_features},
          {"bias", has_bias},
          {"vector_lens", pair(outliers ? e.outlier_vector_length : -1, e.vector_length)},
          {"num_centroids", pair(outliers ? e.outlier_centroids : -1, e.centroids)},
          {"num_res_centroids", pair(-1, e.residual_centroids > 0 ? e.residual_centroids : -1)},
          {"group_num", e.groups},
          {"group_size", e.group_size()},
          {"outlier_size", e.outlier_size},
          {"indices_as_float", false},
          {"enable_norm", true},
          {"enable_perm", !e.perm.empty()},
          {"is_indice_packed", true}};
}

LayerSettings parse_layer_entry(const Json& json, const model::LinearSpec& linear, const std::string& file,
                                const std::string& where) {
  const Entry entry(json, file, where);
  LayerSettings settings;
  VqEncoding& e = settings.extents;
  entry.equal("in_features", linear.in_features);
  entry.equal("out_features", linear.out_features);
  e.in_features = linear.in_features;
  e.out_features = linear.out_features;
  if (entry.boolean_or("bias", false) != linear.has_bias)
    entry.refuse("bias",
                 linear.has_bias ? "is false; the model's layer has a bias" : "is true; the model's layer has no bias");
  if (entry.boolean("indices_as_float")) entry.refuse("indices_as_float", "is true, which is not supported");
  settings.norm = entry.boolean("enable_norm");
  settings.perm = entry.boolean("enable_perm");
  settings.packed = entry.boolean_or("is_indice_packed", false);

  const auto [v0, v] = entry.pair("vector_lens", kMaxVectorLength);
  const auto [k0, k] = entry.pair("num_centroids", kMaxCodebook);
  const auto [no_residual, kr] = entry.pair("num_res_centroids", kMaxCodebook);
  if (v < 1) entry.refuse("vector_lens", fmt::format("gives length {} to the columns that are no outliers", v));
  if (k < 2) entry.refuse("num_centroids", fmt::format("gives {} to the columns that are no outliers", k));
  if (no_residual > 0) entry.refuse("num_res_centroids", "gives outliers a residual, which the format does not have");
  e.vector_length = v;
  e.centroids = k;
  e.residual_centroids = std::max<std::int64_t>(kr, 0);
  e.outlier_size = entry.integer("outlier_size", 0, e.in_features - 1);
  if (e.outlier_size > 0) {
    if (v0 < 1) entry.refuse("vector_lens", fmt::format("gives length {} to the {} outliers", v0, e.outlier_size));
    if (k0 < 1) entry.refuse("num_centroids", fmt::format("gives {} to the {} outliers", k0, e.outlier_size));
    e.outlier_vector_length = v0;
    e.outlier_centroids = k0;
  }
  e.groups = entry.integer("group_num", 1, e.in_features - e.outlier_size);
  if (e.group_size() * e.groups != e.in_features - e.outlier_size)
    entry.refuse("group_num", fmt::format("is {}, which does not divide the {} columns that are no outliers", e.groups,
                                          e.in_features - e.outlier_size));
  if (entry.at("group_size") != e.group_size())
    entry.refuse("group_size", fmt::format("is {}; {} columns in {} groups are {} each",
                                           core::quote_text(entry.at("group_size").dump()),
                                           e.in_features - e.outlier_size, e.groups, e.group_size()));
  if (const std::string problem = format::find_extent_problem(e); !problem.empty())
    throw FormatError(file, fmt::format("key \"{}\": {}", where, problem));
  return settings;
}

std::int64_t check_layer_tensors(const model::SafetensorsFolder& folder, const std::string& linear,
                                 LayerSettings& settings) {
  VqEncoding& e = settings.extents;
  std::size_t bytes = 0;
  std::string_view numbers;  // the layer's one floating type
  const auto count = [&](const auto& stored) { bytes += stored.tensor->bytes.size(); };
  for_each_tensor(e, settings.norm, settings.perm,
                  [&](const char* suffix, const char*, const auto&, Kind kind, const Shape& shape) {
                    const std::string name = linear + suffix;
                    if (kind == Kind::words) {
                      if (settings.packed)
                        count(require_tensor(folder, name, {"I32"}, shape));
                      else
                        count(require_tensor(folder, name, {"I16", "U16"}, unpacked_shape(e)));
                      return;
                    }
                    if (kind == Kind::code) {
                      const bool wide = !settings.packed && name.ends_with(".perm");
                      count(wide ? require_tensor(folder, name, {"I16", "U16", "I64"}, shape)
                                 : require_tensor(folder, name, {"I16", "U16"}, shape));
                      return;
                    }
                    const auto& stored = numbers.empty() ? require_tensor(folder, name, {"F16", "BF16"}, shape)
                                                         : require_tensor(folder, name, {numbers}, shape);
                    numbers = core::dtype_name(*stored.tensor->dtype);
                    e.dtype = *stored.tensor->dtype;
                    count(stored);
                  });
  if (!settings.packed && e.residual_centroids > 0)
    count(require_tensor(folder, linear + ".res_indices", {"I16", "U16"}, unpacked_shape(e)));
  return static_cast<std::int64_t>(8 * bytes);
}

std::vector<std::string> layer_tensor_names(const std::string& linear, const LayerSettings& settings) {
  std::vector<std::string> names;
  for_each_tensor(
      settings.extents, settings.norm, settings.perm,
      [&](const char* suffix, const char*, const auto&, Kind, const Shape&) { names.push_back(linear + suffix); });
  if (!settings.packed && settings.extents.residual_centroids > 0) names.push_back(linear + ".res_indices");
  return names;
}

VqEncoding read_layer(const model::SafetensorsFolder& folder, const std::string& linear,
                      const LayerSettings& settings) {
  VqEncoding e = settings.extents;
  std::vector<std::pair<std::string, std::string>> fields;  // field of the encoding, tensor
  for_each_tensor(e, settings.norm, settings.perm,
                  [&](const char* suffix, const char* field, auto& array, Kind kind, const Shape&) {
                    using Element = typename std::remove_reference_t<decltype(array)>::value_type;
                    const std::string name = linear + suffix;
                    fields.emplace_back(field, name);
                    if (kind == Kind::words && !settings.packed) return pack_indices(folder, linear, e);
                    const auto& stored = *folder.find(name);
                    if constexpr (std::is_same_v<Element, std::uint16_t>)
                      if (stored.tensor->dtype_name == "I64") return read_wide_perm(stored, name, e);
                    array.resize(stored.tensor->bytes.size() / sizeof(Element));
                    std::memcpy(array.data(), stored.tensor->bytes.data(), stored.tensor->bytes.size());
                  });
  folder.require_unchanged();
  if (!settings.norm) {
    e.scale.assign(static_cast<std::size_t>(e.in_features), core::to_bits16(e.dtype, 1.0F));
    e.bias.assign(static_cast<std::size_t>(e.in_features), 0);
  }
  if (const std::string problem = format::find_problem(e.view()); !problem.empty()) {
    for (const auto& [field, tensor] : fields)
      if (problem.starts_with(field + "[") || problem.starts_with(field + " "))
        throw FormatError(folder.find(tensor)->file->path(), "tensor " + tensor + ": " + problem);
    throw FormatError(folder.name(), linear + ": " + problem);
  }
  return e;
}

}  // namespace voronoi::exporting
