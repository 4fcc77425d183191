// What a plan says of linears that are alike.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace voronoi::planning {

/// "model.layers.7.mlp.down_proj" -> "mlp.down_proj"; numbers inside (experts) become "*".
std::string role_of(const std::string& name);

/// Of values with their weights; exact where all are the same. Of nothing: 0.
double weighted_mean(const std::vector<std::pair<double, std::int64_t>>& values);

}  // namespace voronoi::planning
