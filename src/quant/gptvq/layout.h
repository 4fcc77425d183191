// Parameters of GPTVQ, and how they divide an operator into codebooks.
#pragma once

#include <cstdint>
#include <string>

#include "core/team.h"
#include "format/gptvq.h"
#include "quant/parameters.h"

namespace voronoi::quant {

/// Beside UniformParameters::bits, of an index a weight, and the steps of k-means of VectorParameters.
struct GptvqParameters {
  std::int64_t vector_columns = 0;  ///< d; 0: 4 at 1 and 2 bits, 2 at 3 and 4, else 1
  std::int64_t group_weights = 0;   ///< l; 0: as many as make the codebooks 1/8 bit a weight, 1/16 beside block scales
  std::int64_t group_columns = 256;
  int codebook_bits = 8;
  std::int64_t codebook_rank = 0;  ///< of the basis that codebooks of single columns share; 0: they are whole
  std::int64_t scale_block = 0;
  int strip_passes = 2;
  bool codebook_update = true;
  std::string rule = "exact";
  bool published() const { return rule == "published"; }
};

/// Columns of a vector in effect.
std::int64_t gptvq_vector_columns(const QuantParameters& parameters);
/// Weights of a group in effect, before they are fitted to the operator.
std::int64_t gptvq_group_weights(const QuantParameters& parameters);

/// Strips are as equal as they can be; a strip's rows are divided into as many equal groups as have at least
/// group_weights each, one at least. dtype is left as it is by default.
format::GptvqExtents gptvq_extents(const QuantParameters& parameters, std::int64_t out_features,
                                   std::int64_t in_features);

/// Row groups of a member of a team: whole ones, so that no codebook is fitted by two.
struct GptvqGroups {
  std::int64_t first = 0, count = 0;
  std::int64_t row_begin = 0, rows = 0;
};
GptvqGroups gptvq_groups(const format::GptvqExtents& extents, std::int64_t rank, std::int64_t size);

}  // namespace voronoi::quant
