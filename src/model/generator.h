// Continues a sequence token by token, with all blocks in device memory and keys and values cached.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/transformer.h"

namespace voronoi::model {

class Generator {
 public:
  /// Loads every block; linears that the source stores packed stay packed. capacity: most tokens of a sequence. The
  /// references must outlive it.
  Generator(const WeightSource& source, backend::Context& context, std::optional<core::DType> dtype,
            std::int64_t capacity);

  core::DType dtype() const { return transformer_.dtype(); }
  std::int64_t n_tokens() const { return cache_.n_tokens; }
  /// Appends tokens (at least one; n_tokens() may not pass the capacity) and returns the logits [vocab] of what
  /// follows, as of the whole sequence at once: where its length changes the angles of the rotary embedding (see
  /// rope_kind), all of it is computed again.
  std::vector<float> feed(std::span<const std::int32_t> ids);

 private:
  std::vector<std::int32_t> fed_;
  Transformer transformer_;
  std::vector<BlockWeights> blocks_;
  KvCache cache_;
};

/// temperature 0: the largest logit, the lowest id of equals. Else a draw from softmax(logits / temperature) at `place`
/// in [0, 1). Throws NumericError when no logit is finite.
std::int32_t pick_token(std::span<const float> logits, double temperature, double place);

}  // namespace voronoi::model
