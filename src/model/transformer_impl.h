// What the parts of the forward pass share: weights on the device, work arrays, the one place that applies a linear.
// Private to model/transformer*.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/types.h"
#include "model/transformer.h"

namespace voronoi::model {

/// a * b; throws InternalError when it overflows.
std::int64_t product(std::int64_t a, std::int64_t b);

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
  const float* rope_rows(std::int64_t n_tokens);
  /// Throws FormatError for an id outside the vocabulary.
  void check_ids(std::span<const std::int32_t> ids) const;
  void check_hidden(const HiddenStates& hidden) const;

  const std::vector<SiteSpec>& block(const BlockWeights& weights) const {
    return sites[static_cast<std::size_t>(weights.layer)];
  }

  /// out [n_rows, out_features] = x W^T (+ out when `accumulate`) + bias.
  void linear(const BlockWeights& weights, std::size_t site, std::size_t index, std::int64_t n_rows, const float* x,
              bool accumulate, float* out) const;
  void norm(std::int64_t n_rows, std::int64_t dim, const float* x, const backend::Array<float>& weight,
            float* out) const;
  /// hidden [n_rows, hidden_size] += x times the site's only linear, normed before it is added where `out_norm` holds
  /// weights.
  void add_output(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                  const backend::Array<float>& out_norm, float* hidden);

  /// cache: of the one sequence's tokens before these, which are added to it.
  void attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens, float* hidden,
                      const SiteObserver& observer, KvCache* cache = nullptr);

  /// Keys and values of a fused product [n_tokens, q + k + v] to the end of the cache.
  void copy_to_cache(const float* qkv, std::int64_t n_tokens, KvCache& cache, std::size_t layer);

  void feed_forward_half(const BlockWeights& weights, std::int64_t n_rows, float* hidden, const SiteObserver& observer);
  /// The gated product that enters the down projection, [n_rows, inner], in work_wide: of the pair of sites that begins
  /// at `gate_up`, for its input x [n_rows, hidden_size]. Tells the observer of both.
  const float* gated(const BlockWeights& weights, std::size_t gate_up, std::int64_t n_rows, const float* x,
                     const SiteObserver& observer);
  /// hidden += the experts of each row of normed [n_rows, hidden_size], weighted.
  void mixture(const BlockWeights& weights, std::int64_t n_rows, const float* normed, float* hidden,
               const SiteObserver& observer);

  /// Logits of the hidden rows `rows`, in work_wide: [rows.size(), vocab].
  const float* slab_logits(const HiddenStates& hidden, std::span<const std::int32_t> rows);
  std::size_t slab_rows() const;

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
