// Codebooks of one operator and their training.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "core/types.h"
#include "quant/vq/layout.h"
#include "quant/vq/problem.h"

namespace voronoi::quant {

/// Lloyd steps start on a share of the vectors: this many a centroid place it well enough for the last steps, over all
/// vectors, to be few.
inline constexpr std::int64_t kCoarsePointsACentroid = 64;

/// Values as stored (rounded to the stored type before any code is chosen), so that feedback sees the decoder's
/// numbers.
struct Codebooks {
  std::vector<float> main;      ///< [groups, k, v]
  std::vector<float> residual;  ///< [groups, kr, v]; empty: the residual takes no part
  std::vector<float> outlier;   ///< [k0, v0]
};

/// Codebooks and columns as kernels read them; both must outlive it.
class DeviceBooks {
 public:
  DeviceBooks(backend::Context& context, const Codebooks& books, const ColumnScale& columns);
  kernels::VqBooks view() const;

 private:
  backend::DeviceView<float> main_, residual_, outlier_, scale_, bias_;
  bool has_residual_;
};

/// A codebook in the scaled space of the columns [first, first + count) with vectors of `dim` rows.
struct TrainingSet {
  std::int64_t first = 0, count = 0, dim = 0;
  const backend::Array<float>* residual = nullptr;  ///< [in, width] what a column loop left; null: of the weights
};

/// Every so many-th vector of the parts is what a codebook is trained on first: the number closest to `wanted`, by half
/// of it at most, that has no factor in common with the vectors a column of any part, else `wanted`. With one it sees
/// only some of the rows: 3 of 24 at a stride of 8. 1: all of them.
std::int64_t coarse_stride(const VqGeometry& geometry, std::int64_t dim, std::int64_t wanted);

/// Weighted k-means over the whole vectors of a training set (tail vectors are left out); the columns' scales are
/// folded into the problem's importance. Collective. Figures go to `statistics` under the codebook's name.
std::vector<float> train_codebook(const VqProblem& problem, const ColumnScale& columns, const TrainingSet& set,
                                  std::int64_t k, const std::string& name, std::map<std::string, double>& statistics);

/// Random numbers of what has this name.
std::uint64_t random_stream(const std::string& name);

void round_to_stored(core::DType dtype, std::span<float> values);

}  // namespace voronoi::quant
