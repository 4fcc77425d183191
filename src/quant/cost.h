// What quantizing takes: operations by the kernel that does them, from shapes and parameters alone. Rates of a device
// turn them into seconds; the scheduler corrects its guesses by what is measured.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/parameters.h"

namespace voronoi::quant {

/// Operations of each kind; a multiplication and an addition count as two.
struct Work {
  double gemm = 0;       ///< fp32 matrix products: 2 m n k
  double nearest = 0;    ///< distances to centroids: 2 n k dim
  double factor = 0;     ///< fp64 Cholesky factor and inverse: 2/3 n^3
  double seeding = 0;    ///< potentials of k-means++: 3 n dim candidates
  double scattered = 0;  ///< additions to sums at places that codes choose
  double bytes = 0;      ///< passed through memory by loops that do nothing else
  double steps = 0;      ///< kernels that must wait for one another, whatever the number of rows: a device's latency

  Work& operator+=(const Work& other);
  friend Work operator+(Work a, const Work& b) { return a += b; }
  friend Work operator*(Work work, double by);
  /// All arithmetic.
  double flops() const { return gemm + nearest + factor + seeding + scattered; }
};

/// Reading and factoring one Hessian. One member of a team does it, the others wait for it.
Work hessian_work(std::int64_t n);

/// Gathered of each row for hessian_energies: its share of error and energy.
inline double energy_bytes(std::int64_t out_features) { return 16 * static_cast<double>(out_features); }

/// `count` products of an operator with a matrix as large as its Hessian, and the passes over its weights.
Work product_work(std::int64_t out_features, std::int64_t in_features, double count);

/// Sums of so many numbers each over all row pieces, by a team (core/team.h).
struct SumWork {
  double values = 0, count = 0;
};

/// Work of one operator, which the rows of a team share. Steps that stop by themselves are counted as often as they
/// were seen to run on real layers.
struct OperatorWork {
  Work kmeans;                  ///< training of all codebooks
  Work column_loop;             ///< passes with error feedback, or rounding alone
  Work refine;                  ///< refits and sweeps behind them
  Work repeated;                ///< of all of it, what every member of a team does by itself; its steps are not told
  double exchange_bytes = 0;    ///< that the members of a team gather whole: codes, figures of rows
  std::vector<SumWork> sums;    ///< that they exchange, a step of k-means and of a refit each
  std::int64_t row_pieces = 1;  ///< that the rows are cut into: a larger team has members without work
  Work total() const { return kmeans + column_loop + refine; }
};

/// What each member of a team receives from the others.
double received_bytes(const OperatorWork& work, int members);

/// Of the parameters' method, for parameters and a shape without problems.
OperatorWork operator_work(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);

}  // namespace voronoi::quant
