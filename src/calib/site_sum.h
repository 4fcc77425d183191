// The sum of x x^T of one site over a chunk, and which rows may enter it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "calib/hessian_tree.h"
#include "calib/residual_stream.h"
#include "core/types.h"

namespace voronoi::calib {

/// Largest magnitude of an input that enters a sum, in the type of the layer's products. A row with a larger one, or
/// one that is not finite, is left out. In F16 all that does not round to infinity; else 1e12: squares summed over any
/// calibration set, and their products with the largest weights, stay far inside fp32.
float largest_input(core::DType dtype);

/// The first value of a chunk that kept a row out.
struct BadInput {
  std::int64_t row = 0;  ///< of the rows that entered the site in this chunk
  std::int64_t channel = 0;
  float value = 0;
};

/// A site's sum over the chunk at hand, on the device, and over the chunks before: those that are held out apart from
/// the others.
class SiteSum {
 public:
  SiteSum(backend::Context& context, std::int64_t n, core::DType dtype);

  /// A new chunk, or the same one again. weights: what the chunk's rows count, in the order in which they come; null: 1
  /// each.
  void start(const std::span<const float>* weights = nullptr);
  /// Adds rows x [n_rows, n], contiguous, device; nothing is looked at.
  void add(const float* x, std::int64_t n_rows);
  /// Whether no row can have been too large: by the sum's diagonal, after the chunk's last row. False now and then
  /// where many large rows add up.
  bool sound() const;
  /// add(), but every row is looked at first and left out when it has a value above largest_input.
  void add_sound_rows(const float* x, std::int64_t n_rows);
  /// Puts the chunk into its tree.
  void finish(const ChunkPlace& place);
  /// Gives the memory of the chunk back; the tree stays.
  void release_chunk() { chunk_ = backend::Array<double>(); }

  const std::optional<BadInput>& first_bad() const { return first_bad_; }
  HessianTree& tree() { return tree_; }
  HessianTree& held_out() { return held_out_; }

 private:
  /// Of rows in device memory that count so much.
  void add_weighted(const float* x, std::span<const float> weights);

  backend::Context& context_;
  std::int64_t n_;
  core::DType dtype_;
  HessianTree tree_, held_out_;
  backend::Array<double> chunk_;                   ///< [n, n]
  std::int64_t n_tokens_ = 0, n_left_out_ = 0;     ///< of the chunk
  std::optional<std::span<const float>> weights_;  ///< of the chunk's rows
  RowWeights counted_;                             ///< of the chunk
  std::optional<BadInput> first_bad_;              ///< of the chunk
};

}  // namespace voronoi::calib
