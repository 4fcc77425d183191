#include "quant/gptvq/layout.h"

#include <algorithm>

#include "core/types.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {

std::int64_t gptvq_vector_columns(const QuantParameters& parameters) {
  constexpr int kMostBitsOfFour = 2, kMostBitsOfTwo = 4;
  const auto& p = parameters.get<GptvqParameters>();
  const int bits = parameters.get<UniformParameters>().bits;
  if (p.vector_columns > 0) return p.vector_columns;
  return bits <= kMostBitsOfFour ? 4 : bits <= kMostBitsOfTwo ? 2 : 1;
}

std::int64_t gptvq_group_weights(const QuantParameters& parameters) {
  constexpr std::int64_t kWeightsABit = 8;  // of codebooks
  const auto& p = parameters.get<GptvqParameters>();
  if (p.group_weights > 0) return p.group_weights;
  const std::int64_t d = gptvq_vector_columns(parameters), bits = parameters.get<UniformParameters>().bits;
  const std::int64_t book_bits = (p.codebook_rank > 0 ? p.codebook_rank : d << (d * bits)) * p.codebook_bits;
  return book_bits * kWeightsABit * (p.scale_block > 0 ? 2 : 1);
}

format::GptvqExtents gptvq_extents(const QuantParameters& parameters, std::int64_t out_features,
                                   std::int64_t in_features) {
  const auto& p = parameters.get<GptvqParameters>();
  format::GptvqExtents extents;
  extents.out_features = out_features;
  extents.in_features = in_features;
  extents.vector_columns = gptvq_vector_columns(parameters);
  extents.centroids = std::int64_t{1} << (extents.vector_columns * parameters.get<UniformParameters>().bits);
  extents.codebook_bits = p.codebook_bits;
  extents.scale_block = p.scale_block;
  const std::int64_t unit = std::max(extents.vector_columns, p.scale_block);
  const std::int64_t strips = core::ceil_div(in_features, p.group_columns);
  extents.group_columns = core::ceil_div(core::ceil_div(in_features, strips), unit) * unit;
  const std::int64_t groups =
      std::max<std::int64_t>(1, out_features * extents.group_columns / gptvq_group_weights(parameters));
  extents.group_rows = core::ceil_div(out_features, std::min(groups, out_features));
  return extents;
}

GptvqGroups gptvq_groups(const format::GptvqExtents& extents, std::int64_t rank, std::int64_t size) {
  const std::int64_t groups = extents.row_groups();
  GptvqGroups mine;
  mine.first = groups * rank / size;
  mine.count = groups * (rank + 1) / size - mine.first;
  const auto row_of = [&](std::int64_t group) { return std::min(extents.out_features, group * extents.group_rows); };
  mine.row_begin = row_of(mine.first);
  mine.rows = row_of(mine.first + mine.count) - mine.row_begin;
  return mine;
}

}  // namespace voronoi::quant
