#include "run/layer_store.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/work_counts.h"
#include "model/weight_data.h"
#include "store/shard.h"

namespace voronoi::run {
namespace {

constexpr std::string_view kLayerKind = "voronoi quantized linear, version 1";
constexpr std::string_view kTensorKind = "voronoi tensor, version 1";
constexpr std::string_view kHessianKind = "voronoi hessian, version 1";

/// Around a linear's name, of its guided Hessian; and what follows the name, with two digits, of a group behind the
/// first.
constexpr std::string_view kGuided = "guided.", kEffectiveTokens = ".effective_tokens", kRowGroup = ".rows_";
/// Ends the name of an array that is a whole matrix.
constexpr std::string_view kCross = "cross";

void require_kind(const store::Shard& shard, std::string_view kind, const std::string& file) {
  const auto found = shard.attributes.find("kind");
  if (found == shard.attributes.end() || found->second != kind)
    throw core::FormatError(file, fmt::format("is not a file of kind '{}'", kind));
}

[[noreturn]] void refuse_unjournalled(const std::string& file) {
  throw core::FormatError(
      file, "is not the file that was journalled (checksum); run the quantize command again, it will be made again");
}

store::Shard read_journalled(const std::string& file, const std::string& sha256) {
  std::optional<store::Shard> shard = store::read_shard_if(file, sha256);
  if (!shard) refuse_unjournalled(file);
  return std::move(*shard);
}

/// Of its arrays.
std::int64_t array_bytes(const store::Shard& shard) {
  std::int64_t size_bytes = 0;
  for (const store::ShardArray& array : shard.arrays) size_bytes += std::ssize(array.bytes);
  return size_bytes;
}

/// One file of layers/, of this kind and name. sha256: empty, or what was journalled of it.
store::Shard read_named(const std::string& file, std::string_view kind, const std::string& name,
                        const std::string& sha256 = "") {
  store::Shard shard = sha256.empty() ? store::read_shard(file, store::Sums::file) : read_journalled(file, sha256);
  core::count_work(core::Counted::layer_bytes_read, array_bytes(shard));
  require_kind(shard, kind, file);
  if (shard.attributes["name"] != name)
    throw core::FormatError(file, fmt::format("holds '{}' instead of '{}'", shard.attributes["name"], name));
  return shard;
}

/// A finite number from 0 on.
template <class T>
T number_attribute(const std::string& name, const std::string& text, const std::string& file) {
  T value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0) ||
      !std::isfinite(static_cast<double>(value)))
    throw core::FormatError(
        file, fmt::format("attribute {} is {}; a number from 0 on is wanted", name, core::quote_text(text)));
  return value;
}

/// A decimal number from 0 on; 0 when the attribute is absent.
std::int64_t count_attribute(const store::Shard& shard, const std::string& name, const std::string& file) {
  const auto found = shard.attributes.find(name);
  if (found == shard.attributes.end()) return 0;
  return number_attribute<std::int64_t>(name, found->second, file);
}

std::string guided_name(const calib::GuidedHessian& guided) {
  return std::string(kGuided) + guided.linear +
         (guided.group == 0 ? "" : fmt::format("{}{:02}", kRowGroup, guided.group));
}

/// As the file has it. what: its arrays count as that.
std::vector<std::byte> serialized(const std::filesystem::path& path, const store::Shard& shard, core::Counted what,
                                  store::Sums sums) {
  core::count_work(what, array_bytes(shard));
  try {
    return store::serialize(shard, sums);
  } catch (core::Error& error) {
    error.add_context(path.string());
    throw;
  }
}

std::string publish_layer(const store::Start& start, const std::filesystem::path& path, const store::Shard& shard) {
  const std::vector<std::byte> bytes = serialized(path, shard, core::Counted::layer_bytes_written, store::Sums::all);
  start.publish(path, bytes);
  return core::sha256(bytes);
}

}  // namespace

std::string write_layer(const store::Start& start, const std::string& name, std::int64_t generation,
                        const quant::QuantResult& result) {
  store::Shard shard;
  shard.attributes = format::to_attributes(result.encoding);
  shard.attributes["kind"] = kLayerKind;
  shard.attributes["name"] = name;
  shard.attributes["relative_error"] = fmt::format("{:.17g}", result.relative_error);
  for (const auto& [key, value] : result.statistics)
    shard.attributes["statistics." + key] = fmt::format("{:.17g}", value);
  for (const format::NamedArray& array : result.encoding.arrays)
    shard.arrays.push_back({array.name, array.dtype, array.shape, array.bytes});
  return publish_layer(start, start.paths().layer(name, generation), shard);
}

format::Encoding read_layer(const store::RunPaths& paths, const std::string& name, std::int64_t generation,
                            const std::string& sha256) {
  const std::string file = paths.layer(name, generation).string();
  store::Shard shard = read_named(file, kLayerKind, name, sha256);
  std::vector<format::NamedArray> arrays;
  for (store::ShardArray& array : shard.arrays)
    arrays.push_back({std::move(array.name), array.dtype, std::move(array.shape), std::move(array.bytes)});
  return format::from_arrays(shard.attributes, std::move(arrays), file);
}

