// Forward pass, block by block: only one block's weights are held at a time unless the caller keeps them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "model/block_tape.h"
#include "model/config.h"
#include "model/gradient.h"
#include "model/linear_weight.h"
#include "model/weights.h"

namespace voronoi::model {

/// Weights of one decoder block in device memory, fp32 except for the linears. Of the norms those beyond the first two
/// are empty where the architecture has none; norms hold what the normed value is multiplied by.
struct BlockWeights {
  std::int64_t layer = 0;
  backend::Array<float> input_norm, feed_forward_norm;              // [hidden], before attention and feed-forward
  backend::Array<float> attention_out_norm, feed_forward_out_norm;  // [hidden], after them
  backend::Array<float> q_norm, k_norm;                             // [head_dim], or the width of all heads
  backend::Array<float> q_low_norm, kv_low_norm;                    // of latent attention: [q_rank], [kv_rank]
  backend::Array<float> sinks;                                      // [n_heads]
  backend::Array<float> router, shared_gate;                        // [n_experts, hidden], [1, hidden]; of a mixture
  backend::Array<float> router_bias, choice_bias;                   // [n_experts]: on its logits, for its choice
  backend::Array<float> conv, delta_gates;                  // of the delta rule: [channels, width], [2 heads, hidden]
  backend::Array<float> log_decay, decay_bias, delta_norm;  // [heads], [heads], [value_dim]
  std::vector<std::vector<LinearWeight>> linears;           // [site][linear], each [out, in]
  std::vector<std::vector<backend::Array<float>>> biases;   // [site][linear], empty where there is none
};

/// A block's tensors in host memory, by name, as they will lie on the device.
struct StagedBlock {
  std::int64_t layer = 0;
  std::map<std::string, HostTensor> tensors;
};

/// As fp32, of tensors that are read at the same time on their way to a device, however many threads read: what the
/// host holds beside a StagedBlock.
inline constexpr std::int64_t kStagedPartBytes = std::int64_t{2} << 30;

/// Embedding and head reach their place in parts of about so many bytes as fp32, where the source gives rows: what the
/// host holds of one on its way.
inline constexpr std::int64_t kTablePartBytes = std::int64_t{16} << 20;

/// The type of the linears' products unless one is asked for: f32 on the CPU, the model's own 16-bit type on a GPU.
core::DType default_dtype(const backend::Context& context, const ModelConfig& config);

/// The feed-forward part of a block sees at most this many rows at a time.
inline constexpr std::int64_t kFeedForwardRows = 2048;
/// Sequences of n_tokens that a CPU runs through a block together. On a GPU, whose products may add up in another order
/// when they have another number of rows, it is always one: what a sequence gives must not depend on its company.
std::int64_t host_batch(std::int64_t n_tokens);

/// Called for every site of a block with its input x [n_rows, in_features] (device memory, row-major, contiguous),
/// before the site's linears run. In a mixture an expert's sites see the rows routed to it, and are not called when
/// there are none; `places` tells which rows of the hidden states they are, rising. It is empty for all other sites,
/// whose rows come in order.
using SiteObserver = std::function<void(const SiteSpec& site, std::size_t site_index, const float* x,
                                        std::int64_t n_rows, std::span<const std::int32_t> places)>;

/// Sequences of equal length; rows are sequence-major: hidden [n_sequences * n_tokens, hidden_size].
struct HiddenStates {
  std::int64_t n_sequences = 0, n_tokens = 0;
  backend::Array<float> values;
};

/// Tokens that follow one another in a pack of sequences of any lengths. What two sequences begin with is computed
/// once: the later one continues the earlier.
struct Segment {
  std::int64_t n_tokens = 0;
  std::int64_t parent = -1;  ///< the segment that it continues, before it in the list; -1: it begins a sequence
  std::int64_t n_past = 0;   ///< positions before it: so many of the first of the parent's sequence, 0 without one
};

/// Rows of segments, one after the other in the order of the list: values [n_rows, hidden_size].
struct RaggedStates {
  std::vector<Segment> segments;
  backend::Array<float> values;

