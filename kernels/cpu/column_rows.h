// Loops over the rows of a column, which are independent: compiled once for each vector width, each operation rounded
// to fp32 once.
#pragma once

#include <cstdint>

namespace voronoi::kernels::slice {

/// out = (values - bias) * inverse, [n].
void to_search_units(std::int64_t n, const float* values, float bias, float inverse, float* out);
/// out = (a - b) * factor, [n].
void scale_difference(std::int64_t n, const float* a, const float* b, float factor, float* out);
/// out = a + b * factor, [n].
void add_scaled(std::int64_t n, const float* a, const float* b, float factor, float* out);
/// target [width] -= factors[j * stride] * rows[j], for the rows [count, width] in order.
void pay_back(std::int64_t count, const float* factors, std::int64_t stride, const float* rows, std::int64_t width,
              float* target);

}  // namespace voronoi::kernels::slice
