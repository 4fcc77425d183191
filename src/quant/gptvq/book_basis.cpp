#include "quant/gptvq/book_basis.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "core/bytes.h"
#include "core/index.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr int kMostRounds = 60;   // of rotations of all pairs; some 10 suffice
constexpr int kFactorRounds = 4;  // the basis is orthogonal but for its rounding
constexpr double kSmall = 1e-15;  // off the diagonal, of the geometric mean of two eigenvalues

using Square = std::vector<double>;  // [k, k]

/// Centroids in rising order, of equal ones the first first; the group's indices follow.
void sort_book(GptvqCodes& codes, std::int64_t group, std::int64_t strip) {
  const format::GptvqExtents& e = codes.extents;
  const std::int64_t book = codes.book(group, strip);
  const std::vector<float> values(codes.values(book).begin(), codes.values(book).end());
  std::vector<std::uint16_t> order(values.size()), place(values.size());
  std::iota(order.begin(), order.end(), std::uint16_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] < values[b]; });
  std::vector<float> sorted;
  for (const std::uint16_t c : order) {
    place[c] = static_cast<std::uint16_t>(sorted.size());
    sorted.push_back(values[c]);
  }
  codes.store(book, sorted);
  const std::int64_t last_row = std::min(codes.groups.rows, (group + 1) * e.group_rows),
                     last = std::min(e.vectors(), (strip + 1) * e.group_columns);
  for (std::int64_t row = group * e.group_rows; row < last_row; ++row)
    for (std::int64_t j = strip * e.group_columns; j < last; ++j) {
      std::uint16_t& code = codes.indices[index(row * e.vectors() + j)];
      code = place[code];
    }
}

/// Turns `a`, symmetric, by Jacobi's rotations into a diagonal matrix; the columns of `vectors` are its eigenvectors.
void diagonalize(std::size_t k, Square& a, Square& vectors) {
  vectors.assign(k * k, 0.0);
  for (std::size_t i = 0; i < k; ++i) vectors[i * (k + 1)] = 1;
  for (int round = 0; round < kMostRounds; ++round) {
    bool turned = false;
    for (std::size_t p = 0; p < k; ++p)
      for (std::size_t q = p + 1; q < k; ++q) {
        const double off = a[p * k + q], pp = a[p * (k + 1)], qq = a[q * (k + 1)];
        if (!(std::fabs(off) > kSmall * std::sqrt(std::fabs(pp * qq)) + std::numeric_limits<double>::min())) continue;
        turned = true;
        const double half = (qq - pp) / (2 * off);
        const double tangent = std::copysign(1.0, half) / (std::fabs(half) + std::sqrt(half * half + 1));
        const double cosine = 1 / std::sqrt(tangent * tangent + 1), sine = tangent * cosine;
        const auto turn = [&](double& x, double& y) {
          const double before = x;
          x = cosine * before - sine * y;
          y = sine * before + cosine * y;
        };
        for (std::size_t i = 0; i < k; ++i) turn(a[i * k + p], a[i * k + q]);
        for (std::size_t i = 0; i < k; ++i) turn(a[p * k + i], a[q * k + i]);
        for (std::size_t i = 0; i < k; ++i) turn(vectors[i * k + p], vectors[i * k + q]);
      }
    if (!turned) return;
  }
}

/// [rank, k], its largest value of each row 1: sums of these vectors times factors are nearest to the books [.., k],
/// a centroid's square counting as often as its mass says.
std::vector<float> basis_of(std::span<const float> books, std::size_t k, std::span<const double> mass,
                            std::size_t rank) {
  Square gram(k * k, 0.0), vectors;
  for (std::size_t first = 0; first < books.size(); first += k)
    for (std::size_t i = 0; i < k; ++i)
      for (std::size_t j = 0; j < k; ++j)
        gram[i * k + j] += static_cast<double>(books[first + i]) * static_cast<double>(books[first + j]);
  for (std::size_t i = 0; i < k; ++i)
    for (std::size_t j = 0; j < k; ++j) gram[i * k + j] *= std::sqrt(mass[i] * mass[j]);
  diagonalize(k, gram, vectors);
  std::vector<std::size_t> order(k);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return gram[a * (k + 1)] > gram[b * (k + 1)]; });
  std::vector<float> basis;
  for (std::size_t i = 0; i < rank; ++i) {
    std::vector<double> row(k);
    double largest = 0;
    for (std::size_t c = 0; c < k; ++c) {
      row[c] = vectors[c * k + order[i]] / std::sqrt(mass[c]);
      if (std::fabs(row[c]) > std::fabs(largest)) largest = row[c];
    }
    for (const double value : row) basis.push_back(static_cast<float>(largest != 0 ? value / largest : 0.0));
  }
  return basis;
}

/// The factors of the basis that come nearest to a codebook.
std::vector<float> factors_of(const GptvqCodes& codes, std::span<const float> book, std::span<const double> mass) {
  const std::size_t k = book.size(), rank = index(codes.rank());
  std::vector<double> rest(book.begin(), book.end()), factors(rank, 0.0);
  for (int round = 0; round < kFactorRounds; ++round)
    for (std::size_t i = 0; i < rank; ++i) {
      double along = 0, square = 0;
      const float* vector = codes.basis_values.data() + i * k;
      for (std::size_t c = 0; c < k; ++c) {
        along += mass[c] * static_cast<double>(vector[c]) * rest[c];
        square += mass[c] * static_cast<double>(vector[c]) * static_cast<double>(vector[c]);
      }
      const double change = square > 0 ? along / square : 0;
      factors[i] += change;
      for (std::size_t c = 0; c < k; ++c) rest[c] -= change * static_cast<double>(vector[c]);
    }
  return {factors.begin(), factors.end()};
}

}  // namespace

void compress_books(core::Team& team, std::int64_t rank, std::int64_t codebook_bits, bool published,
                    GptvqCodes& codes) {
  const format::GptvqExtents& e = codes.extents;
  const std::size_t k = index(e.centroids);
  for (std::int64_t group = 0; group < codes.groups.count; ++group)
    for (std::int64_t strip = 0; strip < e.strips(); ++strip) sort_book(codes, group, strip);

  std::vector<std::int64_t> counts(k, 0);
  for (const std::uint16_t code : codes.indices) ++counts[code];
  std::vector<std::byte> bytes;
  core::append_bytes<std::int64_t>(counts, bytes);
  core::append_bytes<float>(codes.book_values, bytes);
  std::vector<float> books;
  std::vector<double> mass(k, published ? 1.0 : 0.0);
  for (const std::vector<std::byte>& theirs : team.all_gather(bytes)) {
    std::span<const std::byte> rest = theirs;
    std::vector<std::int64_t> their_counts;
    core::take_values(rest, k, their_counts);
    for (std::size_t c = 0; c < k && !published; ++c) mass[c] += static_cast<double>(their_counts[c]);
    core::take_values(rest, rest.size() / sizeof(float), books);
  }
  for (double& value : mass) value = std::max(value, 1.0);

  const std::vector<float> whole = codes.book_values;
  codes.compress(basis_of(books, k, mass, index(rank)), codebook_bits);
  for (std::int64_t book = 0; book < codes.groups.count * e.strips(); ++book)
    codes.store(book, factors_of(codes, std::span(whole).subspan(index(book) * k, k), mass));
}

}  // namespace voronoi::quant