  /// Neighbours of equal n_tokens and n_past, which attention takes together.
  struct Group {
    std::int64_t first_row = 0, n_segments = 0, n_tokens = 0, n_past = 0;
    /// With n_past > 0: where keys and values of all their positions lie, [n_segments, n_past + n_tokens], in rows of
    /// their width.
    backend::Array<std::int32_t> keys, values;
  };
  std::vector<Group> groups;
};

/// First row of each segment; one more entry, the number of rows.
std::vector<std::int64_t> first_rows(std::span<const Segment> segments);
/// Rows of positions [first, last) of a segment's sequence, last <= n_past + n_tokens.
std::vector<std::int32_t> rows_of_positions(std::span<const Segment> segments, std::span<const std::int64_t> first_row,
                                            std::int64_t segment, std::int64_t first, std::int64_t last);

/// What a model says of a token at a place.
struct TokenScore {
  double log_likelihood = 0;  ///< natural logarithm
  bool is_greedy = false;     ///< no other token has a larger logit, none of a lower id an equal one
};

/// What layers keep of one sequence's tokens so far, fp32; meaningless without tokens.
struct KvCache {
  std::int64_t capacity = 0, n_tokens = 0;
  /// [layer]: [capacity, n_kv_heads * head_dim]; of a layer of the delta rule what entered the convolution last, [width
  /// - 1, channels], and the state [value_heads, key_dim, value_dim].
  std::vector<backend::Array<float>> keys, values;
};

/// What becomes of linears that the source stores packed: decoded into the type of the products when a block is loaded,
/// or kept packed, for a few tokens at a time.
enum class PackedLinears { decode, keep };

class Transformer {
 public:
  /// Keeps references: source and context must outlive it. dtype (f32, f16, bf16): of the products of linears, head and
  /// attention, and of the embedding table, which stays in the 16 bits that it is stored in where products are in f32
  /// and nothing is lost by it; the residual stream, norms, biases, routers and all sums are fp32.
  Transformer(const WeightSource& source, backend::Context& context, std::optional<core::DType> dtype = std::nullopt,
              PackedLinears packed = PackedLinears::decode);
  ~Transformer();

  const ModelConfig& config() const;
  core::DType dtype() const;
  BlockWeights load_block(std::int64_t layer) const;
  /// Tells the source that the block's tensors will soon be read.
  void will_load(std::int64_t layer) const;
  /// load_block in two halves: the first touches neither context nor device and may run on any thread, reading tensors
  /// on the threads of `pool`; the second queues uploads, which memory().uploads_join() makes seen.
  StagedBlock stage_block(std::int64_t layer, core::ThreadPool& pool) const;
  BlockWeights upload_block(StagedBlock block) const;
  /// The same for a block too large to lie in host memory as well: its linears are read on the threads of `pool` and
  /// queued for upload a part at a time, kStagedPartBytes of them or one.
  BlockWeights load_in_parts(std::int64_t layer, core::ThreadPool& pool) const;
  /// Embedding, head and final norm give their memory back; they are read again where they are asked for.
  void release_tables();
  /// ids [n_sequences, n_tokens]; throws FormatError for an id outside the vocabulary.
  HiddenStates embed(std::span<const std::int32_t> ids, std::int64_t n_sequences, std::int64_t n_tokens);
  /// In place: hidden leaves as the residual stream after the block. Workspace is bounded: sequences run a few at a
  /// time. `tape`: keeps what backward_block takes.
  void run_block(const BlockWeights& weights, HiddenStates& hidden, const SiteObserver& observer = nullptr,
                 BlockTape* tape = nullptr);
  /// From now on observers see an expert's inputs for all rows, as if the router gave them all to it (their weight 1
  /// where weights count on inputs); what run_block computes stays as it is. The inputs of down that they see then come
  /// of products with all rows at once.
  void observe_all_experts(bool all);
  /// The same of packed sequences. On the CPU a row's result is, to the bit, that of its sequence alone; on a GPU it
  /// depends on the pack.
  RaggedStates embed(std::span<const std::int32_t> ids, std::vector<Segment> segments);
  void run_block(const BlockWeights& weights, RaggedStates& states);
  /// Of targets [rows.size()] given the rows' sequences up to them. Logits exist only for a slab of rows at a time.
  std::vector<TokenScore> score(const RaggedStates& states, std::span<const std::int32_t> rows,
                                std::span<const std::int32_t> targets);
  KvCache make_cache(std::int64_t capacity) const;
  /// run_block for the tokens of one sequence that follow those of the cache. Adds their keys and values; the caller
  /// adds to cache.n_tokens once all blocks have run.
  void extend_block(const BlockWeights& weights, HiddenStates& hidden, KvCache& cache);
  /// Logits [n_rows, vocab] of chosen rows of the hidden states (final norm and head applied), to host memory.
  std::vector<float> logits(const HiddenStates& hidden, std::span<const std::int64_t> rows);
  /// Negative log-likelihoods (natural logarithm) of ids[s, t+1] given ids[s, <= t]: [n_sequences, n_tokens - 1],
  /// row-major. Logits exist only for a slab of rows at a time.
  std::vector<double> next_token_nll(const HiddenStates& hidden, std::span<const std::int32_t> ids);

