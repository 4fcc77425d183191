// Codebooks for a wanted number of bits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "quant/setting.h"

namespace voronoi::quant {

/// v, k and kr for `wanted` true bits a weight on these layers: of all that VPTQ's public format holds and its kernels
/// read (v 4, 6, 8, 12, 16; log2 k 8, 12..16; log2 kr 2..12, 16 or none, not above k; one group, no outliers), that the
/// shapes allow and whose true bits are at most wanted * (1 + kBitsMargin), the one with the least expected distortion.
/// Larger codebooks and longer vectors are better for the same bits of index, but cost bits themselves: on a small
/// model small ones win. The other parameters are taken from `base`. Nothing when none fits.
std::optional<QuantParameters> choose_vector_setting(const QuantParameters& base, double wanted,
                                                     std::span<const LayerCount> layers);

/// The least true bits that such a setting can have on these layers; nothing when none is allowed.
std::optional<double> least_vector_bits(const QuantParameters& base, std::span<const LayerCount> layers);

/// All such settings that the layers allow.
std::vector<QuantParameters> vector_settings(const QuantParameters& base, std::span<const LayerCount> layers);

/// The least codebook of the shortest vectors, with few steps of k-means. Errors of SmolLM2-135M's linears at 3 and 4
/// bits follow from those under it within 8 % (standard deviation over the 210 linears).
QuantParameters quick_vector_setting(const QuantParameters& base);

/// Expected signal to distortion ratio in dB of a setting, for Gaussian weights.
double expected_gain_db(std::int64_t vector_length, std::int64_t centroids, std::int64_t residual_centroids);

}  // namespace voronoi::quant
