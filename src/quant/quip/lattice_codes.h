// The codes of QuIP# (arXiv 2402.04396) for rows of a matrix in a metric: error feedback by blocks of 8 columns, then
// sweeps that choose each code anew.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/thread_pool.h"

namespace voronoi::quant {

/// Columns of a code.
inline constexpr std::int64_t kLatticeDim = 8;

/// What all rows share. Made on the host.
struct LatticeMetric {
  std::int64_t n = 0;
  std::span<const float> h;  ///< [n, n]
  /// Added to the diagonal of h: what the feedback's factor was made with, and what sweeps see.
  double feedback_damping = 0, sweep_damping = 0;
  /// L of h + feedback_damping I = L D L^T, D of blocks of 8 x 8 and L with identities in their place: [n, n], nothing
  /// above its diagonal blocks.
  std::vector<float> feedback;
  /// Inverses of the diagonal blocks of h + sweep_damping I, [ceil(n / 8), 8, 8]; rows and columns past n are 0.
  std::vector<float> inverse;
};

/// In fp64. h must outlive it. Where h + damping I is not positive definite more is added, up to the mean diagonal.
/// Throws NumericError when that does not do.
LatticeMetric lattice_metric(core::ThreadPool& pool, std::int64_t n, std::span<const float> h, double damping,
                             double sweep_damping);

struct LatticeSettings {
  int bits = 2;
  int sweeps = 10;
};

/// Of a range of rows.
struct LatticeCodes {
  std::vector<std::uint16_t> codes;     ///< [rows, ceil(n / 8)]
  std::vector<std::uint16_t> residual;  ///< the same at 3 and 4 bits
  /// By row: tr(E (H + sweep_damping I) E^T) behind the feedback and behind the sweeps; 0 without sweeps.
  std::vector<double> error_before, error_behind;
};

/// Codes of `rows` rows of weight [rows, n], in units of the codebook. Rows are independent of one another; they are
/// dealt to the pool in tiles of kRowTile.
///
/// Feedback, from the last block: x_k = W_k + (W - What)_{>k} L_{>k,k}, What_k the codeword nearest to x_k. A sweep,
/// from the last block: What_k becomes the codeword nearest to What_k + (W - What) H_{:,k} H_kk^-1 wherever this lowers
/// the error; the published rule takes it in any case. A row's last block of fewer than 8 columns is searched by those
/// it has.
LatticeCodes lattice_codes(core::ThreadPool& pool, const LatticeMetric& metric, const LatticeSettings& settings,
                           std::int64_t rows, std::span<const float> weight);

/// The value of codes, `residual` is looked at at 3 and 4 bits.
void decode_lattice(int bits, std::uint16_t code, std::uint16_t residual, float* values);

}  // namespace voronoi::quant
