// Runs blocks over a residual stream, data-parallel over ranks, and collects one Hessian a site.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/device.h"
#include "calib/hessian_tree.h"
#include "calib/paired_inputs.h"
#include "calib/rank_sums.h"
#include "calib/residual_stream.h"
#include "calib/site_sum.h"
#include "calib/token_weights.h"
#include "comm/mpi.h"
#include "model/transformer.h"

namespace voronoi::calib {

/// Of one linear, or of a group of its outputs: the mean of s x x^T over the rows, s what TokenWeights says of them.
struct GuidedHessian {
  std::string linear;           ///< full module path
  std::vector<float> lower;     ///< packed lower triangle; empty: no row counts
  std::vector<float> held_out;  ///< of the chunks that were kept out; empty: there are none, or no row counts
  double effective_tokens = 0;  ///< see RowWeights
  std::vector<float> cross, held_out_cross;  ///< as those of SiteHessian, of rows that count s
  std::int64_t group = 0;                    ///< see calib/row_groups.h
};

struct SiteHessian {
  std::string site;  ///< as model::block_sites names it
  std::int64_t n = 0;
  std::int64_t n_tokens = 0;       ///< rows that entered this site; an expert sees those routed to it only
  std::int64_t n_left_out = 0;     ///< rows besides that were too large or not finite (largest_input)
  std::int64_t pooled_tokens = 0;  ///< above 0: the expert was starved, and `lower` is the mean over so many rows
  std::vector<float> lower;        ///< packed lower triangle of E[x x^T]
  std::string fault;               ///< not empty: no row was left, `lower` is 0; where the first bad value was seen
  std::int64_t held_out_tokens = 0;
  std::vector<float> held_out;  ///< of the chunks that were kept out of `lower`; empty: there are none
  /// [n, n] E[(y - x) x^T], y what the unquantized model's stream gives to the site in the place of x, see
  /// PairedInputs; y - x counts as 0 where there is no y. Of the same rows as `lower` and `held_out`; empty: no second
  /// stream, or a pool.
  std::vector<float> cross, held_out_cross;
  std::vector<GuidedHessian> guided;  ///< linear by linear, one a group, or none
  /// Of its groups in order; empty: there is none for the linear.
  std::span<const GuidedHessian> guided_for(const std::string& linear) const;
  /// Give the memory of matrices; what is known of them stays.
  void drop_moments();
  void drop_held_out();  ///< those of held-out chunks, but for cross moments
};

/// Whether an expert's site saw too few tokens for a Hessian of its own: fewer than a quarter of its inputs, so that
/// three quarters of the directions would be nothing but damping. It then takes the mean over the rows of all experts
/// of the layer at the same place (gate_up or down), its own among them. For gate_up that is the mean over all tokens;
/// for down it says little more than the usual scale, since the inner channels of two experts are unrelated.
bool is_starved(const model::SiteSpec& site, std::int64_t n_tokens);

/// Memory (of the device that computes) a rank may spend on the sums of one pass over a block; a block of many experts
/// takes more than one pass. The Hessians do not depend on it.
constexpr std::int64_t kHessianBytes = std::int64_t{32} << 30;

/// Sites [first, last) of a block whose sums are made in one pass over it.
struct PassSites {
  std::size_t first = 0, last = 0;
};
/// As many sites a pass as hessian_bytes allow, but one at least. n_sums: of each site, its own and those of linears.
std::vector<PassSites> divide_into_passes(const std::vector<model::SiteSpec>& sites,
                                          std::span<const std::int64_t> n_sums, std::int64_t chunks_a_rank,
                                          bool held_out, bool cross, std::int64_t hessian_bytes);

/// All calls are collective over the communicator, with the same arguments.
class Collector {
 public:
  struct Options {
    std::int64_t hessian_bytes = kHessianBytes;
    double held_out_share = 0;                    ///< of the chunks, see is_held_out
    const TokenWeights* token_weights = nullptr;  ///< of the stream's windows; null: plain Hessians alone
    /// The same windows on their way through the unquantized blocks, for `cross`; null: none. Each block that is
    /// collected lets it on.
    ResidualStream* original = nullptr;
    /// Whether the stream is the one that token_weights is of. Else experts see other rows than it knows, and have
    /// plain Hessians alone.
    bool is_weighed_stream = true;
    /// Experts have Hessians of all rows, not of those that the router gives them; plain ones alone, since nothing says
    /// what the others count. What leaves a block does not depend on it.
    bool all_experts = false;
  };
  /// The references must outlive the collector.
  Collector(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
            ResidualStream& stream, const Options& options);
  Collector(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
            ResidualStream& stream)
      : Collector(transformer, context, communicator, stream, Options{}) {}

