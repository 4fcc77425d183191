// The rotary embedding of a config.json.
#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "core/error.h"
#include "model/config_family.h"

namespace voronoi::model {
namespace {

using core::Json;

constexpr std::string_view kScalingNames = "default, linear, dynamic, llama3, yarn, longrope";

void parse_yarn(const Keys& keys, std::int64_t max_position, RopeConfig& rope) {
  rope.scaling = RopeScaling::yarn;
  rope.original_max_position =
      static_cast<double>(keys.integer_or("original_max_position_embeddings", 1, kMaxPosition, max_position));
  keys.know({"attention_factor", "mscale", "mscale_all_dim", "finetuned"});
  rope.beta_fast = keys.number_or("beta_fast", 0, 32);
  rope.beta_slow = keys.number_or("beta_slow", 0, 1);
  if (rope.beta_fast < rope.beta_slow) keys.refuse("beta_fast", "is below beta_slow");
  rope.truncate = keys.boolean_or("truncate", true);
  if (keys.find("attention_factor") != nullptr) {
    rope.attention_factor = keys.number("attention_factor", 0);
  } else if (keys.find("mscale") != nullptr && keys.find("mscale_all_dim") != nullptr) {
    const double log_factor = rope.factor > 1 ? std::log(rope.factor) : 0.0;
    const double numerator = keys.number("mscale", 0, true), denominator = keys.number("mscale_all_dim", 0, true);
    // A zero counts as not given, as in the reference.
    if (numerator > 0 && denominator > 0)
      rope.attention_factor = (0.1 * numerator * log_factor + 1) / (0.1 * denominator * log_factor + 1);
  }
}

/// Divisors of the frequencies, one a pair.
std::vector<double> rope_divisors(const Keys& keys, std::string_view key, std::int64_t n_pairs) {
  const Json* list = keys.find(key);
  if (list == nullptr || !list->is_array() || std::cmp_not_equal(list->size(), n_pairs))
    keys.refuse(key, fmt::format("is no list of {} numbers, one a pair of turned values", n_pairs));
  std::vector<double> values;
  for (const Json& value : *list) {
    values.push_back(value.is_number() ? value.get<double>() : 0);
    if (!std::isfinite(values.back()) || values.back() <= 0) keys.refuse(key, "holds what is no number above 0");
  }
  return values;
}

/// The lengths stand outside the object, as Microsoft's Phi has them; without them "factor" says by how much.
void parse_longrope(const Keys& outer, const Keys& keys, const ModelConfig& config, RopeConfig& rope) {
  rope.scaling = RopeScaling::longrope;
  rope.short_factor = rope_divisors(keys, "short_factor", config.n_turned / 2);
  rope.long_factor = rope_divisors(keys, "long_factor", config.n_turned / 2);
  const bool outside = outer.find("original_max_position_embeddings") != nullptr;
  const Keys& where = outside ? outer : keys;
  const bool told = where.find("original_max_position_embeddings") != nullptr;
  rope.original_max_position =
      static_cast<double>(where.integer_or("original_max_position_embeddings", 2, kMaxPosition, config.max_position));
  rope.factor = told ? static_cast<double>(config.max_position) / rope.original_max_position : keys.number("factor", 0);
  keys.know({"factor"});
  if (keys.find("attention_factor") != nullptr) rope.attention_factor = keys.number("attention_factor", 0);
}

/// The fields of a scaling of some type.
void parse_scaling(const Keys& outer, const Keys& inner, std::string_view type_key, const std::string& type,
                   ModelConfig& config, RopeConfig& rope) {
  if (type == "longrope") return parse_longrope(outer, inner, config, rope);
  if (type != "linear" && type != "llama3" && type != "yarn" && type != "dynamic")
    inner.refuse(type_key, fmt::format("is {}; one of {} is wanted", core::quote_text(type), kScalingNames));
  rope.factor = inner.number("factor", 0);
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
  } else if (type == "dynamic") {
    rope.scaling = RopeScaling::dynamic;
    rope.original_max_position = static_cast<double>(config.max_position);
    if (config.n_turned <= 2) inner.refuse(type_key, "is \"dynamic\", which has no meaning for one pair a head");
    if (rope.factor < 1) inner.refuse("factor", "is below 1");
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::llama3;
    rope.low_freq_factor = inner.number("low_freq_factor", 0);
    rope.high_freq_factor = inner.number("high_freq_factor", 0);
    if (rope.high_freq_factor <= rope.low_freq_factor) inner.refuse("high_freq_factor", "is not above low_freq_factor");
    rope.original_max_position =
        static_cast<double>(inner.integer("original_max_position_embeddings", 1, kMaxPosition));
  } else {
    parse_yarn(inner, config.max_position, rope);
    // Latent attention multiplies scores by the square besides.
    const double all = config.latent.kv_rank > 0 ? inner.number_or("mscale_all_dim", 0, 0, true) : 0;
    if (all > 0 && rope.factor > 1) config.attention_scale *= std::pow(0.1 * all * std::log(rope.factor) + 1, 2);
  }
}

/// Values of a head that are turned, where a key says which share.
std::int64_t turned_part(const Keys& keys, const Family& family, std::int64_t head_dim) {
  constexpr std::string_view kKey = "partial_rotary_factor";
  const double share = keys.number_or(kKey, 0, family.turned);
  if (!family.partial_rotary && share != 1)
    keys.refuse(kKey, "is not 1: in this architecture the whole head is turned");
  // As the reference cuts it.
  const auto part = share >= 1 ? head_dim : static_cast<std::int64_t>(static_cast<double>(head_dim) * share);
  if (share > 1 || part < 2 || part % 2 != 0)
    keys.refuse(
        kKey, fmt::format("makes {} of {} values of a head turned; an even number of them is wanted", part, head_dim));
  return part;
}

/// Sections of positions in pictures: with text alone they are all the same.
void parse_sections(const Keys& inner) { inner.know({"mrope_section", "mrope_interleaved"}); }

}  // namespace

