#include "kernels/cpu/rows.h"

#include <cmath>

namespace voronoi::kernels {

void cpu_gather_rows_f32(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, const float* x,
                         float* out) {
  for_row_chunks(exec, n_ids, n, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) std::copy_n(x + ids[r] * n, n, out + r * n);
  });
}

void cpu_gather_rows_16(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n,
                        core::DType dtype, const std::uint16_t* x, float* out) {
  for_row_chunks(exec, n_ids, n, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) core::convert_to_f32(dtype, x + ids[r] * n, n, out + r * n);
  });
}

void cpu_bounded_rows(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, float largest,
                      bool* bounded) {
  for_row_chunks(exec, n_rows, n, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) {
      bool all = true;
      for (std::int64_t i = r * n; i < (r + 1) * n; ++i) all &= std::fabs(x[i]) <= largest;
      bounded[r] = all;
    }
  });
}

}  // namespace voronoi::kernels
