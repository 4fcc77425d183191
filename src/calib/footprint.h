// What calibrating takes: operations and memory, from a model's sizes alone.
#pragma once

#include <cstdint>

#include "core/memory_peak.h"
#include "core/types.h"
#include "model/config.h"

namespace voronoi::calib {

/// What is summed of a block's inputs.
struct HessianKind {
  bool guided = false;          ///< one sum a linear, or a group of its rows, beside that of its site
  double held_out_share = 0;    ///< of the chunks, which are summed apart from the others
  bool sequential = false;      ///< the stream leaves blocks quantized
  bool cross = false;           ///< beside each sum one with the rows of a second stream, through the original blocks
  bool all_experts = false;     ///< experts have sums of all rows, and plain ones alone
  std::int64_t row_groups = 1;  ///< of a linear, see calib/row_groups.h
  std::int64_t tokens = 0;      ///< in all sums together, held out or not
};

/// Operations of one block over all calibration tokens; a multiplication and an addition count as two.
struct BlockWork {
  double gemm = 0;  ///< linears and attention, of one pass of all streams
  double gram = 0;  ///< Hessians: one triangle, tokens n (n + 1) a site; moments of two streams, which are made in
                    ///< fp64, count twice
  double gram_flops = 0;  ///< the same, all counted once
};
/// Of rows that enter a triangle, or a whole matrix, of order n.
inline double triangle_flops(std::int64_t n, std::int64_t rows) {
  return static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(n + 1);
}
inline double cross_flops(std::int64_t n, std::int64_t rows) {
  return 2 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(n);
}
/// Sums of a site's rows: its own, and where they are guided one a linear.
std::int64_t sums_of_site(const model::SiteSpec& site, HessianKind kind);
BlockWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_sequences,
                     std::int64_t context, HessianKind kind = {});
/// Operations of the pass that tells what tokens count (calib/token_weights.h), in fp32, the head apart.
double weighing_work(const model::ModelConfig& config, std::int64_t n_sequences, std::int64_t context);
/// Nodes of the trees of a site's sums: of the chunks that are summed, and of those that are held out.
struct TreeNodes {
  std::int64_t summed = 0, held_out = 0;
  std::int64_t both() const { return summed + held_out; }
};
/// Nodes with values in the trees over chunks [first, last): the aligned runs of a power of two that the range is made
/// of, where a chunk of the tree's kind is among them.
TreeNodes tree_nodes(std::int64_t first, std::int64_t last, double held_out_share);
/// At most at a time while a run of chunks is added one by one, that at work among them: a tree keeps the memory of
/// merged nodes for the next ones.
TreeNodes most_nodes(std::int64_t first_chunk, std::int64_t n_chunks, double held_out_share);

/// The largest file of a site that may still be on its way to disk while the next one is made.
inline constexpr std::int64_t kFileBesideBytes = std::int64_t{4} << 30;

/// Bytes of a site's file.
std::int64_t hessian_bytes(const model::SiteSpec& site, HessianKind kind);
/// What the rank with the most partial sums sends to others for a site, by the bytes of the site's file.
double sent_share(std::int64_t n_sequences, std::int64_t context, int n_ranks, HessianKind kind);

/// One rank's memory. The owner of a site has its mean, of which each rank makes a slice; one site is summed over ranks
/// at a time.
struct CalibrationMemory {
  core::MemoryPeak every;      ///< any rank, while it runs the block; all of it with a CPU context
  core::MemoryPeak owner;      ///< the rank that owns the widest site
  core::MemoryPeak weighing;   ///< any rank, while it learns what tokens count; empty without
  std::int64_t lasting = 0;    ///< what stays for the whole run: residual stream, work arrays
  core::MemoryPeak on_device;  ///< of it all, with a device of its own memory: weights, stream, sums and their trees
  std::int64_t every_on_host = 0, owner_on_host = 0, weighing_on_host = 0;  ///< and what is left on the host then
};
/// `n_ranks` share the windows; the rank with the most of them. device_dtype: of products on a device of its own
/// memory, where the blocks that a BlockPrefetcher has read ahead count too. stored_size: bytes of a value of the
/// embedding as the model stores it, 2 or 4.
CalibrationMemory calibration_memory(const model::ModelConfig& config, std::int64_t n_sequences, std::int64_t context,
                                     int n_ranks, HessianKind kind = {}, core::DType device_dtype = core::DType::bf16,
                                     std::int64_t stored_size = 2);

}  // namespace voronoi::calib
