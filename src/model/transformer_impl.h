// What the parts of the forward and backward pass share: weights on the device, work arrays, the one place that applies
// a linear. Private to model/transformer*.cpp.
#pragma once

#include <algorithm>
#include <array>
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
#include "model/attention_flops.h"
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
  /// Where weights multiply what enters an expert: the rows without theirs [n_rows], and x is with them; else null.
  const float *unweighted, *input_weight;
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

/// How a layer turns queries and keys.
struct Turn {
  const float* cos_sin = nullptr;  ///< [positions, n_turned]; null: it does not
  std::int64_t n_turned = 0, offset = 0;
  bool interleaved = false, keys = false;  ///< keys: not queries alone
};

/// body(shape of a piece, its first row, its first key) for the pieces of attention that see nothing of each other:
/// `chunk` positions each, 0: there is one.
template <class Body>
void for_each_chunk(const kernels::AttentionShape& shape, std::int64_t chunk, const Body& body) {
  if (chunk == 0 || shape.n_past + shape.n_tokens <= chunk) return body(shape, std::int64_t{0}, std::int64_t{0});
  for (std::int64_t s = 0; s < shape.n_sequences; ++s)
    for (std::int64_t done = 0; done < shape.n_tokens;) {
      kernels::AttentionShape piece = shape;
      const std::int64_t position = shape.n_past + done, left = shape.n_tokens - done;
      piece.n_past = position % chunk;
      piece.n_tokens = std::min(chunk - piece.n_past, left);
      piece.n_sequences = piece.n_past == 0 ? std::max<std::int64_t>(1, left / chunk) : 1;
      body(piece, s * shape.n_tokens + done, s * (shape.n_past + shape.n_tokens) + position - piece.n_past);
      done += piece.n_sequences * piece.n_tokens;
    }
}

/// Of one call of attention.
inline double piece_flops(const kernels::AttentionShape& piece) {
  return static_cast<double>(piece.n_sequences) *
         attention_flops(piece.n_tokens, piece.n_past, piece.window, piece.n_heads * piece.head_dim);
}

/// Rows of a layer of the delta rule on their way, in work arrays or a tape.
struct DeltaRows {
  std::int64_t n_rows;
  float *mixed, *convolved;  ///< [n_rows, channels]: enters the convolution, leaves it
  float *q, *k;              ///< [n_rows, keys], normed
  const float* low;          ///< [n_rows, 2 value_heads]: what the rule's gates are made of
  float* rates;              ///< the gates, of as many values
  float *attended, *gate;    ///< [n_rows, values]: leaves the rule, and what is on it
};

/// body(values that a head of keys has, their place in its part of a row of the input projection, in a row of what is
/// convolved; -1: they are on the result) for q, k, v and the gate of the result.
template <class Body>
void for_each_delta_part(const DeltaConfig& delta, const Body& body) {
  const std::int64_t key = delta.key_dim, value = delta.values() / delta.key_heads, keys = delta.keys();
  body(key, std::int64_t{0}, std::int64_t{0});
  body(key, key, keys);
  body(value, 2 * key, 2 * keys);
  body(value, 2 * key + value, std::int64_t{-1});
}

/// What the norms within latent attention add to the mean square, whatever config.json says of the others.
inline constexpr float kLowNormEps = 1e-6F;

struct Transformer::Impl {
  Impl(const WeightSource& weight_source, backend::Context& backend_context, std::optional<core::DType> product_dtype,
       PackedLinears packed_linears);

  // staged: where the tensors are taken from; nullptr reads them from the source now.
  backend::Array<float> load(const std::string& name, StagedBlock* staged = nullptr) const;
  /// In the type of the products.
  LinearWeight load_matrix(const std::string& name, StagedBlock* staged = nullptr) const;
  /// Embedding or head, in the type of the products. is_gathered: rows are looked up alone, so that 16 bits do where
  /// they hold every value.
  LinearWeight load_table(const std::string& name, bool is_gathered) const;
  /// What a norm multiplies by: its weight, or one more than it.
  backend::Array<float> load_norm(const std::string& name, StagedBlock* staged = nullptr) const;
  /// parts: linears are staged on these threads, a part of the block at a time; null: none are.
  BlockWeights load_block(std::int64_t layer, StagedBlock* staged, core::ThreadPool* parts = nullptr) const;
  StagedBlock stage_block(std::int64_t layer, core::ThreadPool& pool) const;
  struct Wanted {
    std::string name;
    core::DType dtype = core::DType::f32;
    bool is_linear = false;
  };
  /// Reads tensors from `first` on, at most kStagedPartBytes of them but one at least; the place behind them.
  std::size_t stage_part(std::span<const Wanted> tensors, std::size_t first, core::ThreadPool& pool,
                         StagedBlock& staged) const;

