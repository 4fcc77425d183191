#include "export/grouped_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"

namespace voronoi::exporting {

using core::FormatError;
using core::index;

namespace {

constexpr const char *kQWeight = ".qweight", *kQZeros = ".qzeros", *kScales = ".scales", *kGIdx = ".g_idx";

/// scale [out, n_groups] <-> [n_groups, out].
std::vector<std::uint16_t> turned(const std::vector<std::uint16_t>& scale, std::int64_t rows, std::int64_t columns) {
  std::vector<std::uint16_t> out(scale.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) out[index(c * rows + r)] = scale[index(r * columns + c)];
  return out;
}

}  // namespace

std::vector<IntTensor> grouped_tensors(const GroupedArrays& arrays, const std::string& linear, const IntShape& layer) {
  std::vector<IntTensor> tensors{
      {linear + kQWeight, kInt32, arrays.codes_shape(layer)},
      {linear + kQZeros, kInt32, {layer.n_groups(), core::packed_words(layer.out_features, layer.bits)}}};
  if (arrays.stores_groups) tensors.push_back({linear + kGIdx, kInt32, {layer.in_features}});
  tensors.push_back({linear + kScales, kHalves, {layer.n_groups(), layer.out_features}});
  return tensors;
}

std::vector<std::string> GroupedWriter::check(const model::LinearSpec& /*linear*/,
                                              const format::Encoding& encoding) const {
  std::vector<std::string> reasons = layout_.check(encoding, Profile::safe);
  if (!reasons.empty()) return reasons;
  const format::UniformView e = format::uniform_view(encoding);
  if (e.out_features % row_multiple_ != 0 || e.in_features % column_multiple_ != 0)
    reasons.push_back(fmt::format("export: a layer of {} x {}: {} wants multiples of {} x {} at {} bits",
                                  e.out_features, e.in_features, layout_.title(), row_multiple_, column_multiple_,
                                  e.bits));
  return reasons;
}

core::Json GroupedWriter::facts(const model::LinearSpec& /*linear*/, const format::Encoding& encoding) const {
  const format::UniformView e = format::uniform_view(encoding);
  core::Json facts{
      {"bits", e.bits}, {"group_size", e.group_size >= e.in_features ? 0 : e.group_size}, {"ordered", !e.perm.empty()}};
  add_facts(e, facts);
  return facts;
}

std::vector<std::string> GroupedWriter::take(const model::LinearSpec& /*linear*/, const core::Json& facts) {
  const std::int64_t bits = facts.at("bits"), group_size = facts.at("group_size");
  if (bits_ == 0) {
    bits_ = bits;
    group_size_ = group_size;
  }
  if (bits_ != bits || group_size_ != group_size)
    return {
        fmt::format("export: linears of {} bits in groups of {} beside others of {} and {}: {} has one setting for "
                    "all",
                    bits_, group_size_, bits, group_size, layout_.title())};
  ordered_ = ordered_ || facts.at("ordered").get<bool>();
  note(facts);
  return {};
}

std::vector<TensorPlan> GroupedWriter::plan(const std::string& linear, const format::Encoding& encoding) const {
  const IntShape layer = int_shape(format::uniform_view(encoding));
  return planned(grouped_tensors(arrays_, linear, layer), layer.dtype);
}

std::vector<LayerTensor> GroupedWriter::tensors(const std::string& linear, const format::Encoding& encoding) const {
  const IntLayer layer = int_layer(format::uniform_view(encoding));
  std::vector<std::vector<std::byte>> data{bytes_of(packed_codes(layer)), bytes_of(packed_zeros(layer))};
  if (arrays_.stores_groups) {
    std::vector<std::int32_t> group_of = layer.group_of;
    for (std::int64_t j = 0; group_of.size() < index(layer.in_features); ++j)
      group_of.push_back(static_cast<std::int32_t>(j / layer.group_size));
    data.push_back(bytes_of(group_of));
  }
  data.push_back(bytes_of(turned(layer.scale, layer.out_features, layer.n_groups())));
  return filled(plan(linear, encoding), std::move(data));
}

GroupedReader::GroupedReader(const LayerSource& source, const GroupedArrays& arrays, std::int64_t least_bits,
                             std::int64_t most_bits, std::set<std::string> excluded)
    : source_(source),
      arrays_(arrays),
      excluded_(std::move(excluded)),
      bits_(static_cast<int>(number_of(source, source.quantization, "bits", least_bits, most_bits))),
      group_size_(number_of(source, source.quantization, "group_size", -1, std::int64_t{1} << 30)) {
  if (group_size_ == 0) throw FormatError(source.config_file, "key \"quantization_config.group_size\": is 0");
}

std::optional<LayerReader::Stored> GroupedReader::open(const model::LinearSpec& linear) {
  if (std::any_of(excluded_.begin(), excluded_.end(),
                  [&](const std::string& part) { return linear.name.find(part) != std::string::npos; }))
    return std::nullopt;
  const IntShape layer{linear.out_features, linear.in_features, bits_,
                       group_size_ < 0 ? linear.in_features : std::min(group_size_, linear.in_features)};
  std::int64_t bytes = 0;
  for (const IntTensor& tensor : grouped_tensors(arrays_, linear.name, layer))
    bytes += require_stored(source_.folder, tensor.name, tensor.dtypes, tensor.shape);
  layers_.emplace(linear.name, layer);
  return Stored{8 * bytes, static_cast<double>(bits_)};
}

format::Encoding GroupedReader::read(const std::string& linear) const {
  IntLayer layer{layers_.at(linear), {}, {}, {}, {}};
  const std::int64_t out = layer.out_features, groups = layer.n_groups();
  const std::string place = source_.folder.find(linear + kQWeight)->file->path() + ": " + linear;
  layer.codes = codes(read_words(source_.folder, linear + kQWeight, arrays_.codes_shape(layer)), layer);
  layer.zeros =
      zeros(read_words(source_.folder, linear + kQZeros, {groups, core::packed_words(out, bits_)}), layer, place);
  layer.scale = turned(read_scales(source_.folder, linear + kScales, {groups, out}, layer.dtype), groups, out);
  if (arrays_.stores_groups) {
    const auto group_of = read_words(source_.folder, linear + kGIdx, {layer.in_features});
    layer.group_of.assign(group_of.begin(), group_of.end());
  }
  source_.folder.require_unchanged();
  return format::to_encoding(uniform_encoding(layer, place));
}

std::vector<std::string> GroupedReader::tensor_names(const std::string& linear) const {
  std::vector<std::string> names;
  for (const IntTensor& tensor : grouped_tensors(arrays_, linear, layers_.at(linear))) names.push_back(tensor.name);
  return names;
}

core::Json GroupedReader::description(const std::string& linear) const {
  const IntShape& layer = layers_.at(linear);
  return {{"name", linear},
          {"shape", {layer.out_features, layer.in_features}},
          {"bits", bits_},
          {"group_size", group_size_ < 0 ? 0 : group_size_}};
}

}  // namespace voronoi::exporting
