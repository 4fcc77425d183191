#include "model/input_scale.h"

#include "model/block_norms.h"

namespace voronoi::model {
namespace {

InputScalePlace in_norm(std::int64_t layer, const std::string& name) {
  return {block_prefix(layer) + name + ".weight", "", {}};
}

/// The last rows of the last linear of a site: those of v and up, whether they are a linear of their own or not.
InputScalePlace in_last_rows(const SiteSpec& site, std::int64_t count) {
  const LinearSpec& linear = site.linears.back();
  InputScalePlace place{"", linear.name, {}};
  for (std::int64_t row = linear.out_features - count; row < linear.out_features; ++row) place.rows.push_back(row);
  return place;
}

/// A head's keys stand before its values.
InputScalePlace in_latent_values(const ModelConfig& config, const SiteSpec& kv_b) {
  const LatentConfig& latent = config.latent;
  InputScalePlace place{"", kv_b.linears.back().name, {}};
  for (std::int64_t head = 0; head < config.n_heads; ++head)
    for (std::int64_t i = 0; i < latent.value; ++i)
      place.rows.push_back(head * (latent.nope + latent.value) + latent.nope + i);
  return place;
}

}  // namespace

bool input_scale_folds(const ModelConfig& config, std::int64_t layer, const SiteSpec& site) {
  if (site.name == "qkv") return !config.norms.input.empty() && !config.parallel_block;
  if (site.name == "q_b" || site.name == "kv_b") return true;
  if (site.name == "o") return config.n_kv_heads == config.n_heads;
  if (site.name == "gate_up") return !is_mixture(config, layer) && !config.norms.feed_forward.empty();
  // One is added to a clamped up before the product.
  return site.name.ends_with("down") && config.activation != Activation::clamped_silu;
}

std::optional<InputScalePlace> input_scale_place(const ModelConfig& config, std::int64_t layer,
                                                 const std::vector<SiteSpec>& sites, std::size_t i) {
  const SiteSpec& site = sites.at(i);
  if (!input_scale_folds(config, layer, site)) return std::nullopt;
  const SitePlaces places = site_places(config);
  if (site.name == "qkv") return in_norm(layer, config.norms.input);
  if (site.name == "q_b") return in_norm(layer, "self_attn.q_a_layernorm");
  if (site.name == "kv_b") return in_norm(layer, "self_attn.kv_a_layernorm");
  if (site.name == "gate_up") return in_norm(layer, config.norms.feed_forward);
  if (site.name != "o") return in_last_rows(sites.at(i - 1), site.in_features);  // its gate_up stands before down
  return config.latent.kv_rank > 0 ? in_latent_values(config, sites.at(places.kv_b))
                                   : in_last_rows(sites.at(places.qkv), site.in_features);
}

}  // namespace voronoi::model
