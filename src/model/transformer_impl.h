// What the parts of the forward and backward pass share: weights on the device, work arrays, the one place that applies
// a linear. Private to model/transformer*.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/error_context.h"
#include "core/types.h"
#include "model/transformer.h"

namespace voronoi::model {

/// a * b; throws InternalError when it overflows.
std::int64_t product(std::int64_t a, std::int64_t b);

/// Memory that runs short, and other faults of the device, are told with the block.
template <class Work>
decltype(auto) in_block(std::int64_t layer, const Work& work) {
  return core::with_context<core::DeviceError>("block " + std::to_string(layer), work);
}

/// Rows of hidden states [n_sequences, n_tokens] that predict a token, and which.
struct Predictions {
  std::vector<std::int32_t> rows, targets;
};
Predictions predictions(const HiddenStates& hidden, std::span<const std::int32_t> ids);

/// A gated part of a mixture whose `out` [n_rows, hidden_size], may be overwritten, counts `weight` [n_rows] in the
/// rows `row` of the result (null: all).
struct MixturePart {
  std::size_t gate_up;  ///< its first site
  std::int64_t n_rows;
  const float* x;  ///< [n_rows, hidden_size]
  float* out;
  const std::int32_t* row;
  const float* weight;
  std::int64_t place;  ///< of an expert's first row in the order by expert
};

/// What the backward pass asks of a mixture as it runs again: nobody needs what it gives.
struct MixtureTape {
  std::function<void(const MixturePart&)> part;  ///< called for each part instead of adding it
  backend::Array<float> gate_up;                 ///< of that part, as FeedForwardTape's
  // What its router gave.
  backend::Array<float> logits, weight;         ///< [n_rows, n_experts], [n_rows, top_k]
  backend::Array<std::int32_t> expert, places;  ///< [n_rows, top_k]; places: in the order by expert
};

/// Where q, k and v of n_rows tokens lie in one array: three matrices one after the other, or the columns of one.
struct AttentionParts {
  std::int64_t k, v, ld_q, ld_kv;
};

/// The same as pointers.
struct QkvParts {
  float *q, *k, *v;
};

struct Transformer::Impl {
  Impl(const WeightSource& weight_source, backend::Context& backend_context, std::optional<core::DType> product_dtype,
       PackedLinears packed_linears);

  // staged: where the tensors are taken from; nullptr reads them from the source now.
  backend::Array<float> load(const std::string& name, StagedBlock* staged = nullptr) const;
  /// In the type of the products.
  LinearWeight load_matrix(const std::string& name, StagedBlock* staged = nullptr) const;
  /// What a norm multiplies by: its weight, or one more than it.
  backend::Array<float> load_norm(const std::string& name, StagedBlock* staged = nullptr) const;
  BlockWeights load_block(std::int64_t layer, StagedBlock* staged) const;
  StagedBlock stage_block(std::int64_t layer, core::ThreadPool& pool) const;

  /// A work array of at least n elements that lives on for the next call.
  static float* grow(backend::Context& context, backend::Array<float>& array, std::int64_t n);

  const LinearWeight& embedding_table();
  const LinearWeight& head_table();
  const backend::Array<float>& final_norm_weight();
  const float* rope_rows(std::int64_t n_tokens);
  /// Throws FormatError for an id outside the vocabulary.
  void check_ids(std::span<const std::int32_t> ids) const;
  void check_hidden(const HiddenStates& hidden) const;
  /// The residual stream as it enters the first block, [ids.size(), hidden_size].
  backend::Array<float> embed(std::span<const std::int32_t> ids);

  const std::vector<SiteSpec>& block(const BlockWeights& weights) const {
    return sites[static_cast<std::size_t>(weights.layer)];
  }

  /// out [n_rows, out_features] = x W^T (+ out when `accumulate`) + bias.
  void linear(const BlockWeights& weights, std::size_t site, std::size_t index, std::int64_t n_rows, const float* x,
              bool accumulate, float* out) const;
  void norm(std::int64_t n_rows, std::int64_t dim, const float* x, const backend::Array<float>& weight,
            float* out) const;
  /// hidden [n_rows, hidden_size] += x times the site's only linear, normed before it is added where `out_norm` holds
  /// weights; `raw`: what is normed is kept there.
  void add_output(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                  const backend::Array<float>& out_norm, float* hidden, backend::Array<float>* raw = nullptr);

  AttentionParts attention_parts(std::int64_t n_rows) const;
  kernels::AttentionShape attention_shape(const BlockWeights& weights, std::int64_t n_sequences,
                                          std::int64_t n_tokens) const;
  /// Queries, keys and values of n_rows rows, not yet turned by their positions; normed [n_rows, hidden_size] is
  /// overwritten. raw_qk: keeps q, then k, before their norms.
  void project(const BlockWeights& weights, std::int64_t n_rows, const float* hidden, float* normed, const QkvParts& to,
               const SiteObserver& observer, backend::Array<float>* raw_qk);
  /// cache: of the one sequence's tokens before these, which are added to it.
  void attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens, float* hidden,
                      const SiteObserver& observer, KvCache* cache = nullptr, AttentionTape* tape = nullptr);