void parse_rope(const Keys& keys, const Family& family, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  // "rope_parameters" is the newer spelling, with theta inside.
  const bool newer = keys.find("rope_parameters") != nullptr;
  const std::string name = newer ? "rope_parameters" : "rope_scaling";
  const Json* scaling = keys.object(name);
  rope.theta = keys.number_or("rope_theta", 0, family.theta);
  config.rope_interleaved =
      family.latent ? keys.boolean_or("rope_interleave", family.rope_interleaved) : family.rope_interleaved;
  config.n_turned = family.latent ? config.latent.rope : turned_part(keys, family, config.head_dim);
  if (family.local_rope) config.local_rope.theta = keys.number_or("rope_local_base_freq", 0, 10000);
  if (family.mixture == Mixture::gpt_oss && keys.is_absent("rope_scaling") && !newer)
    keys.refuse("rope_scaling", "is missing; yarn's numbers are wanted, or null");
  if (scaling == nullptr || scaling->empty()) return;
  const Keys inner(*scaling, keys.file(), keys.prefix() + name + ".");
  for (const auto& item : scaling->items())
    if (item.value().is_object()) inner.refuse(item.key(), "is an object: rope by type of layer is not supported");
  rope.theta = inner.number_or("rope_theta", 0, rope.theta);
  if (!family.latent && inner.find("partial_rotary_factor") != nullptr)
    config.n_turned = turned_part(inner, family, config.head_dim);
  inner.know({"type"});
  const std::string_view type_key = inner.find("rope_type") != nullptr ? "rope_type" : "type";
  std::string type = inner.string(type_key);
  if (type.empty() && !newer) inner.refuse("rope_type", fmt::format("is missing; one of {} is wanted", kScalingNames));
  // Older releases of Phi-3 say so of what became longrope, and the reference takes it.
  if (family.model_type == "phi3" && (type == "su" || type == "yarn")) type = "longrope";
  if (family.model_type == "qwen3_vl_text") {
    parse_sections(inner);
    if (type == "mrope") type = "default";
  }
  if (!type.empty() && type != "default") parse_scaling(keys, inner, type_key, type, config, rope);
  warn_of_unknown(keys.file(), std::string(family.model_type), inner.unknown());
}

}  // namespace voronoi::model
