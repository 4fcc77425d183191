// How far two distributions over a vocabulary are apart, looked at from both: the confidence-aware loss of BitDistiller
// (Du et al. 2024, section 3.2) is such a mixture. On the host whatever the device is: one pass over logits is little
// beside the model's, and a GPU's come over the bus for it.
#pragma once

#include <cstdint>

#include "backend/device.h"

namespace voronoi::model {

/// Of p = softmax(teacher[i, :]) and q = softmax(logits[i, :]): loss[i] = reverse KL(q || p) + (1 - reverse) KL(p ||
/// q), 0 <= reverse <= 1, in fp64; logits [n_rows, vocab] become factor times its derivative by them. teacher and
/// logits are device memory, rows follow one another; loss [n_rows] is the host's.
void two_way_divergence(backend::Context& context, std::int64_t n_rows, std::int64_t vocab, double reverse,
                        double factor, const float* teacher, float* logits, double* loss);

}  // namespace voronoi::model