  /// A work array of at least n elements that lives on for the next call.
  static float* grow(backend::Context& context, backend::Array<float>& array, std::int64_t n);

  const LinearWeight& embedding_table();
  const LinearWeight& head_table();
  const backend::Array<float>& final_norm_weight();
  /// Of a layer, for the first n_positions of sequences of `length` tokens.
  Turn turn_of(std::int64_t layer, std::int64_t n_positions, std::int64_t length);
  /// kernel: NnKernels::rope or its derivative, on heads of rows whose first token stands at first_position.
  template <class Kernel>
  void turn(const Kernel& kernel, const Turn& turn, std::int64_t n_rows, std::int64_t n_tokens,
            std::int64_t first_position, std::int64_t n_heads, float* x, std::int64_t ldx) const {
    if (turn.cos_sin == nullptr) return;
    kernel(context.exec(), {n_rows, n_tokens, n_heads, config.head_dim, turn.n_turned, turn.interleaved},
           turn.cos_sin + first_position * turn.n_turned, x + turn.offset, ldx);
  }
  /// n ones.
  const float* ones(std::int64_t n);
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
  /// Its derivative: see NnGradientKernels::rms_norm.
  void norm_gradient(std::int64_t n_rows, std::int64_t dim, const float* x, const float* weight, const float* d_out,
                     bool accumulate, float* dx, float* d_weight) const;
  /// What enters a half: its norm of the rows, in `normed`; where there is none, the rows.
  const float* half_input(std::int64_t n_rows, const float* hidden, const backend::Array<float>& weight,
                          float* normed) const;
  /// hidden [n_rows, hidden_size] += x times the site's only linear, normed before it is added where `out_norm` holds
  /// weights, and scaled by residual_scale; `raw`: what is normed is kept there.
  void add_output(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                  const backend::Array<float>& out_norm, float* hidden, backend::Array<float>* raw = nullptr);

