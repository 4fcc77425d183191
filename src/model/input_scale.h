// Where a factor of each input of a site can be moved into what computes the input.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"

namespace voronoi::model {

/// The weight of a norm, whose output the input is; or a linear of the same block, of which a row gives each input.
struct InputScalePlace {
  std::string norm;                ///< name of the tensor; empty: it is a linear
  std::string linear;              ///< its name; its bias takes the factors too
  std::vector<std::int64_t> rows;  ///< [in_features] of the linear, by input
};

/// As AWQ's program folds (llm-awq, auto_scale): the input of q, k, v and of a dense block's gate and up is a norm's
/// output, whose weight takes the factors; that of `o` is attention over v's output where every query head has keys and
/// values of its own; that of `down` is a product with up's output. The norm before a mixture feeds the router and all
/// experts, which would have to share one factor, and so do halves that stand beside each other; some halves have no
/// norm before them.
bool input_scale_folds(const ModelConfig& config, std::int64_t layer, const SiteSpec& site);

/// Where, for site `i` of block_sites(config, layer); nothing where it does not.
std::optional<InputScalePlace> input_scale_place(const ModelConfig& config, std::int64_t layer,
                                                 const std::vector<SiteSpec>& sites, std::size_t i);

}  // namespace voronoi::model