  /// Runs the block's weights over the residual stream and returns the Hessians of the sites that this rank owns (sites
  /// are dealt to ranks in turn). `advance`: whether the stream leaves the block; without it the stream stays as it
  /// was; the original one leaves it either way. Rows with an input that is too large or not finite enter no sum, and
  /// are counted. Throws StopRequested as the stream does.
  std::vector<SiteHessian> collect(const model::BlockWeights& weights, bool advance);
  /// The first input that was left out, of all blocks collected so far: block, site, place and value, as text; empty:
  /// none. The same on every rank.
  const std::string& first_fault() const { return first_fault_; }
  /// Tokens that entered each expert of the last block collected; empty where it is no mixture. The same on every rank.
  const std::vector<std::int64_t>& expert_tokens() const { return expert_tokens_; }

 private:
  using Chunk = ResidualStream::Chunk;
  /// What is summed: a site's rows, each once, or as they count for a group of one of its linears.
  struct Target {
    std::size_t site = 0;
    std::optional<std::size_t> linear;
    std::int64_t group = 0;
  };
  /// Sites [first, last) of a block, and what of them is summed.
  struct Pass {
    std::size_t first = 0, last = 0;
    std::vector<Target> targets;
  };
  std::vector<Pass> passes(const std::vector<model::SiteSpec>& sites) const;
  int owner(std::int64_t layer, std::size_t n_sites, std::size_t site) const;
  /// Hessians of the owned sites of the pass, appended to `owned`.
  void run_pass(const model::BlockWeights& weights, const std::vector<model::SiteSpec>& sites, const Pass& pass,
                bool advance, std::vector<SiteHessian>& owned);
  /// The block over this rank's `index`-th chunk; the sums of the pass. Returns the stream behind the block.
  model::HiddenStates sum_chunk(const model::BlockWeights& weights, const std::vector<model::SiteSpec>& sites,
                                std::size_t index, const Pass& pass, PairedInputs* pairs, std::vector<SiteSum>& sums);
  /// What the original stream gives to the sites of the pass in this rank's `index`-th chunk.
  void record_original(const model::BlockWeights& weights, std::size_t index, bool advance, PairedInputs& pairs);
  /// The sums of all ranks become part of their site's Hessian, the last of `owned`, at the root.
  void sum_over_ranks(SiteSum& sum, const Target& target, const std::vector<model::SiteSpec>& sites, int root,
                      std::vector<SiteHessian>& owned);
  /// Remembers the first value of a site that was left out, if none was before.
  void note_fault(std::int64_t layer, const std::vector<model::SiteSpec>& sites, std::size_t site, const Chunk& chunk,
                  const BadInput& bad);
  /// The same first fault on every rank.
  void agree_on_fault();
  /// Gives starved experts the pool of their layer; and counts what all of them got.
  void pool_starved(std::int64_t layer, const std::vector<model::SiteSpec>& sites, std::vector<SiteHessian>& owned);

  model::Transformer& transformer_;
  backend::Context& context_;
  const comm::Communicator& communicator_;
  ResidualStream& stream_;
  RankSums rank_sums_;
  Options options_;
  std::string first_fault_;
  std::vector<std::int64_t> expert_tokens_;
  /// Of this rank in the block at hand, with its site and chunk; the chunk is negative when there is none.
  std::size_t fault_site_ = 0;
  std::int64_t fault_chunk_ = -1;
  std::string fault_text_;
};

}  // namespace voronoi::calib