  AttentionParts attention_parts(std::int64_t n_rows) const;
  kernels::AttentionShape attention_shape(const BlockWeights& weights, std::int64_t n_sequences,
                                          std::int64_t n_tokens) const;
  std::int64_t chunk_of(const BlockWeights& weights) const {
    return config.chunk.empty() ? 0 : config.chunk[static_cast<std::size_t>(weights.layer)];
  }
  /// Queries, keys and values of n_rows rows, not yet turned by their positions; normed [n_rows, hidden_size] is
  /// overwritten. tape: keeps what was before their norms.
  void project(const BlockWeights& weights, std::int64_t n_rows, const float* hidden, float* normed, const QkvParts& to,
               const SiteObserver& observer, AttentionTape* tape);
  /// The same by latent attention, of x [n_rows, hidden_size].
  void project_latent(const BlockWeights& weights, std::int64_t n_rows, const float* x, const QkvParts& to,
                      const SiteObserver& observer, AttentionTape* tape);
  /// What of attention's result enters the output projection: under its gate, where there is one; values of latent
  /// attention fill a part of their heads.
  const float* attention_values(std::int64_t n_rows, const float* attended, const float* gate);
  /// Queries of n_rows rows, and what is on the result behind them: in the tape or a work array.
  void project_gated_queries(const BlockWeights& weights, std::int64_t n_rows, const float* x, float* q,
                             AttentionTape* tape);
  /// cache: of the one sequence's tokens before these, which are added to it.
  void attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens, float* hidden,
                      const SiteObserver& observer, KvCache* cache = nullptr, AttentionTape* tape = nullptr);

  /// Through the input projections of the delta rule; a row of zeros follows those of `mixed` without a tape. normed
  /// [n_rows, hidden_size or values] is overwritten.
  DeltaRows delta_project(const BlockWeights& weights, std::int64_t n_rows, const float* hidden, float* normed,
                          const SiteObserver& observer, AttentionTape* tape);
  /// q and k of what was convolved, and the rates of the rule.
  void delta_prepare(const BlockWeights& weights, const DeltaRows& rows);
  kernels::ConvShape conv_shape(std::int64_t n_sequences, std::int64_t n_tokens) const;
  kernels::DeltaShape delta_shape(std::int64_t n_sequences, std::int64_t n_tokens) const;
  /// hidden += what comes of the rule's result; normed as above.
  void delta_finish(const BlockWeights& weights, const DeltaRows& rows, float* hidden, float* normed,
                    const SiteObserver& observer, AttentionTape* tape);
  /// As attention_half, where the delta rule is in its place.
  void delta_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens, float* hidden,
                  const SiteObserver& observer, KvCache* cache, AttentionTape* tape);
  void ragged_delta_half(const BlockWeights& weights, RaggedStates& states);
  /// Heads of keys are divided by the root of their sum of squares, which is a norm with these weights [key_dim] and
  /// that addition to the mean square.
  const float* key_norm();
  float key_eps() const;

  /// The attention half of packed rows.
  void ragged_attention_half(const BlockWeights& weights, RaggedStates& states);

  /// Keys and values of a fused product [n_tokens, q + k + v] to the end of the cache.
  void copy_to_cache(const float* qkv, std::int64_t n_tokens, KvCache& cache, std::size_t layer);

  /// first_row: the place of the first of n_rows among the rows of the hidden states, for the observer; parallel_row:
  /// among those that the last attention half took.
  void feed_forward_half(const BlockWeights& weights, std::int64_t n_rows, float* hidden, const SiteObserver& observer,
                         std::int64_t parallel_row, FeedForwardTape* tape = nullptr, std::int64_t first_row = 0);
  /// Of the pair of sites that begins at `site`, for its input x [n_rows, hidden_size]: gates, then ups, in work_wide,
  /// work_split or the tape.
  float* gate_and_up(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                     const SiteObserver& observer, backend::Array<float>* tape = nullptr);
  /// inner [n] = the gated product of n gates and the ups that follow them; may be in their place.
  void gate(std::int64_t n, const float* gate_up, float* inner) const;
  /// Both, [n_rows, inner], in a work array that the next call overwrites. Tells the observer of both sites.
  const float* gated(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                     const SiteObserver& observer, backend::Array<float>* tape = nullptr);
  kernels::RouteShape route_shape(std::int64_t n_rows) const;
  /// hidden += the experts of each row of normed [n_rows, hidden_size], weighted.
  /// Shows the inputs of every expert's sites for all rows; computes nothing that stays.
  void observe_experts(const BlockWeights& weights, std::int64_t n_rows, const float* normed,
                       const SiteObserver& observer, std::int64_t first_row);
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
  bool all_experts = false;  // see Transformer::observe_all_experts
  const PackedLinears packed_linears;
  std::map<std::string, core::Shape> shapes;
  std::vector<std::vector<SiteSpec>> sites;  // [layer][site]
  const SitePlaces places;
  LinearWeight embedding, head;
  backend::Array<float> final_norm, all_ones;
  struct RopeTable {
    backend::Array<float> values;
    std::int64_t n_positions = 0, kind = 0;
  };
  std::array<RopeTable, 3> rope_tables;  // by LayerRope
  backend::Array<float> work_normed, work_wide, work_split, work_expert, work_out, work_unweighted, work_gate;
  backend::Array<float> work_delta, key_norms;
  backend::Array<float> work_parallel;  // what entered the last attention half, where both halves take it
  // Of the backward pass.
  AttentionTape attention_tape;
  FeedForwardTape feed_forward_tape;
  MixtureTape mixture_tape;
  backend::Array<float> work_middle, work_d_wide, work_d_normed, work_d_expert, work_raw, work_teacher, work_left;

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
