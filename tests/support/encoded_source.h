// A small random model whose linears are encoded: served packed, or decoded as any other tensor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/hash.h"
#include "core/json.h"
#include "core/packing.h"
#include "core/random.h"
#include "format/uniform.h"
#include "model/config.h"
#include "model/weights.h"
#include "support/small_config.h"

namespace voronoi::test {

using Encode =
    std::function<format::Encoding(std::int64_t out_features, std::int64_t in_features, std::span<const float>)>;

/// Grids of the least and largest weight of a group, codes to the nearest; `backwards`: a column order as an error
/// feedback by activations leaves one.
inline format::Encoding uniform_of_weight(int bits, std::int64_t group_size, bool backwards, std::int64_t out_features,
                                          std::int64_t in_features, std::span<const float> weight) {
  const std::int64_t n_groups = core::ceil_div(in_features, group_size);
  format::UniformEncoding e{{out_features, in_features, bits, group_size, core::DType::f16}, {}, {}, {}, {}, {}};
  if (backwards)
    for (std::int64_t i = 0; i < in_features; ++i) e.perm.push_back(static_cast<std::uint16_t>(in_features - 1 - i));
  const auto append = [bits](std::vector<std::uint32_t>& words, const std::vector<std::uint32_t>& values) {
    const std::size_t old = words.size();
    words.resize(old + static_cast<std::size_t>(core::packed_words(static_cast<std::int64_t>(values.size()), bits)));
    core::pack_row(values, bits, std::span(words).subspan(old));
  };
  const auto most = static_cast<float>((1 << bits) - 1);
  for (std::int64_t row = 0; row < out_features; ++row) {
    const auto at = [&](std::int64_t stored) {
      return weight[static_cast<std::size_t>(row * in_features + (backwards ? in_features - 1 - stored : stored))];
    };
    std::vector<std::uint32_t> codes, zeros;
    for (std::int64_t g = 0; g < n_groups; ++g) {
      const std::int64_t begin = g * group_size, end = std::min(in_features, begin + group_size);
      float low = 0, high = 0;
      for (std::int64_t c = begin; c < end; ++c) low = std::min(low, at(c)), high = std::max(high, at(c));
      e.scale.push_back(core::float_to_half((high - low) / most));
      const float step = core::half_to_float(e.scale.back()), zero = std::clamp(std::round(-low / step), 0.0F, most);
      zeros.push_back(static_cast<std::uint32_t>(zero));
      for (std::int64_t c = begin; c < end; ++c)
        codes.push_back(static_cast<std::uint32_t>(std::clamp(std::round(at(c) / step) + zero, 0.0F, most)));
    }
    append(e.codes, codes);
    append(e.zeros, zeros);
  }
  return format::to_encoding(e);
}

class EncodedSource final : public model::WeightSource {
 public:
  EncodedSource(const Encode& encode, bool serve_packed, std::int64_t n_layers = 2)
      : config_(model::parse_config(description(n_layers), "config.json")), serve_packed_(serve_packed) {
    std::uint64_t stream = 0;
    for (const model::TensorSpec& spec : model::expected_tensors(config_)) {
      const core::CounterRandom random(11, stream++);
      const bool norm = spec.shape.size() == 1;
      auto& values = tensors_[spec.name];
      values.resize(static_cast<std::size_t>(core::element_count(spec.shape).value()));
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = norm ? 1.0F : static_cast<float>(0.6 * (random.uniform(i) - 0.5));
    }
    for (std::int64_t block = 0; block < config_.n_layers; ++block)
      for (const model::SiteSpec& site : model::block_sites(config_, block))
        for (const model::LinearSpec& linear : site.linears) {
          std::vector<float>& weight = tensors_.at(linear.name + ".weight");
          const auto encoding =
              std::make_shared<const format::Encoding>(encode(linear.out_features, linear.in_features, weight));
          format::decode(*encoding, weight);
          encodings_[linear.name + ".weight"] = encoding;
        }
  }

  const model::ModelConfig& config() const override { return config_; }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    std::copy(tensors_.at(spec.name).begin(), tensors_.at(spec.name).end(), out.begin());
  }
  model::PackedTensor packed(const model::TensorSpec& spec) const override {
    const auto found = encodings_.find(spec.name);
    return serve_packed_ && found != encodings_.end() ? found->second : nullptr;
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return path_; }

 private:
  static core::Json description(std::int64_t n_layers) {
    core::Json config = small_config();
    config.erase("attention_bias");
    config["vocab_size"] = 50;
    config["num_hidden_layers"] = n_layers;
    return config;
  }

  model::ModelConfig config_;
  bool serve_packed_;
  std::map<std::string, std::vector<float>> tensors_;
  std::map<std::string, model::PackedTensor> encodings_;
  std::string path_ = "random";
};

}  // namespace voronoi::test
