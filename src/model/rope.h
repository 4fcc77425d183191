// Angles of the rotary embedding under each scaling rule.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace voronoi::model {

/// Radians a position turns each pair (i, i + head_dim/2): [head_dim / 2].
std::vector<double> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim);

/// Factor on cosine and sine (1 unless yarn).
double rope_attention_factor(const RopeConfig& rope);

/// [n_positions, head_dim]: a row holds head_dim/2 cosines, then the sines, both times the attention factor.
std::vector<float> rope_table(const RopeConfig& rope, std::int64_t head_dim, std::int64_t n_positions);

}  // namespace voronoi::model