  /// The attention half of packed rows.
  void ragged_attention_half(const BlockWeights& weights, RaggedStates& states);

  /// Keys and values of a fused product [n_tokens, q + k + v] to the end of the cache.
  void copy_to_cache(const float* qkv, std::int64_t n_tokens, KvCache& cache, std::size_t layer);

  /// first_row: the place of the first of n_rows among the rows of the hidden states, for the observer.
  void feed_forward_half(const BlockWeights& weights, std::int64_t n_rows, float* hidden, const SiteObserver& observer,
                         FeedForwardTape* tape = nullptr, std::int64_t first_row = 0);
  /// Of the pair of sites that begins at `site`, for its input x [n_rows, hidden_size]: gates, then ups, in work_wide,
  /// work_split or the tape.
  float* gate_and_up(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                     const SiteObserver& observer, backend::Array<float>* tape = nullptr);
  /// inner [n] = the gated product of n gates and the ups that follow them; may be in their place.
  void gate(std::int64_t n, const float* gate_up, float* inner) const;
  /// Both, [n_rows, inner], in a work array that the next call overwrites. Tells the observer of both sites.
  const float* gated(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                     const SiteObserver& observer, backend::Array<float>* tape = nullptr);
  /// hidden += the experts of each row of normed [n_rows, hidden_size], weighted.
  void mixture(const BlockWeights& weights, std::int64_t n_rows, const float* normed, float* hidden,
               const SiteObserver& observer, std::int64_t first_row = 0, MixtureTape* tape = nullptr);

  /// Logits of the rows `rows` of hidden states, in `logits`: [rows.size(), vocab]; what entered the head stays in
  /// work_normed. norm_weight: of the final norm, null: the model's own; raw: keeps the rows before it.
  float* slab_logits(const backend::Array<float>& hidden, std::span<const std::int32_t> rows,
                     backend::Array<float>& logits, const backend::Array<float>* norm_weight = nullptr,
                     backend::Array<float>* raw = nullptr);
  /// body(first, n) over n_rows rows of logits, as many at a time as fit. A slab reaches over sequences where batches
  /// do.
  template <class Body>
  void for_each_slab(std::size_t n_rows, std::size_t rows_a_sequence, const Body& body) const {
    const std::size_t unit = context.on_host() ? n_rows : rows_a_sequence;
    for (std::size_t first = 0, n = 0; first < n_rows; first += n) {
      n = std::min(slab_rows(), unit - first % unit);
      body(first, n);
    }
  }
  std::size_t slab_rows() const;

  /// body(n_sequences, first value of theirs) for a few sequences of the hidden states at a time.
  template <class Body>
  void for_each_batch(std::int64_t layer, const HiddenStates& hidden, const Body& body) const {
    if (hidden.values.empty()) return;
    const std::int64_t per_batch = context.on_host() ? host_batch(hidden.n_tokens) : 1;
    for (std::int64_t s = 0; s < hidden.n_sequences; s += per_batch)
      in_block(layer,
               [&] { body(std::min(per_batch, hidden.n_sequences - s), s * hidden.n_tokens * config.hidden_size); });
  }

  /// The backward pass of a block: model/transformer_backward.cpp.
  struct Backward;
  /// Both losses: with a teacher the divergence from it (reverse as in Transformer::divergence), else the negative
  /// log-likelihood of `targets`, at the rows `rows` of the hidden states.
  LossGradient loss_gradient(const HiddenStates& hidden, const HiddenStates* teacher,
                             std::span<const std::int32_t> rows, std::span<const std::int32_t> targets,
                             std::int64_t rows_a_sequence, float factor, const backend::Array<float>* norm_weight,
                             bool with_head, double reverse = 0);

  const WeightSource& source;
  backend::Context& context;
  const ModelConfig& config;
  const core::DType dtype;
  const PackedLinears packed_linears;
  std::map<std::string, core::Shape> shapes;
  std::vector<std::vector<SiteSpec>> sites;  // [layer][site]
  LinearWeight embedding, head;
  backend::Array<float> final_norm, rope;
  std::int64_t n_rope_positions = 0;
  backend::Array<float> work_normed, work_wide, work_split, work_expert, work_out;
  // Of the backward pass.
  AttentionTape attention_tape;
  FeedForwardTape feed_forward_tape;
  MixtureTape mixture_tape;
  backend::Array<float> work_middle, work_d_wide, work_d_normed, work_d_expert, work_raw, work_teacher;

 private:
  TensorSpec spec_of(const std::string& name) const;
  /// The tensor packed, when it is to be used so.
  PackedTensor packed(const std::string& name) const;
  std::vector<float> read(const TensorSpec& spec) const;
  HostTensor take(const std::string& name, core::DType type, StagedBlock* staged) const;
  HostTensor take_matrix(const std::string& name, StagedBlock* staged) const;
  /// Staged values go up beside the computing.
  template <class T>
  backend::Array<T> place(const std::vector<T>& values, StagedBlock* staged) const;
};

}  // namespace voronoi::model
