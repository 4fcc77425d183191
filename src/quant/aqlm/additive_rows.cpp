#include "quant/aqlm/additive_rows.h"

#include <algorithm>
#include <cstddef>

#include "backend/device.h"
#include "core/bytes.h"
#include "core/index.h"
#include "core/types.h"
#include "core/work_counts.h"

namespace voronoi::quant {

using core::index;

std::int64_t row_pieces(std::int64_t out_features) {
  constexpr std::int64_t kMostPieces = 16, kPieceRows = 16;
  return std::clamp<std::int64_t>(out_features / kPieceRows, 1, kMostPieces);
}

RowPieces::RowPieces(std::int64_t out_features, std::int64_t rank, std::int64_t team_size)
    : rows(out_features),
      count(row_pieces(out_features)),
      first(count * rank / team_size),
      end(count * (rank + 1) / team_size) {}

AdditiveRows::AdditiveRows(core::ThreadPool& pool, core::Team& team, const QuantInput& input,
                           std::span<const float> hessian, const format::AqlmExtents& extents)
    : pool_(pool),
      team_(team),
      e_(extents),
      pieces_(extents.out_features, team.rank(), team.size()),
      weight_(input.weight.subspan(index(pieces_.row_begin() * extents.in_features),
                                   index(pieces_.my_rows() * extents.in_features))),
      hessian_(hessian),
      matrix_(weight_.size()),
      product_(weight_.size()) {
  numbers.books.resize(index(unknowns()));
  numbers.scale.resize(index(rows()));
  numbers.codes.resize(index(rows() * e_.groups() * e_.codebooks));
}

void AdditiveRows::multiply(std::span<const float> metric) {
  const std::int64_t n = e_.in_features;
  if (rows() == 0) return;
  core::count_product(rows(), n, n);
  kernels::cpu().linalg.gemm_f32({&pool_, nullptr}, false, false, rows(), n, n, 1.0F, matrix_.data(), n, metric.data(),
                                 n, 0.0F, product_.data(), n);
}

std::vector<double> AdditiveRows::evaluate() {
  const std::int64_t n = e_.in_features, g = e_.in_group;
  pool_.parallel_for(rows(), [&](std::int64_t row) {
    float* target = matrix_.data() + row * n;
    const float* weight = weight_.data() + row * n;
    const float scale = numbers.scale[index(row)];
    std::fill(target, target + n, 0.0F);
    visit_row(row, [&](std::int64_t column, std::int64_t place) {
      for (std::int64_t i = 0; i < g; ++i) target[column + i] += numbers.books[index(place + i)];
    });
    for (std::int64_t c = 0; c < n; ++c) target[c] = weight[c] - target[c] * scale;
  });
  multiply(hessian_);
  std::vector<double> losses(index(rows()));
  pool_.parallel_for(rows(), [&](std::int64_t row) {
    const float *a = matrix_.data() + row * n, *b = product_.data() + row * n;
    double sum = 0;
    for (std::int64_t c = 0; c < n; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
    losses[index(row)] = sum;
  });
  return losses;
}

void AdditiveRows::expand(std::span<const double> books, bool scaled) {
  const std::int64_t n = e_.in_features, g = e_.in_group;
  const std::vector<float> narrow(books.begin(), books.end());
  pool_.parallel_for(rows(), [&](std::int64_t row) {
    float* target = matrix_.data() + row * n;
    std::fill(target, target + n, 0.0F);
    visit_row(row, [&](std::int64_t column, std::int64_t place) {
      for (std::int64_t i = 0; i < g; ++i) target[column + i] += narrow[index(place + i)];
    });
    if (!scaled) return;
    for (std::int64_t c = 0; c < n; ++c) target[c] *= numbers.scale[index(row)];
  });
  multiply(hessian_);
}

double AdditiveRows::sum_of_rows(std::span<const double> by_row) const {
  double sum = 0;
  for (const std::vector<std::byte>& part : team_.all_gather(std::as_bytes(by_row)))
    for (const double value : core::values_of<double>(part)) sum += value;
  return sum;
}

std::vector<double> AdditiveRows::collect(bool diagonal) const {
  const std::int64_t n = e_.in_features, g = e_.in_group, mine = pieces_.end - pieces_.first;
  std::vector<double> sums(index(mine * unknowns()), 0.0);
  std::vector<float> curvature(diagonal ? index(n) : 0);
  for (std::int64_t c = 0; c < std::ssize(curvature); ++c) curvature[index(c)] = hessian_[index(c * (n + 1))];
  pool_.parallel_for(mine, [&](std::int64_t piece) {
    double* sum = sums.data() + piece * unknowns();
    const std::int64_t first = pieces_.row_begin();
    for (std::int64_t row = pieces_.begin_of(pieces_.first + piece) - first;
         row < pieces_.begin_of(pieces_.first + piece + 1) - first; ++row) {
      const auto scale = static_cast<double>(numbers.scale[index(row)]), by = diagonal ? scale * scale : scale;
      const float* values = diagonal ? curvature.data() : product_.data() + row * n;
      visit_row(row, [&](std::int64_t column, std::int64_t place) {
        for (std::int64_t i = 0; i < g; ++i) sum[place + i] += by * static_cast<double>(values[column + i]);
      });
    }
  });
  return team_.sum(sums, unknowns(), pieces_.count);
}

void AdditiveRows::round_numbers() {
  for (float& value : numbers.books)
    value = core::round_to(e_.dtype, std::clamp(value, -core::kLargestF16, core::kLargestF16));
  for (float& value : numbers.scale)
    value = core::round_to(e_.dtype, std::clamp(value, -core::kLargestF16, core::kLargestF16));
}

format::AqlmEncoding AdditiveRows::gather() const {
  format::AqlmEncoding all;
  static_cast<format::AqlmExtents&>(all) = e_;
  const auto bits_of = [this](const std::vector<float>& values) {
    std::vector<std::uint16_t> bits(values.size());
    std::transform(values.begin(), values.end(), bits.begin(),
                   [this](float value) { return core::to_bits16(e_.dtype, value); });
    return bits;
  };
  all.codebook = bits_of(numbers.books);
  std::vector<std::byte> bytes;
  core::append_bytes<std::uint16_t>(numbers.codes, bytes);
  core::append_bytes<std::uint16_t>(bits_of(numbers.scale), bytes);
  const bool narrow = elements_due(e_).codes16 == 0;
  const std::vector<std::vector<std::byte>> gathered = team_.all_gather(bytes);
  for (std::int64_t rank = 0; rank < team_.size(); ++rank) {
    const RowPieces theirs(e_.out_features, rank, team_.size());
    std::span<const std::byte> rest = gathered[index(rank)];
    std::vector<std::uint16_t> codes;
    core::take_values(rest, index(theirs.my_rows() * e_.groups() * e_.codebooks), codes);
    for (const std::uint16_t code : codes) {
      const std::uint16_t stored = format::stored_code(e_.code_bits, code);
      if (narrow)
        all.codes8.push_back(static_cast<std::uint8_t>(stored));
      else
        all.codes16.push_back(stored);
    }
    core::take_values(rest, index(theirs.my_rows()), all.scale);
  }
  return all;
}

}  // namespace voronoi::quant