std::string write_tensor(const store::Start& start, const std::string& name, std::int64_t generation,
                         const core::Shape& shape, std::span<const float> values) {
  VORONOI_REQUIRE(generation > 0, "generation 0 of a tensor is the model's own");
  if (!model::all_finite(values))
    throw core::NumericError(name +
                             ": its new values are not finite or above 65504 (the range of F16), so that no checkpoint "
                             "could hold them; the generation before stays");
  store::Shard shard;
  shard.attributes["kind"] = kTensorKind;
  shard.attributes["name"] = name;
  shard.arrays.push_back(store::make_array<float>("values", core::DType::f32, shape, values));
  return publish_layer(start, start.paths().layer(name, generation), shard);
}

void read_tensor(const store::RunPaths& paths, const model::TensorSpec& spec, std::int64_t generation,
                 std::span<float> out) {
  const std::string file = paths.layer(spec.name, generation).string();
  const store::Shard shard = read_named(file, kTensorKind, spec.name);
  if (shard.arrays.size() != 1 || shard.arrays[0].dtype != core::DType::f32 || shard.arrays[0].shape != spec.shape)
    throw core::FormatError(file, fmt::format("does not hold one F32 array of shape {}", core::to_string(spec.shape)));
  VORONOI_REQUIRE(out.size_bytes() == shard.arrays[0].bytes.size(), "room for the whole tensor is wanted");
  std::memcpy(out.data(), shard.arrays[0].bytes.data(), out.size_bytes());
}

void require_journalled(const store::RunPaths& paths, const std::string& name, std::int64_t generation,
                        const std::string& sha256) {
  const std::string file = paths.layer(name, generation).string();
  if (core::sha256_of_file(file) != sha256) refuse_unjournalled(file);
}

std::vector<std::byte> hessian_file(const std::filesystem::path& path, std::int64_t block,
                                    const calib::SiteHessian& site, const std::string& calibration) {
  store::Shard shard;
  shard.attributes["kind"] = kHessianKind;
  shard.attributes["calibration"] = calibration;
  shard.attributes["block"] = std::to_string(block);
  shard.attributes["site"] = site.site;
  shard.attributes["tokens"] = std::to_string(site.n_tokens);
  if (site.n_left_out > 0) shard.attributes["left_out_tokens"] = std::to_string(site.n_left_out);
  if (site.pooled_tokens > 0) shard.attributes["pooled_tokens"] = std::to_string(site.pooled_tokens);
  if (!site.fault.empty()) shard.attributes["fault"] = site.fault;
  const auto add = [&](const std::string& name, const std::vector<float>& lower) {
    if (!lower.empty()) shard.arrays.push_back(store::make_array<float>(name, core::DType::f32, lower));
  };
  const auto add_cross = [&](const std::string& name, const std::vector<float>& cross) {
    if (!cross.empty())
      shard.arrays.push_back(store::make_array<float>(name, core::DType::f32, {site.n, site.n}, cross));
  };
  add("lower", site.lower);
  add("held_out", site.held_out);
  add_cross("cross", site.cross);
  add_cross("held_out.cross", site.held_out_cross);
  if (site.held_out_tokens > 0) shard.attributes["held_out_tokens"] = std::to_string(site.held_out_tokens);
  for (const calib::GuidedHessian& guided : site.guided) {
    const std::string name = guided_name(guided);
    add(name, guided.lower);
    add(name + ".held_out", guided.held_out);
    add_cross(name + ".cross", guided.cross);
    add_cross(name + ".held_out.cross", guided.held_out_cross);
    shard.attributes[name + std::string(kEffectiveTokens)] = fmt::format("{:.17g}", guided.effective_tokens);
  }
  // Large, and gone with the run: summed once.
  return serialized(path, shard, core::Counted::hessian_bytes_written, store::Sums::file);
}

void write_hessian(const store::Start& start, std::int64_t block, const calib::SiteHessian& site,
                   const std::string& calibration) {
  const std::filesystem::path path = start.paths().hessian(block, site.site);
  start.publish(path, hessian_file(path, block, site, calibration));
}

