#include "run/layer_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.h"
#include "core/hash.h"
#include "store/shard.h"

namespace voronoi::run {
namespace {

constexpr std::string_view kLayerKind = "voronoi quantized linear, version 1";
constexpr std::string_view kHessianKind = "voronoi hessian, version 1";

void require_kind(const store::Shard& shard, std::string_view kind, const std::string& file) {
  const auto found = shard.attributes.find("kind");
  if (found == shard.attributes.end() || found->second != kind)
    throw core::FormatError(file, fmt::format("is not a file of kind '{}'", kind));
}

/// A decimal number from 0 on; 0 when the attribute is absent.
std::int64_t count_attribute(const store::Shard& shard, const std::string& name, const std::string& file) {
  const auto found = shard.attributes.find(name);
  if (found == shard.attributes.end()) return 0;
  const std::string& text = found->second;
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    throw core::FormatError(
        file, fmt::format("attribute {} is {}; a number from 0 on is wanted", name, core::quote_text(text)));
  return value;
}

std::string publish_shard(const store::Attempt& attempt, const std::filesystem::path& path, const store::Shard& shard) {
  std::vector<std::byte> bytes;
  try {
    bytes = store::serialize(shard);
  } catch (core::Error& error) {
    error.add_context(path.string());
    throw;
  }
  attempt.publish(path, bytes);
  return core::sha256(bytes);
}

}  // namespace

std::string write_layer(const store::Attempt& attempt, const std::string& name, const quant::QuantResult& result) {
  store::Shard shard;
  shard.attributes = quant::to_attributes(result.encoding);
  shard.attributes["kind"] = kLayerKind;
  shard.attributes["name"] = name;
  shard.attributes["relative_error"] = fmt::format("{:.17g}", result.relative_error);
  for (const auto& [key, value] : result.statistics)
    shard.attributes["statistics." + key] = fmt::format("{:.17g}", value);
  for (quant::NamedArray& array : quant::to_arrays(result.encoding))
    shard.arrays.push_back({std::move(array.name), array.dtype, std::move(array.shape), std::move(array.bytes)});
  return publish_shard(attempt, attempt.paths().layer(name), shard);
}

quant::Encoding read_layer(const store::RunPaths& paths, const std::string& name) {
  const std::string file = paths.layer(name).string();
  store::Shard shard = store::read_shard(file);
  require_kind(shard, kLayerKind, file);
  if (shard.attributes["name"] != name)
    throw core::FormatError(file, fmt::format("holds '{}' instead of '{}'", shard.attributes["name"], name));
  std::vector<quant::NamedArray> arrays;
  for (store::ShardArray& array : shard.arrays)
    arrays.push_back({std::move(array.name), array.dtype, std::move(array.shape), std::move(array.bytes)});
  return quant::from_arrays(shard.attributes, arrays, file);
}

void write_hessian(const store::Attempt& attempt, std::int64_t block, const calib::SiteHessian& site,
                   const std::string& calibration) {
  store::Shard shard;
  shard.attributes["kind"] = kHessianKind;
  shard.attributes["calibration"] = calibration;
  shard.attributes["block"] = std::to_string(block);
  shard.attributes["site"] = site.site;
  shard.attributes["tokens"] = std::to_string(site.n_tokens);
  if (site.n_left_out > 0) shard.attributes["left_out_tokens"] = std::to_string(site.n_left_out);
  if (site.pooled_tokens > 0) shard.attributes["pooled_tokens"] = std::to_string(site.pooled_tokens);
  if (!site.fault.empty()) shard.attributes["fault"] = site.fault;
  store::ShardArray array{"lower", core::DType::f32, {static_cast<std::int64_t>(site.lower.size())}, {}};
  array.bytes.resize(site.lower.size() * sizeof(float));
  std::memcpy(array.bytes.data(), site.lower.data(), array.bytes.size());
  shard.arrays.push_back(std::move(array));
  publish_shard(attempt, attempt.paths().hessian(block, site.site), shard);
}

StoredHessian read_hessian(const store::RunPaths& paths, std::int64_t block, const std::string& site, std::int64_t n,
                           const std::string& calibration) {
  const std::string file = paths.hessian(block, site).string();
  store::Shard shard = store::read_shard(file);
  require_kind(shard, kHessianKind, file);
  if (shard.attributes["calibration"] != calibration || shard.attributes["block"] != std::to_string(block) ||
      shard.attributes["site"] != site)
    throw core::FormatError(file,
                            "belongs to another model, calibration or block; remove it, or use the --model and "
                            "--calibration-* it was made with");
  if (shard.arrays.size() != 1 || shard.arrays[0].dtype != core::DType::f32 ||
      shard.arrays[0].shape != core::Shape{n * (n + 1) / 2})
    throw core::FormatError(file, fmt::format("does not hold one F32 triangle of order {}", n));
  StoredHessian hessian{std::vector<float>(static_cast<std::size_t>(n * (n + 1) / 2)),
                        count_attribute(shard, "tokens", file),
                        count_attribute(shard, "left_out_tokens", file),
                        count_attribute(shard, "pooled_tokens", file),
                        {}};
  if (const auto fault = shard.attributes.find("fault"); fault != shard.attributes.end()) hessian.fault = fault->second;
  std::memcpy(hessian.lower.data(), shard.arrays[0].bytes.data(), shard.arrays[0].bytes.size());
  return hessian;
}

RunSource::RunSource(const model::WeightSource& original, store::RunPaths paths, std::vector<std::string> linears)
    : original_(original), paths_(std::move(paths)), linears_(std::move(linears)), path_(paths_.root.string()) {
  std::sort(linears_.begin(), linears_.end());
}

std::optional<quant::Encoding> RunSource::stored(const model::TensorSpec& spec) const {
  constexpr std::string_view kSuffix = ".weight";
  if (!spec.name.ends_with(kSuffix)) return std::nullopt;
  const std::string linear = spec.name.substr(0, spec.name.size() - kSuffix.size());
  if (!std::binary_search(linears_.begin(), linears_.end(), linear)) return std::nullopt;
  quant::Encoding encoding = read_layer(paths_, linear);
  const core::Shape shape{quant::out_features(encoding), quant::in_features(encoding)};
  if (shape != spec.shape)
    throw core::FormatError(
        paths_.layer(linear).string(),
        fmt::format("has shape {}, the model wants {}", core::to_string(shape), core::to_string(spec.shape)));
  return encoding;
}

void RunSource::read(const model::TensorSpec& spec, std::span<float> out) const {
  if (const auto encoding = stored(spec))
    quant::decode(*encoding, out);
  else
    original_.read(spec, out);
}

model::PackedTensor RunSource::packed(const model::TensorSpec& spec) const {
  auto encoding = stored(spec);
  auto* vq = encoding ? std::get_if<quant::VqEncoding>(&*encoding) : nullptr;
  return vq != nullptr ? quant::share_packed(std::move(*vq)) : nullptr;
}

}  // namespace voronoi::run
