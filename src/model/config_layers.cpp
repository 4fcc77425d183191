// What differs between the layers of a config.json: windows, chunks, rope.
#include <fmt/format.h>

#include <utility>

#include "core/error.h"
#include "model/config_family.h"

namespace voronoi::model {
namespace {

using core::Json;

/// A block of a GPU's threads keeps columns of a state of this many rows close by.
constexpr std::int64_t kMaxStateDim = 512;

/// "layer_types" as flags: whether a layer is of the type `special` and not "full_attention"; absent: null.
std::optional<std::vector<bool>> layer_types(const Keys& keys, std::string_view special, std::int64_t n_layers) {
  const Json* types = layer_list(keys, "layer_types", n_layers);
  if (types == nullptr) return std::nullopt;
  std::vector<bool> found;
  for (std::size_t layer = 0; layer < types->size(); ++layer) {
    const Json& type = (*types)[layer];
    found.push_back(type == special);
    if (!found.back() && type != "full_attention")
      keys.refuse("layer_types", fmt::format("entry {} is {}; \"full_attention\" or \"{}\" is wanted", layer,
                                             found_text(type), special));
  }
  return found;
}

/// Layers of the delta rule: "layer_types", or all but each "full_attention_interval"-th.
void parse_delta(const Keys& keys, const Family& family, ModelConfig& config) {
  DeltaConfig& delta = config.delta;
  delta.key_heads = keys.integer_or("linear_num_key_heads", 1, kMaxHeads, 16);
  delta.value_heads = keys.integer_or("linear_num_value_heads", 1, kMaxHeads, 32);
  delta.key_dim = keys.integer_or("linear_key_head_dim", 1, kMaxStateDim, 128);
  delta.value_dim = keys.integer_or("linear_value_head_dim", 1, kMaxStateDim, 128);
  delta.width = keys.integer_or("linear_conv_kernel_dim", 1, 64, 4);
  if (delta.value_heads % delta.key_heads != 0)
    keys.refuse("linear_num_value_heads",
                fmt::format("is {}, no multiple of linear_num_key_heads = {}", delta.value_heads, delta.key_heads));
  if (2 * delta.keys() + 2 * delta.values() > kMaxWidth)
    keys.refuse("linear_num_value_heads",
                fmt::format("is {}: so many heads are wider than {}", delta.value_heads, kMaxWidth));
  const std::int64_t every = keys.integer_or("full_attention_interval", 1, kMaxLayers, family.full_every);
  const auto types = layer_types(keys, "linear_attention", config.n_layers);
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
    delta.layers.push_back(types ? (*types)[static_cast<std::size_t>(layer)] : (layer + 1) % every != 0);
}

std::vector<std::int64_t> parse_windows(const Keys& keys, const Family& family, std::int64_t n_layers) {
  std::vector<std::int64_t> window(static_cast<std::size_t>(n_layers), 0);
  if (family.windows == AttentionWindows::none) return window;
  if (family.windows == AttentionWindows::off) {
    if (keys.boolean_or("use_sliding_window", false))
      keys.refuse(
          "use_sliding_window",
          "is true; which layers of a mixture have a window is not settled between versions of transformers, and "
          "it is not supported");
    keys.know({"sliding_window", "max_window_layers"});
    return window;
  }
  // An absent key means the class default, null means no window.
  std::int64_t width = keys.is_absent("sliding_window") ? family.window : 0;
  width = keys.integer_or("sliding_window", 1, kMaxPosition, width);
  if (family.windows == AttentionWindows::all) {
    window.assign(window.size(), width);
    return window;
  }
  const bool alternating = family.windows == AttentionWindows::alternating;
  if (!alternating && !keys.boolean_or("use_sliding_window", false)) width = 0;
  const std::int64_t first = alternating ? 0 : keys.integer_or("max_window_layers", 0, kMaxPosition, 28);
  std::int64_t every = family.full_every;
  if (alternating) {
    // A left-over of the class beside "layer_types"; in older files the only word.
    keys.know({"_sliding_window_pattern", "max_window_layers"});
    if (every != 2) every = keys.integer_or("sliding_window_pattern", 1, kMaxLayers, every);
  }
  const auto types = layer_types(keys, "sliding_attention", n_layers);
  for (std::size_t layer = 0; layer < window.size(); ++layer) {
    const auto number = static_cast<std::int64_t>(layer);
    bool windowed = width > 0 && (alternating ? (number + 1) % every != 0 : number >= first);
    if (types) {
      windowed = (*types)[layer];
      if (windowed && width == 0)
        keys.refuse("layer_types", fmt::format("entry {} asks for a window, but {}\"sliding_window\" gives none", layer,
                                               alternating ? "" : "\"use_sliding_window\" with "));
    }
    window[layer] = windowed ? width : 0;
  }
  return window;
}

/// Llama 4: layers with rope see their chunk alone, those without all, with queries that grow.
void parse_llama4_layers(const Keys& keys, ModelConfig& config) {
  const auto n_layers = static_cast<std::size_t>(config.n_layers);
  const std::int64_t every = keys.integer_or("no_rope_layer_interval", 1, kMaxLayers, 4);
  const Json* listed = keys.find("no_rope_layers");
  if (listed != nullptr && listed->is_array() && listed->empty()) listed = nullptr;
  if (listed != nullptr) listed = layer_list(keys, "no_rope_layers", config.n_layers);
  const auto chunked = layer_types(keys, "chunked_attention", config.n_layers);
  const std::int64_t chunk =
      keys.integer_or("attention_chunk_size", 1, kMaxPosition, keys.is_absent("attention_chunk_size") ? 8192 : 0);
  config.chunk.assign(n_layers, 0);
  for (std::size_t layer = 0; layer < n_layers; ++layer) {
    bool turned = (static_cast<std::int64_t>(layer) + 1) % every != 0;
    if (listed != nullptr) {
      const Json& entry = (*listed)[layer];
      if (entry != 0 && entry != 1)
        keys.refuse("no_rope_layers", fmt::format("entry {} is {}; 0 or 1 is wanted", layer, found_text(entry)));
      turned = entry == 1;
    }
    if (!turned) config.layer_rope[layer] = LayerRope::none;
    if (chunked ? (*chunked)[layer] : turned) config.chunk[layer] = chunk;
  }
  const Json* tuning = keys.find("attn_temperature_tuning");  // in older files a number
  const bool grows = tuning == nullptr || (tuning->is_boolean() ? tuning->get<bool>() : *tuning != 0);
  const double growth = keys.number_or("attn_scale", 0, 0.1), floor = keys.number_or("floor_scale", 0, 8192);
  if (grows) {
    config.query_growth = growth;
    config.query_floor = floor;
  }
  config.qk_norm = config.qk_norm_plain = keys.boolean_or("use_qk_norm", true);
}

}  // namespace

const Json* layer_list(const Keys& keys, std::string_view key, std::int64_t n_layers) {
  const Json* list = keys.find(key);
  if (list != nullptr && (!list->is_array() || std::cmp_not_equal(list->size(), n_layers)))
    keys.refuse(key, fmt::format("is not a list of {} entries, one a layer", n_layers));
  return list;
}

void parse_layers(const Keys& keys, const Family& family, ModelConfig& config) {
  const auto n_layers = static_cast<std::size_t>(config.n_layers);
  config.window = parse_windows(keys, family, config.n_layers);
  config.layer_rope.assign(n_layers, LayerRope::main);
  for (std::size_t layer = 0; layer < n_layers; ++layer) {
    if (family.local_rope && config.window[layer] > 0) config.layer_rope[layer] = LayerRope::local;
    if (family.rope_in_windows && config.window[layer] == 0) config.layer_rope[layer] = LayerRope::none;
  }
  if (family.mixture == Mixture::llama4) parse_llama4_layers(keys, config);
  if (family.delta) parse_delta(keys, family, config);
}

}  // namespace voronoi::model
