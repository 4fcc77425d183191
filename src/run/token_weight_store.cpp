#include "run/token_weight_store.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "core/error.h"
#include "store/shard.h"

namespace voronoi::run {
namespace {

constexpr std::string_view kTokenWeightsKind = "voronoi token weights, version 1";

template <class T>
std::vector<T> flat_values(const store::Shard& shard, const char* name, core::DType dtype, const std::string& file) {
  for (const store::ShardArray& array : shard.arrays) {
    if (array.name != name || array.dtype != dtype || array.shape.size() != 1) continue;
    std::vector<T> values(array.bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
    return values;
  }
  throw core::FormatError(file, fmt::format("has no vector '{}' of {}", name, core::dtype_name(dtype)));
}

}  // namespace

void write_token_weights(const store::Start& start, std::int64_t chunk, const calib::ChunkWeights& weights,
                         const std::string& calibration) {
  std::vector<std::int64_t> rows;  // of every linear and group, in the order of the weights
  std::vector<float> values;
  for (const calib::BlockTokenWeights& block : weights)
    for (const auto& site : block)
      for (const std::vector<float>& linear : site) {
        rows.push_back(std::ssize(linear));
        values.insert(values.end(), linear.begin(), linear.end());
      }
  store::Shard shard;
  shard.attributes = {
      {"kind", std::string(kTokenWeightsKind)}, {"calibration", calibration}, {"chunk", std::to_string(chunk)}};
  shard.arrays.push_back(store::make_array<std::int64_t>("rows", core::DType::i64, rows));
  shard.arrays.push_back(store::make_array<float>("weights", core::DType::f32, values));
  start.publish(start.paths().token_weights(chunk), store::serialize(shard));
}

calib::ChunkWeights read_token_weights(const store::RunPaths& paths, std::int64_t chunk,
                                       const model::ModelConfig& config, std::int64_t row_groups,
                                       const std::string& calibration) {
  const std::string file = paths.token_weights(chunk).string();
  store::Shard shard = store::read_shard(file);
  if (shard.attributes["kind"] != kTokenWeightsKind || shard.attributes["calibration"] != calibration ||
      shard.attributes["chunk"] != std::to_string(chunk))
    throw core::FormatError(file, "is not what the tokens of this chunk count in this calibration");
  const auto rows = flat_values<std::int64_t>(shard, "rows", core::DType::i64, file);
  const auto values = flat_values<float>(shard, "weights", core::DType::f32, file);
  for (const float value : values)
    if (!(value >= 0) || !std::isfinite(value))
      throw core::FormatError(file, fmt::format("a token counts {:g}; a finite number from 0 on is wanted", value));
  const auto groups = static_cast<std::size_t>(row_groups);
  calib::ChunkWeights weights;
  std::size_t linear_at = 0, value_at = 0;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    calib::BlockTokenWeights& block = weights.emplace_back();
    for (const model::SiteSpec& site : model::block_sites(config, layer)) {
      auto& of_site = block.emplace_back();
      for (std::size_t i = 0; i < site.linears.size() * groups; ++i, ++linear_at) {
        const std::int64_t n = linear_at < rows.size() ? rows[linear_at] : -1;
        if (n < 0 || n > static_cast<std::int64_t>(values.size() - value_at))
          throw core::FormatError(file, fmt::format("has no {} weights for {}", n, site.linears[i / groups].name));
        const auto first = values.begin() + static_cast<std::ptrdiff_t>(value_at);
        of_site.emplace_back(first, first + n);
        value_at += static_cast<std::size_t>(n);
      }
    }
  }
  if (linear_at != rows.size() || value_at != values.size())
    throw core::FormatError(file, "holds more than this model's linears");
  return weights;
}

}  // namespace voronoi::run
