#include "quant/vq/layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/types.h"

namespace voronoi::quant {
namespace {

// Enough vectors in a column of a piece to keep the search and the matrix products busy, and enough pieces for the
// threads and ranks that may share one operator.
constexpr std::int64_t kVectorsAPiece = 24;
constexpr std::int64_t kMaxPieces = 64;

std::int64_t padded(std::int64_t rows, const VqGeometry& geometry) {
  std::int64_t width = core::ceil_div(rows, geometry.v) * geometry.v;
  if (geometry.outlier_size > 0) width = std::max(width, core::ceil_div(rows, geometry.v0) * geometry.v0);
  return width;
}

template <class T>
std::span<const std::byte> as_bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

}  // namespace

std::int64_t VqGeometry::row_begin(std::int64_t piece) const {
  const std::int64_t units = core::ceil_div(out_features, unit);
  return std::min(out_features, units * piece / n_pieces * unit);
}

std::int64_t VqGeometry::max_vectors(std::int64_t piece) const {
  const std::int64_t rows = row_end(piece) - row_begin(piece);
  std::int64_t vectors = core::ceil_div(rows, v);
  if (outlier_size > 0) vectors = std::max(vectors, core::ceil_div(rows, v0));
  return vectors;
}

VqGeometry make_geometry(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  VqGeometry geometry;
  geometry.out_features = out_features;
  geometry.in_features = in_features;
  geometry.v = parameters.vector_length;
  geometry.k = parameters.centroids;
  geometry.kr = parameters.residual_centroids;
  geometry.groups = parameters.groups;
  VORONOI_REQUIRE(out_features > 0 && in_features > 0 && geometry.v > 0 && geometry.groups > 0,
                  "an operator has rows, columns and groups");
  if (parameters.outlier_percent > 0) {
    const auto wanted =
        static_cast<std::int64_t>(std::ceil(parameters.outlier_percent / 100 * static_cast<double>(in_features)));
    geometry.outlier_size = wanted + (in_features - wanted) % geometry.groups;
    geometry.v0 = parameters.outlier_vector_length;
    geometry.k0 = parameters.outlier_centroids;
  }
  const std::int64_t rest = in_features - geometry.outlier_size;
  VORONOI_REQUIRE(rest > 0 && rest % geometry.groups == 0, "groups must divide the columns that are no outliers");
  geometry.group_size = rest / geometry.groups;
  geometry.unit = geometry.outlier_size > 0 ? std::lcm(geometry.v, geometry.v0) : geometry.v;
  const std::int64_t units = core::ceil_div(out_features, geometry.unit),
                     vectors = core::ceil_div(out_features, geometry.v);
  geometry.n_pieces = std::min(units, std::clamp<std::int64_t>(vectors / kVectorsAPiece, 1, kMaxPieces));
  return geometry;
}

std::vector<Piece> make_pieces(const VqGeometry& geometry, const core::Team& team, std::span<const float> weight,
                               std::span<const std::int32_t> perm) {
  const std::int64_t first = geometry.n_pieces * team.rank() / team.size(),
                     last = geometry.n_pieces * (team.rank() + 1) / team.size();
  std::vector<Piece> pieces;
  for (std::int64_t id = first; id < last; ++id) {
    Piece piece;
    piece.id = id;
    piece.row_begin = geometry.row_begin(id);
    piece.rows = geometry.row_end(id) - piece.row_begin;
    piece.width = padded(piece.rows, geometry);
    piece.code_stride = geometry.max_vectors(id);
    piece.weight.assign(static_cast<std::size_t>(geometry.in_features * piece.width), 0.0F);
    for (std::int64_t p = 0; p < geometry.in_features; ++p) {
      const float* source = weight.data() + piece.row_begin * geometry.in_features + perm[static_cast<std::size_t>(p)];
      float* column = piece.weight.data() + p * piece.width;
      for (std::int64_t r = 0; r < piece.rows; ++r) column[r] = source[r * geometry.in_features];
    }
    piece.quantized.assign(piece.weight.size(), 0.0F);
    piece.codes.assign(static_cast<std::size_t>(geometry.in_features * piece.code_stride), 0);
    if (geometry.kr > 0) piece.residual_codes = piece.codes;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

void for_each_piece(backend::Context& context, std::vector<Piece>& pieces, const std::function<void(Piece&)>& body) {
  context.pool().parallel_for(static_cast<std::int64_t>(pieces.size()),
                              [&](std::int64_t i) { body(pieces[static_cast<std::size_t>(i)]); });
}

std::vector<double> sum_over_pieces(core::Team& team, std::int64_t size, std::vector<std::vector<double>>&& parts) {
  const auto n = static_cast<std::size_t>(size);
  std::vector<double> total(n, 0.0);
  const auto add = [&](const double* part) {
    for (std::size_t i = 0; i < n; ++i) total[i] += part[i];
  };
  if (team.size() == 1) {
    for (const std::vector<double>& part : parts) add(part.data());
    return total;
  }
  std::vector<double> mine;
  mine.reserve(n * parts.size());
  for (const std::vector<double>& part : parts) mine.insert(mine.end(), part.begin(), part.end());
  std::vector<double> theirs;
  for (const std::vector<std::byte>& bytes : team.all_gather(as_bytes(mine))) {
    VORONOI_REQUIRE(bytes.size() % sizeof(double) == 0, "a member sent part of a number");
    theirs.resize(bytes.size() / sizeof(double));
    VORONOI_REQUIRE(n == 0 || theirs.size() % n == 0, "a member sent part of an array");
    if (!bytes.empty()) std::memcpy(theirs.data(), bytes.data(), bytes.size());
    for (std::size_t at = 0; n > 0 && at < theirs.size(); at += n) add(theirs.data() + at);
  }
  return total;
}

AllCodes gather_codes(core::Team& team, const VqGeometry& geometry, const std::vector<Piece>& pieces) {
  AllCodes all;
  const auto gather = [&](std::vector<std::int32_t> Piece::*member) {
    std::vector<std::int32_t> mine;
    for (const Piece& piece : pieces) mine.insert(mine.end(), (piece.*member).begin(), (piece.*member).end());
    std::vector<std::vector<std::int32_t>> result;
    for (const std::vector<std::byte>& bytes : team.all_gather(as_bytes(mine))) {
      std::size_t at = 0;
      while (at < bytes.size()) {
        const std::int64_t count =
            geometry.in_features * geometry.max_vectors(static_cast<std::int64_t>(result.size()));
        const std::size_t size_bytes = static_cast<std::size_t>(count) * sizeof(std::int32_t);
        VORONOI_REQUIRE(at + size_bytes <= bytes.size(), "a member sent part of a piece");
        std::vector<std::int32_t> codes(static_cast<std::size_t>(count));
        std::memcpy(codes.data(), bytes.data() + at, size_bytes);
        result.push_back(std::move(codes));
        at += size_bytes;
      }
    }
    VORONOI_REQUIRE(static_cast<std::int64_t>(result.size()) == geometry.n_pieces, "a piece has no owner");
    return result;
  };
  all.codes = gather(&Piece::codes);
  if (geometry.kr > 0) all.residual_codes = gather(&Piece::residual_codes);
  return all;
}

}  // namespace voronoi::quant