  /// Of each predicted position, [n_sequences, n_tokens - 1] row-major, beside another model of the same vocabulary.
  struct Comparison {
    std::vector<double> nll, reference_nll;  ///< as next_token_nll gives them
    std::vector<double> divergence;          ///< KL(reference || this model) over the vocabulary, natural logarithm
    std::vector<bool> same_choice;           ///< whether both find the same token most likely
  };
  /// `reference_hidden`: of the same ids, by `reference`, which goes through its own norm and head and may be this
  /// object. Throws FormatError when the vocabularies differ in size.
  Comparison compare_predictions(const HiddenStates& hidden, Transformer& reference,
                                 const HiddenStates& reference_hidden, std::span<const std::int32_t> ids);

  /// Zeros, for backward_block.
  BlockGradients make_gradients(const BlockWeights& weights) const;
  /// The backward pass of run_block, which it computes again from `input`, the hidden states that entered the block:
  /// `gradient`, of their shape, comes in as the loss's derivative by what left the block and leaves as that by what
  /// entered it. Adds to `gradients` (null: not wanted). The type of the products must be f32 or bf16 (of linears and
  /// head; attention's are in fp32). Workspace is bounded as run_block's, with the activations of a few sequences
  /// besides.
  void backward_block(const BlockWeights& weights, const HiddenStates& input, HiddenStates& gradient,
                      BlockGradients* gradients, const GradientObserver& observer);
  /// The same, bit for bit, of what run_block kept of hidden states of the gradient's shape.
  void backward_block(const BlockWeights& weights, const BlockTape& tape, HiddenStates& gradient,
                      BlockGradients* gradients, const GradientObserver& observer);

  /// Where the losses begin: final norm and head. `norm`: what the final norm multiplies by, null: the model's own.
  struct LossGradient {
    std::vector<double> loss;    ///< of each predicted position [n_sequences, positions], row-major
    HiddenStates hidden;         ///< derivative of factor * (sum of the losses) by the hidden states
    backend::Array<float> norm;  ///< by what the final norm multiplies by, [hidden_size]
    backend::Array<float> head;  ///< by the head [vocab, hidden_size], where it is asked for
  };
  /// -log p(ids[s, t+1] | ids[s, <= t]) at the n_tokens - 1 positions of each sequence. Logits exist only for a slab of
  /// rows at a time, here and below.
  LossGradient cross_entropy(const HiddenStates& hidden, std::span<const std::int32_t> ids, float factor,
                             const backend::Array<float>* norm = nullptr, bool with_head = false);
  /// KL(teacher || hidden) over the vocabulary at every position; `teacher`, of the same shape, goes through the
  /// model's own norm and head and is constant. factor 0: the loss alone, the gradients stay empty. reverse: the share
  /// of KL(hidden || teacher) in the loss, in the place of the same share of the other.
  LossGradient divergence(const HiddenStates& hidden, const HiddenStates& teacher, float factor,
                          const backend::Array<float>* norm = nullptr, bool with_head = false, double reverse = 0);
  /// The model's own final norm, as its weights are: what the normed value is multiplied by.
  backend::Array<float> final_norm() const;
  /// table [vocab, hidden_size] += the gradient by the embedding table, of that by embed()'s result.
  void add_embedding_gradient(std::span<const std::int32_t> ids, const HiddenStates& gradient,
                              backend::Array<float>& table) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace voronoi::model
