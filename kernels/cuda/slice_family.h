// Entry points of the CUDA twin of kernels/vq_slice.h, each defined beside its like.
#pragma once

#include "kernels/vq_slice.h"

namespace voronoi::kernels::gpu {

void transpose(const Exec& exec, const VqSlice& slice, const float* weight, const std::int32_t* perm, float* matrix);
void decode(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, float* matrix);
void gather_training(const Exec& exec, const VqSlice& slice, const TrainingRange& range, const float* matrix,
                     const float* scale, const float* bias, const float* column_weight, float* points, float* weights);
void subtract(const Exec& exec, std::int64_t n, const float* a, const float* b, float* out);
void pack(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const std::int32_t* stored,
          std::uint32_t* words, std::uint16_t* outlier_words);
void dots(const Exec& exec, const VqSlice& slice, const float* a, const float* b, bool combined, double* sums);
void collect_books(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const float* scale, const float* g,
                   const float* diagonal, bool combined, double* sums);
void collect_columns(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, const float* g,
                     const float* diagonal, bool combined, double* sums);

}  // namespace voronoi::kernels::gpu
