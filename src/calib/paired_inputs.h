// What the unquantized model's residual stream gives to the sites of a block, kept for a chunk, so that sums over the
// rows of another stream can have both of a token side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "backend/tensor.h"
#include "core/types.h"
#include "model/config.h"

namespace voronoi::calib {

/// The counterparts of rows that enter a site, in their order.
struct PairedRows {
  const float* x = nullptr;  ///< [n_rows, n], device
  std::vector<bool> sound;   ///< [n_rows] whether no value is above largest_input, or not finite
};

/// Whether rows of two streams at a site belong to the same tokens. Not at an expert's, which sees those that its
/// stream routes to it.
bool is_paired(const model::SiteSpec& site);

class PairedInputs {
 public:
  /// Of those sites [first, last) of a block that are paired. The references must outlive it.
  PairedInputs(backend::Context& context, const std::vector<model::SiteSpec>& sites, std::size_t first,
               std::size_t last, core::DType dtype);

  /// A new chunk; what was kept is gone.
  void start();
  /// As a model::SiteObserver of the recorded stream.
  void record(std::size_t site, const float* x, std::int64_t n_rows);
  /// The other stream begins with the chunk, or begins anew.
  void rewind();
  /// Of the next n_rows rows that enter a paired site of [first, last), as the other stream's observer is told of them.
  PairedRows next(std::size_t site, std::int64_t n_rows);

 private:
  struct Kept {
    std::int64_t n = 0;
    backend::Array<float> values;  ///< at least [n_rows, n]
    std::vector<bool> sound;       ///< [n_rows]
    std::int64_t n_taken = 0;      ///< rows that the other stream has had
  };

  backend::Context& context_;
  core::DType dtype_;
  std::map<std::size_t, Kept> kept_;  ///< by site
};

}  // namespace voronoi::calib
