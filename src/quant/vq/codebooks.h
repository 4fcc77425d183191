// Codebooks of one operator: their training and the choice of codes for a column of a piece.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/team.h"
#include "core/types.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

/// Values as stored (rounded to the stored type before any code is chosen), so that feedback sees the decoder's
/// numbers.
struct Codebooks {
  std::vector<float> main;      ///< [groups, k, v]
  std::vector<float> residual;  ///< [groups, kr, v]; empty: the residual takes no part
  std::vector<float> outlier;   ///< [k0, v0]
};

/// A codebook in the scaled space of the columns [first, first + count) with vectors of `dim` rows.
struct TrainingSet {
  std::int64_t first = 0, count = 0, dim = 0;
};

enum class TrainingSource { weight, residual };

/// Weighted k-means over the whole vectors of a training set (tail vectors are left out). importance [in], processing
/// order: what a squared error of the column costs in the operator's own units; the scale is folded in here.
/// Collective. Figures go to `statistics` under the codebook's name.
std::vector<float> train_codebook(backend::Context& context, core::Team& team, const VqGeometry& geometry,
                                  const std::vector<Piece>& pieces, const ColumnScale& columns,
                                  std::span<const double> importance, const TrainingSet& set, TrainingSource source,
                                  std::int64_t k, const QuantInput& input, const QuantParameters& parameters,
                                  const std::string& name, std::span<const float> initial,
                                  std::map<std::string, double>& statistics);

void round_to_stored(core::DType dtype, std::span<float> values);

/// One column of a piece from its codes: (main + residual) * scale + bias, each operation rounded once, as decode()
/// does; zero past the rows. quantized [width].
void decode_column(const VqGeometry& geometry, const Codebooks& books, const ColumnScale& columns, const Piece& piece,
                   std::int64_t position, const std::int32_t* codes, const std::int32_t* residual_codes,
                   float* quantized);

/// Chooses codes for the columns of one piece; owns the scratch of that piece, so a thread makes its own.
class ColumnSearch {
 public:
  /// candidates: how many main centroids are tried with each one's best residual; 1 is greedy, main then residual.
  /// searched_rows: rows that take part in distances, the piece's own unless padding shall count.
  ColumnSearch(backend::Context& context, const VqGeometry& geometry, const Codebooks& books,
               const ColumnScale& columns, std::int64_t candidates, const Piece& piece, std::int64_t searched_rows);

  /// target [width] in the operator's units -> codes [code_stride], residual codes (when there is a residual codebook)
  /// and the decoded column, zero past the rows.
  void choose(std::int64_t position, const float* target, std::int32_t* codes, std::int32_t* residual_codes,
              float* quantized);

 private:
  void nearest(std::int64_t n, std::int64_t dim, std::int64_t k, const float* book, std::int32_t* codes);
  void greedy_residual(std::int64_t n, const float* main, const float* residual, const std::int32_t* codes,
                       std::int32_t* residual_codes);
  void joint(std::int64_t n, const float* main, const float* residual, std::int32_t* codes,
             std::int32_t* residual_codes);

  backend::Context& context_;
  const VqGeometry& geometry_;
  const Codebooks& books_;
  const ColumnScale& columns_;
  const Piece& piece_;
  std::int64_t candidates_, rows_;
  std::vector<float> points_, rest_, distance_;
  std::vector<std::int32_t> candidate_, candidate_residual_, valid_;
};

}  // namespace voronoi::quant
