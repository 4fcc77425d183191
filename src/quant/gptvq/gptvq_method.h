// GPTVQ (van Baalen, Kuzmin, Nagel et al. 2024: GPTVQ: The Blessing of Dimensionality for LLM Quantization, arXiv
// 2402.15319): vectors of neighbouring columns of a row, small codebooks for groups of rows in strips of columns, error
// feedback as in GPTQ, and an update of the codebooks in the end. The rules of the authors' program
// (Qualcomm-AI-research/gptvq) where they differ from the exact ones: --gptvq-rule published.
#pragma once

#include "quant/method.h"

namespace voronoi::quant {

const Method& gptvq_method();

}  // namespace voronoi::quant
