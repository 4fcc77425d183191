#include "quant/gptvq/book_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/index.h"
#include "core/random.h"

namespace voronoi::quant {
namespace {

const ForEach kOneByOne = [](std::int64_t n, const std::function<void(std::int64_t)>& body) {
  for (std::int64_t i = 0; i < n; ++i) body(i);
};

/// Points of one column from their values, point by point.
BookPoints column_of(std::int64_t d, const std::vector<float>& values, const std::vector<float>& metric) {
  BookPoints points(d, 1, std::ssize(values) / d);
  for (std::size_t i = 0; i < values.size(); ++i)
    points.column(0)[static_cast<std::int64_t>(i) % d * points.lanes + static_cast<std::int64_t>(i) / d] = values[i];
  points.metric = metric.data();
  return points;
}

TEST(BookFit, ByHand) {
  const std::vector<float> unit{1};
  BookPoints points = column_of(1, {0, 1, 10, 12}, unit);
  points.transform();
  const BookFit fit = fit_book(kOneByOne, points, {0, 1}, {});
  // 0 | 1 10 12, then 0 1 | 10 12 for good.
  EXPECT_EQ(fit.centroids, (std::vector<float>{0.5F, 11}));
  ASSERT_EQ(fit.objective.size(), 2U);
  EXPECT_NEAR(fit.objective[0], 6.6667 * 6.6667 + 2.3333 * 2.3333 + 4.3333 * 4.3333, 1e-3);
  EXPECT_NEAR(fit.objective[1], 2.5, 1e-5);
}

TEST(BookFit, WeightsAndMassesMoveTheMeans) {
  // One centroid; columns of two vectors with T = 2 and T = 1, so that points weigh 4 and 1; then masses on top.
  const std::vector<float> metric{2, 1};
  BookPoints points(1, 2, 1);
  points.column(0)[0] = 1;
  points.column(1)[0] = 6;
  points.metric = metric.data();
  points.transform();
  EXPECT_FLOAT_EQ(fit_book(kOneByOne, points, {0}, {}).centroids[0], 2);
  points.mass.assign(core::index(2 * points.lanes), 0.0F);
  points.mass[0] = 1;
  points.mass[core::index(points.lanes)] = 16;
  EXPECT_FLOAT_EQ(fit_book(kOneByOne, points, {0}, {}).centroids[0], 5);
}

TEST(BookFit, ChoosesByTheWholeMetric) {
  // Under T = [1 0; -1 1] the point (1, 1) is 1 from (0, 0) and 1.44 from (1, 2.2); by the diagonal alone 2 and 1.44.
  const std::vector<float> metric{1, 0, -1, 1};
  BookPoints points = column_of(2, {1, 1}, metric);
  points.transform();
  const BookFit fit = fit_book(kOneByOne, points, {0, 0, 1, 2.2F}, {1});
  EXPECT_EQ(fit.centroids, (std::vector<float>{1, 1, 1, 2.2F}));
}

TEST(BookFit, CentroidsWithoutPointsStayOrBecomeZero) {
  const std::vector<float> unit{1};
  BookPoints points = column_of(1, {1, 2}, unit);
  points.transform();
  const BookFit stay = fit_book(kOneByOne, points, {1, 7}, {});
  EXPECT_EQ(stay.centroids, (std::vector<float>{1.5F, 7}));
  EXPECT_EQ(stay.unused, 1);
  BookRule published;
  published.most_steps = 1;
  published.empty_to_zero = true;
  EXPECT_EQ(fit_book(kOneByOne, points, {1, 7}, published).centroids, (std::vector<float>{1.5F, 0}));
}

/// The same in fp64, a point at a time; returns the objective after each step.
std::vector<double> plain_fit(const BookPoints& x, const std::vector<float>& metric, std::vector<double> c, int steps) {
  const std::int64_t d = x.d, k = std::ssize(c) / d;
  std::vector<double> objective;
  const auto value = [&](std::int64_t j, std::int64_t row, std::int64_t i) {
    return static_cast<double>(x.column(j)[i * x.lanes + row]);
  };
  const auto transformed = [&](std::int64_t j, const std::vector<double>& gap) {
    std::vector<double> y(core::index(d), 0.0);
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t l = 0; l <= i; ++l)
        y[core::index(i)] += static_cast<double>(metric[core::index(j * d * d + i * d + l)]) * gap[core::index(l)];
    return y;
  };
  for (int step = 0; step < steps; ++step) {
    std::vector<std::vector<double>> a(core::index(k), std::vector<double>(core::index(d * d), 0.0)),
        b(core::index(k), std::vector<double>(core::index(d), 0.0));
    std::vector<std::int64_t> chosen;
    for (std::int64_t j = 0; j < x.columns; ++j)
      for (std::int64_t row = 0; row < x.rows; ++row) {
        double least = 1e300;
        std::int64_t best = 0;
        for (std::int64_t code = 0; code < k; ++code) {
          std::vector<double> gap;
          for (std::int64_t i = 0; i < d; ++i) gap.push_back(value(j, row, i) - c[core::index(code * d + i)]);
          double cost = 0;
          for (const double y : transformed(j, gap)) cost += y * y;
          if (cost < least) {
            least = cost;
            best = code;
          }
        }
        chosen.push_back(best);
        for (std::int64_t p = 0; p < d; ++p)
          for (std::int64_t q = 0; q < d; ++q) {
            double m = 0;
            for (std::int64_t i = 0; i < d; ++i)
              if (p <= i && q <= i)
                m += static_cast<double>(metric[core::index(j * d * d + i * d + p)]) *
                     static_cast<double>(metric[core::index(j * d * d + i * d + q)]);
            a[core::index(best)][core::index(p * d + q)] += m;
            b[core::index(best)][core::index(p)] += m * value(j, row, q);
          }
      }
    for (std::int64_t code = 0; code < k; ++code) {  // Gauss, d is small
      auto m = a[core::index(code)];
      auto r = b[core::index(code)];
      if (m[0] == 0) continue;
      for (std::int64_t i = 0; i < d; ++i)
        for (std::int64_t l = 0; l < d; ++l) {
          if (l == i) continue;
          const double by = m[core::index(l * d + i)] / m[core::index(i * d + i)];
          for (std::int64_t q = 0; q < d; ++q) m[core::index(l * d + q)] -= by * m[core::index(i * d + q)];
          r[core::index(l)] -= by * r[core::index(i)];
        }
      for (std::int64_t i = 0; i < d; ++i) c[core::index(code * d + i)] = r[core::index(i)] / m[core::index(i * d + i)];
    }
    double total = 0;
    for (std::int64_t j = 0; j < x.columns; ++j)
      for (std::int64_t row = 0; row < x.rows; ++row) {
        std::vector<double> gap;
        for (std::int64_t i = 0; i < d; ++i)
          gap.push_back(value(j, row, i) - c[core::index(chosen[core::index(j * x.rows + row)] * d + i)]);
        for (const double y : transformed(j, gap)) total += y * y;
      }
    objective.push_back(total);
  }
  return objective;
}

TEST(BookFit, StepsLowerTheObjectiveAsThePlainOnesDo) {
  const core::CounterRandom random(5, 1);
  std::uint64_t counter = 0;
  const auto draw = [&] { return static_cast<float>(random.uniform(counter++) - 0.5); };
  for (const std::int64_t d : {1, 2, 4}) {
    constexpr std::int64_t columns = 9, rows = 35;
    std::vector<float> metric(core::index(columns * d * d), 0.0F);
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t i = 0; i < d; ++i)
        for (std::int64_t l = 0; l <= i; ++l)
          metric[core::index(j * d * d + i * d + l)] = i == l ? 1.5F + draw() : draw();
    BookPoints points(d, columns, rows);
    points.metric = metric.data();
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t i = 0; i < d; ++i)
        for (std::int64_t row = 0; row < rows; ++row) points.column(j)[i * points.lanes + row] = draw();
    const std::vector<float> start = mahalanobis_start(points, 8);
    const std::vector<double> expected = plain_fit(points, metric, std::vector<double>(start.begin(), start.end()), 12);
    points.transform();
    const BookFit fit = fit_book(kOneByOne, points, start, {12});
    ASSERT_GE(fit.objective.size(), 3U);
    for (std::size_t i = 0; i < fit.objective.size(); ++i) {
      EXPECT_NEAR(fit.objective[i], expected[i], 1e-4 * expected[i]) << d << ", step " << i;
      if (i > 0) {
        EXPECT_LE(fit.objective[i], fit.objective[i - 1] * (1 + 1e-9)) << d << ", step " << i;
      }
    }
    // A tolerance ends it early.
    EXPECT_LT(fit_book(kOneByOne, points, start, {100, 0.02}).objective.size(), fit.objective.size() + 1);
  }
}

