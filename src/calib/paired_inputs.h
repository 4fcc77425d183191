// What the unquantized model's residual stream gives to the sites of a block, kept for a chunk, so that sums over the
// rows of another stream can have both of a token side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "core/types.h"
#include "model/config.h"

namespace voronoi::calib {

/// The counterparts of rows that enter a site.
struct PairedRows {
  const float* x = nullptr;       ///< [*, n], device
  std::vector<std::int32_t> row;  ///< of each row its counterpart in x; -1: there is none
  std::vector<bool> sound;        ///< of each row: no value of its counterpart is above largest_input, or not finite
};

/// A token's row goes with that of the same token. Experts see the tokens that their own stream routes to them: what
/// enters gate_up has a counterpart whichever experts the recorded stream chose; what enters down has one only where it
/// chose the same expert.
class PairedInputs {
 public:
  /// Of sites [first, last) of a block. weighed: a token enters each of its experts times that one's weight, so that
  /// its counterpart is there only where the recorded stream chose the expert too. The references must outlive it.
  PairedInputs(backend::Context& context, const std::vector<model::SiteSpec>& sites, std::size_t first,
               std::size_t last, core::DType dtype, bool weighed = false);

  /// A new chunk; what was kept is gone.
  void start();
  /// As a model::SiteObserver of the recorded stream.
  void record(std::size_t site, const float* x, std::int64_t n_rows, std::span<const std::int32_t> places);
  /// The other stream begins with the chunk, or begins anew.
  void rewind();
  /// Of the next n_rows rows that enter a site of [first, last), as the other stream's observer is told of them.
  PairedRows next(std::size_t site, std::int64_t n_rows, std::span<const std::int32_t> places);

 private:
  struct Kept {
    std::int64_t n = 0;
    backend::Array<float> values;                       ///< at least [sound.size(), n]
    std::vector<bool> sound;                            ///< of each row
    std::map<std::int32_t, std::int32_t> row_of_token;  ///< where not all rows come, in order
    std::int64_t n_taken = 0;                           ///< rows that the other stream has had, where they do
  };
  /// The site whose rows are kept: one for what enters all experts.
  std::size_t keeper(std::size_t site) const;
  void append(Kept& kept, const float* x, std::int64_t n_rows) const;

  backend::Context& context_;
  const std::vector<model::SiteSpec>& sites_;
  core::DType dtype_;
  bool weighed_;
  std::map<std::size_t, Kept> kept_;  ///< by keeper
};

}  // namespace voronoi::calib
