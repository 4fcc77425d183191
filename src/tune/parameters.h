// What is tuned, as one vector of fp32 numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace voronoi::tune {

/// Each kind of number moves at a rate of its own.
enum class Kind { codebook, scale, bias, factor, norm, weight };

/// Numbers [first, first + size) of a vector of parameters: one array of a packed linear, or a norm.
struct Segment {
  std::string tensor;      ///< the linear's name, or the norm's tensor
  std::string_view array;  ///< of the linear's encoding; empty: a norm
  Kind kind = Kind::norm;
  std::int64_t first = 0, size = 0;
  double unit = 0;  ///< root mean square of the numbers as tuning finds them: a step is a share of it
};

}  // namespace voronoi::tune