TEST(BookFit, StartsAtEqualStepsOfTheMahalanobisDistance) {
  const std::vector<float> unit{1};
  // Mean 3; distances 9, 4, 1, 0 (twice), 1, 4, 9: in order 3, 3, 2, 4, 1, 5, 0, 6.
  const BookPoints points = column_of(1, {0, 1, 2, 3, 3, 4, 5, 6}, unit);
  EXPECT_EQ(mahalanobis_start(points, 8), (std::vector<float>{3, 3, 2, 4, 1, 5, 0, 6}));
  EXPECT_EQ(mahalanobis_start(points, 2), (std::vector<float>{3, 6}));
  EXPECT_EQ(mahalanobis_start(points, 3), (std::vector<float>{3, 1, 6}));  // place 3.5 is rounded up
  // Spread along (1, 1): (2, 2) is a usual point, (1, -1) is not, though nearer to the mean.
  const std::vector<float> two{1, 0, 0, 1};
  const BookPoints plane = column_of(2, {-3, -3, 3, 3, 2, 2, -2, -2, 1, -1, -1, 1}, two);
  const std::vector<float> start = mahalanobis_start(plane, 6);
  EXPECT_EQ(std::abs(start[10]), 1);
  EXPECT_EQ(std::abs(start[0]), 2);
  // Points in one place.
  const BookPoints same = column_of(2, {1, 2, 1, 2, 1, 2}, two);
  EXPECT_EQ(mahalanobis_start(same, 2), (std::vector<float>{1, 2, 1, 2}));
}

}  // namespace
}  // namespace voronoi::quant
