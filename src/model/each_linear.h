// All sites and linears of a model, in execution order. A block's are listed when its turn comes: an error out of f
// ends a walk over blocks that a file claims and does not have.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace voronoi::model {

/// f(layer, site) for every site of every block.
template <class F>
void for_each_site(const ModelConfig& config, const F& f) {
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
    for (const SiteSpec& site : block_sites(config, layer)) f(layer, site);
}

/// f(site, linear) for every linear of every site.
template <class F>
void for_each_linear(const ModelConfig& config, const F& f) {
  for_each_site(config, [&](std::int64_t, const SiteSpec& site) {
    for (const LinearSpec& linear : site.linears) f(site, linear);
  });
}

}  // namespace voronoi::model
