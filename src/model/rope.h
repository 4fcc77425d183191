// Angles of the rotary embedding under each scaling rule.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace voronoi::model {

/// Radians a position turns each pair of n_turned values of a head: [n_turned / 2]. length: tokens of the whole
/// sequence, which two rules depend on: dynamic (NTK-aware scaling of theta) and longrope (Ding et al. 2024).
std::vector<double> rope_frequencies(const RopeConfig& rope, std::int64_t n_turned, std::int64_t length = 1);

/// What of a sequence's length its angles depend on: sequences alike in it have the same.
std::int64_t rope_kind(const RopeConfig& rope, std::int64_t length);

/// Sequences of up to so many tokens have the same angles.
std::int64_t rope_limit(const RopeConfig& rope);

/// Factor on cosine and sine (1 unless yarn or longrope).
double rope_attention_factor(const RopeConfig& rope);

/// [n_positions, n_turned]: a row holds n_turned/2 cosines, then the sines, both times the attention factor.
std::vector<float> rope_table(const RopeConfig& rope, std::int64_t n_turned, std::int64_t n_positions,
                              std::int64_t length = 1);

/// The table that makes queries larger with their position (see ModelConfig::query_growth) and turns nothing.
std::vector<float> growth_table(const ModelConfig& config, std::int64_t n_positions);

}  // namespace voronoi::model
