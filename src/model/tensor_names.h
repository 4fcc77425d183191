// Names of tensors as the classes for causal language models have them, of checkpoints that call them otherwise.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace voronoi::model {

/// How a checkpoint's names become "model.layers.0...", "lm_head.weight": parts that wrappers left behind
/// ("_orig_mod.", "module.", ...) go wherever they stand, then `base` becomes "model." and `head` + "lm_head.weight" is
/// the head. transformers does the same for an absent or additional base prefix, not for wrappers.
class TensorNames {
 public:
  /// Finds the prefix in front of "layers.0.NORM.weight", a norm that every layer has; of several the one that is of a
  /// language model. With none or several left, names stay as they are.
  explicit TensorNames(const std::vector<std::string_view>& stored, const std::string& norm = "input_layernorm");

  std::string standard(std::string_view stored) const;
  /// What stands in the place of "model.".
  const std::string& base() const { return base_; }
  /// Whether there is anything to rename.
  bool differ() const { return differ_; }
  /// A tensor of the first layer as it is stored, for messages.
  const std::string& found() const { return found_; }

 private:
  std::string base_ = "model.", head_, found_;
  bool differ_ = false;
};

}  // namespace voronoi::model