calib::SiteHessian read_hessian(const store::RunPaths& paths, std::int64_t block, const std::string& site,
                                std::int64_t n, const std::string& calibration) {
  const std::string file = paths.hessian(block, site).string();
  store::Shard shard = store::read_shard(file, store::Sums::file);
  core::count_work(core::Counted::hessian_bytes_read, array_bytes(shard));
  require_kind(shard, kHessianKind, file);
  if (shard.attributes["calibration"] != calibration || shard.attributes["block"] != std::to_string(block) ||
      shard.attributes["site"] != site)
    throw core::FormatError(file,
                            "belongs to another model, calibration or block; remove it, or use the --model and "
                            "--calibration-* it was made with");
  std::map<std::string, std::vector<float>> arrays;
  for (store::ShardArray& array : shard.arrays) {
    const bool is_cross = array.name.ends_with(kCross);
    if (array.dtype != core::DType::f32 || array.shape != (is_cross ? core::Shape{n, n} : core::Shape{n * (n + 1) / 2}))
      throw core::FormatError(
          file, fmt::format("{} is not an F32 {} of order {}", array.name, is_cross ? "matrix" : "triangle", n));
    std::vector<float>& lower = arrays[array.name];
    lower.resize(array.bytes.size() / sizeof(float));
    std::memcpy(lower.data(), array.bytes.data(), array.bytes.size());
    array.bytes = {};  // they are large: none is there twice for longer than it takes
  }
  const auto take = [&](const std::string& name) {
    const auto found = arrays.find(name);
    if (found == arrays.end()) return std::vector<float>();
    return std::move(arrays.extract(found).mapped());
  };
  calib::SiteHessian hessian;
  hessian.site = site;
  hessian.n = n;
  hessian.n_tokens = count_attribute(shard, "tokens", file);
  hessian.n_left_out = count_attribute(shard, "left_out_tokens", file);
  hessian.pooled_tokens = count_attribute(shard, "pooled_tokens", file);
  hessian.held_out_tokens = count_attribute(shard, "held_out_tokens", file);
  if (const auto fault = shard.attributes.find("fault"); fault != shard.attributes.end()) hessian.fault = fault->second;
  hessian.lower = take("lower");
  if (hessian.lower.empty())
    throw core::FormatError(file, fmt::format("does not hold an F32 triangle 'lower' of order {}", n));
  hessian.held_out = take("held_out");
  hessian.cross = take("cross");
  hessian.held_out_cross = take("held_out.cross");
  for (const auto& [attribute, text] : shard.attributes) {
    if (!attribute.starts_with(kGuided) || !attribute.ends_with(kEffectiveTokens)) continue;
    const std::string name = attribute.substr(0, attribute.size() - kEffectiveTokens.size());
    calib::GuidedHessian& guided = hessian.guided.emplace_back();
    guided.linear = name.substr(kGuided.size());
    // In the order of the attributes a linear's groups follow each other.
    if (hessian.guided.size() > 1) {
      const calib::GuidedHessian& before = hessian.guided[hessian.guided.size() - 2];
      calib::GuidedHessian next;
      next.linear = before.linear;
      next.group = before.group + 1;
      if (guided_name(next) == name) guided = std::move(next);
    }
    guided.lower = take(name);
    guided.held_out = take(name + ".held_out");
    guided.cross = take(name + ".cross");
    guided.held_out_cross = take(name + ".held_out.cross");
    guided.effective_tokens = number_attribute<double>(attribute, text, file);
  }
  if (!arrays.empty())
    throw core::FormatError(file, "holds an array that is none of a Hessian's: " + arrays.begin()->first);
  return hessian;
}

RunSource::RunSource(const model::WeightSource& original, store::RunPaths paths, Published published)
    : original_(original), paths_(std::move(paths)), published_(std::move(published)), path_(paths_.root.string()) {}

namespace {

constexpr std::string_view kWeightSuffix = ".weight";

std::string linear_of(const model::TensorSpec& spec) {
  return spec.name.substr(0, spec.name.size() - kWeightSuffix.size());
}

}  // namespace

std::optional<std::int64_t> RunSource::generation(const model::TensorSpec& spec) const {
  if (!spec.name.ends_with(kWeightSuffix)) return std::nullopt;
  const auto found = published_.linears.find(linear_of(spec));
  return found == published_.linears.end() ? std::nullopt : std::optional<std::int64_t>(found->second);
}

std::optional<format::Encoding> RunSource::stored(const model::TensorSpec& spec) const {
  const auto found = generation(spec);
  if (!found) return std::nullopt;
  const std::string linear = linear_of(spec);
  format::Encoding encoding = read_layer(paths_, linear, *found);
  const core::Shape shape{encoding.out_features, encoding.in_features};
  if (shape != spec.shape)
    throw core::FormatError(
        paths_.layer(linear, *found).string(),
        fmt::format("has shape {}, the model wants {}", core::to_string(shape), core::to_string(spec.shape)));
  return encoding;
}

void RunSource::read(const model::TensorSpec& spec, std::span<float> out) const {
  if (const auto encoding = stored(spec))
    format::decode(*encoding, out);
  else if (const auto tensor = published_.tensors.find(spec.name); tensor != published_.tensors.end())
    read_tensor(paths_, spec, tensor->second, out);
  else
    original_.read(spec, out);
}

bool RunSource::read_rows(const model::TensorSpec& spec, std::int64_t first_row, std::span<float> out) const {
  if (generation(spec) || published_.tensors.contains(spec.name)) return false;
  return original_.read_rows(spec, first_row, out);
}

void RunSource::will_read(const model::TensorSpec& spec) const {
  if (!published_.tensors.contains(spec.name)) original_.will_read(spec);
}

model::PackedTensor RunSource::packed(const model::TensorSpec& spec) const {
  auto encoding = stored(spec);
  return encoding ? std::make_shared<const format::Encoding>(std::move(*encoding)) : nullptr;
}

}  // namespace voronoi::run
