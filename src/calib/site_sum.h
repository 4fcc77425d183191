// The sum of x x^T of one site over a chunk, and which rows may enter it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "calib/hessian_tree.h"
#include "calib/paired_inputs.h"
#include "calib/residual_stream.h"
#include "core/types.h"

namespace voronoi::calib {

/// Largest magnitude of an input that enters a sum, in the type of the layer's products. A row with a larger one, or
/// one that is not finite, is left out. In F16 all that does not round to infinity; else 1e12: squares summed over any
/// calibration set, and their products with the largest weights, stay far inside fp32.
float largest_input(core::DType dtype);

/// Rows of a product in fp64 of rows and their counterparts.
inline constexpr std::int64_t kCrossRows = 1024;

/// The first value of a chunk that kept a row out.
struct BadInput {
  std::int64_t row = 0;  ///< of the rows that entered the site in this chunk
  std::int64_t channel = 0;
  float value = 0;
  bool of_pair = false;  ///< of the row's counterpart, see PairedRows
};

/// A site's sum over the chunk at hand, on the device, and over the chunks before: those that are held out apart from
/// the others. Where rows have counterparts y, (y - x) x^T is summed as well, in fp64, over those that have: a row
/// whose counterpart is too large or not finite is left out like one that is itself.
class SiteSum {
 public:
  /// paired: rows come with PairedRows.
  SiteSum(backend::Context& context, std::int64_t n, core::DType dtype, bool paired = false);

  /// A new chunk, or the same one again. weights: what the chunk's rows count, in the order in which they come; null: 1
  /// each.
  void start(const std::span<const float>* weights = nullptr);
  /// Adds rows x [n_rows, n], contiguous, device; nothing is looked at.
  void add(const float* x, std::int64_t n_rows, const PairedRows* pairs = nullptr);
  /// Whether no row, and no counterpart, can have been too large: by the sum's diagonal, after the chunk's last row.
  /// False now and then where many large rows add up.
  bool sound() const;
  /// add(), but every row is looked at first and left out when it has a value above largest_input.
  void add_sound_rows(const float* x, std::int64_t n_rows, const PairedRows* pairs = nullptr);
  /// Puts the chunk into its tree; the other one skips it.
  void finish(std::int64_t chunk, bool is_held_out);
  /// Gives all that was summed up.
  void release_trees();

  const std::optional<BadInput>& first_bad() const { return first_bad_; }
  HessianTree& tree() { return tree_; }
  HessianTree& held_out() { return held_out_; }
  /// Empty where rows have no counterparts.
  CrossTree& cross() { return cross_; }
  CrossTree& held_out_cross() { return held_out_cross_; }

 private:
  /// Of rows in device memory that count so much (empty: 1 each); pairs: null for none.
  void add_rows(const float* x, std::int64_t n_rows, std::span<const float> weights, const PairedRows* pairs);
  /// roots: what rows of x were multiplied by; empty: nothing.
  void add_cross(const float* x, std::int64_t n_rows, std::span<const float> roots, const PairedRows& pairs);
  /// x [n_rows, n], each row times its factor.
  backend::Array<float> scaled(const float* x, std::span<const float> factors) const;

  backend::Context& context_;
  std::int64_t n_;
  core::DType dtype_;
  HessianTree tree_, held_out_;
  CrossTree cross_, held_out_cross_;
  bool paired_;
  backend::Array<double> chunk_;                   ///< as HessianTree takes it
  backend::Array<double> cross_chunk_;             ///< [n, n]; empty: rows come without counterparts
  std::int64_t n_tokens_ = 0, n_left_out_ = 0;     ///< of the chunk
  std::optional<std::span<const float>> weights_;  ///< of the chunk's rows
  RowWeights counted_;                             ///< of the chunk
  std::optional<BadInput> first_bad_;              ///< of the chunk
  bool has_bad_pair_ = false;                      ///< among the rows of add()
};

}  // namespace voronoi::calib
