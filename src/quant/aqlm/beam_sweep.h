// A pass over all codes of an operator's rows: group by group, codebook by codebook, each code chosen anew by the true
// error, all else fixed; or several choices of a row kept side by side (beam search).
#pragma once

#include <cstdint>
#include <span>

#include "quant/aqlm/additive_rows.h"

namespace voronoi::quant {

/// With D the row's difference, s its scale, H_jj the group's block of H and c the centroid that it has of codebook m,
/// centroid k in its place changes the loss by 2 s^2 (f(k) - f(c)), f(k) = C_k^T H_jj C_k / 2 - <C_k, (D H)_j / s +
/// H_jj c>. metric: H [n, n] in natural order, or feedback_metric(); rows.product() is rows.matrix() times that,
/// matrix() the difference of the numbers as they are. order: the groups as they are taken. beam: choices of a row that
/// are kept, by the loss; 1: the best one. Changes the codes alone; rows do not depend on each other.
void sweep_codes(AdditiveRows& rows, std::span<const float> metric, std::span<const std::int32_t> order, int beam);

}  // namespace voronoi::quant
