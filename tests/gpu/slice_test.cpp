// CUDA twin of kernels/vq_slice.h against the CPU twin. What moves data is equal bit by bit; sums are fp64 in another
// order. Codes of the column loop and the sweep follow from fp32 arithmetic that is the same on both, but for the
// products that carry a block's feedback: the emulator's are the CPU's, so there everything is equal; a GPU's round
// otherwise, which turns the few codes whose vector lies that close to a border, and what follows from them.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

using test::normal_values;

struct Shape {
  std::int64_t in_features, rows, v, k, kr, groups, outlier_size, v0, k0, n_parts;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << "in " << s.in_features << " rows " << s.rows << " v " << s.v << " k " << s.k << " kr " << s.kr
             << " groups " << s.groups << " outliers " << s.outlier_size << " v0 " << s.v0 << " k0 " << s.k0
             << " parts " << s.n_parts;
}

std::int64_t at_least(std::int64_t rows, std::int64_t v) { return (rows + v - 1) / v * v; }

/// A slice with random books and a coupling of its columns, all on the host.
struct Problem {
  explicit Problem(const Shape& shape, std::uint32_t seed = 1) {
    slice.in_features = shape.in_features;
    slice.rows = shape.rows;
    slice.v = shape.v;
    slice.k = shape.k;
    slice.kr = shape.kr;
    slice.groups = shape.groups;
    slice.outlier_size = shape.outlier_size;
    slice.group_size = (shape.in_features - shape.outlier_size) / shape.groups;
    slice.width = at_least(shape.rows, shape.v);
    slice.code_stride = slice.width / shape.v;
    std::int64_t unit = shape.v;
    if (shape.outlier_size > 0) {
      slice.v0 = shape.v0;
      slice.k0 = shape.k0;
      slice.width = std::max(slice.width, at_least(shape.rows, shape.v0));
      slice.code_stride = std::max(slice.code_stride, at_least(shape.rows, shape.v0) / shape.v0);
      unit = std::lcm(shape.v, shape.v0);
    }
    slice.n_parts = shape.n_parts;
    const std::int64_t units = at_least(shape.rows, unit) / unit;
    for (std::int64_t part = 0; part <= shape.n_parts; ++part)
      part_begin.push_back(std::min(shape.rows, units * part / shape.n_parts * unit));
    slice.part_begin = part_begin.data();

    main = normal_values(shape.groups * shape.k * shape.v, seed);
    residual = normal_values(shape.groups * shape.kr * shape.v, seed + 1);
    for (float& value : residual) value *= 0.3F;
    outlier = normal_values(slice.k0 * slice.v0, seed + 2);
    scale = normal_values(shape.in_features, seed + 3);
    for (float& value : scale) value = 0.5F + std::fabs(value);
    bias = normal_values(shape.in_features, seed + 4);
    for (float& value : bias) value *= 0.1F;
    matrix = normal_values(shape.in_features * slice.width, seed + 5);
    clear_padding(matrix);
    coupling = normal_values(shape.in_features * shape.in_features, seed + 6);
    for (float& value : coupling) value *= 0.1F;
    for (std::int64_t i = 0; i < shape.in_features; ++i) {
      for (std::int64_t j = 0; j < i; ++j) coupling[at(i, j)] = coupling[at(j, i)];
      coupling[at(i, i)] = 1.0F + 0.2F * static_cast<float>(i % 5);
    }
  }
  std::size_t at(std::int64_t i, std::int64_t j) const { return static_cast<std::size_t>(i * slice.in_features + j); }
  void clear_padding(std::vector<float>& values) const {
    for (std::int64_t p = 0; p < slice.in_features; ++p)
      std::fill(values.begin() + p * slice.width + slice.rows, values.begin() + (p + 1) * slice.width, 0.0F);
  }
  std::vector<std::int32_t> random_codes(bool of_residual, std::uint32_t seed) const {
    std::vector<std::int32_t> codes(static_cast<std::size_t>(slice.in_features * slice.code_stride));
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const auto position = static_cast<std::int64_t>(i) / slice.code_stride;
      const std::int64_t k = slice.is_outlier(position) ? slice.k0 : of_residual ? slice.kr : slice.k;
      codes[i] = static_cast<std::int32_t>((i * 7919 + seed * 104729) % 1000003 % static_cast<std::size_t>(k));
    }
    return codes;
  }
  std::int64_t book_size() const { return static_cast<std::int64_t>(main.size() + residual.size() + outlier.size()); }

  kernels::VqSlice slice;
  std::vector<std::int64_t> part_begin;
  std::vector<float> main, residual, outlier, scale, bias, matrix, coupling;
};

/// The problem's arrays on a device.
struct Placed {
  Placed(backend::Context& context, const Problem& problem)
      : main(context, std::span(problem.main)),
        residual(context, std::span(problem.residual)),
        outlier(context, std::span(problem.outlier)),
        scale(context, std::span(problem.scale)),
        bias(context, std::span(problem.bias)),
        matrix(context, std::span(problem.matrix)),
        coupling(context, std::span(problem.coupling)) {
    books = {main.data(), residual.data(), outlier.data(), scale.data(), bias.data()};
  }
  backend::Array<float> main, residual, outlier, scale, bias, matrix, coupling;
  kernels::VqBooks books;
};

struct Chosen {
  std::vector<std::int32_t> main, residual;
  std::vector<float> matrix, quantized;

  bool operator==(const Chosen&) const = default;
};

const Shape kShapes[] = {
    // in rows  v   k  kr groups outliers v0 k0 parts
    {20, 37, 4, 16, 0, 1, 0, 1, 0, 1},    {21, 100, 6, 200, 16, 1, 0, 1, 0, 3},  {131, 67, 8, 130, 0, 1, 0, 1, 0, 1},
    {23, 75, 6, 16, 32, 2, 5, 4, 20, 3},  {30, 50, 12, 150, 16, 1, 6, 3, 32, 2}, {9, 33, 3, 16, 0, 1, 3, 1, 16, 1},
    {12, 290, 8, 16, 300, 4, 0, 1, 0, 3}, {7, 70, 16, 20, 16, 1, 2, 12, 16, 1},  {5, 3, 1, 16, 16, 1, 0, 1, 0, 1}};

class SliceTest : public test::GpuTest {
 protected:
  Chosen column_loop(backend::Context& context, const Problem& problem, const kernels::ColumnLoopOptions& options) {
    Placed placed(context, problem);
    const std::vector<std::int32_t> unset(
        static_cast<std::size_t>(problem.slice.in_features * problem.slice.code_stride), -7);
    backend::Array<std::int32_t> main(context, std::span(unset)), residual(context, std::span(unset));
    backend::Array<float> quantized(context, placed.matrix.size());
    const kernels::VqCodes codes{main.data(), problem.slice.kr > 0 ? residual.data() : nullptr};
    context.slice().column_loop(context.exec(), problem.slice, placed.books, options, placed.coupling.data(),
                                placed.matrix.data(), codes, quantized.data());
    return {main.to_host(), residual.to_host(), placed.matrix.to_host(), quantized.to_host()};
  }
  Chosen sweep(backend::Context& context, const Problem& problem, std::int64_t candidates) {
    Placed placed(context, problem);
    backend::Array<std::int32_t> main(context, std::span<const std::int32_t>(problem.random_codes(false, 1)));
    backend::Array<std::int32_t> residual;
    if (problem.slice.kr > 0)
      residual = backend::Array<std::int32_t>(context, std::span<const std::int32_t>(problem.random_codes(true, 2)));
    backend::Array<float> quantized(context, placed.matrix.size());
    const kernels::VqCodes codes{main.data(), residual.data()};
    context.slice().decode(context.exec(), problem.slice, placed.books, codes, quantized.data());
    context.slice().sweep(context.exec(), problem.slice, placed.books, candidates, placed.coupling.data(),
                          placed.matrix.data(), codes, quantized.data());
    std::vector<std::int32_t> residual_codes = residual.to_host();
    if (residual_codes.empty()) residual_codes.resize(static_cast<std::size_t>(main.size()));
    // Of outliers they mean nothing.
    std::fill_n(residual_codes.begin(), problem.slice.outlier_size * problem.slice.code_stride, 0);
    return {main.to_host(), residual_codes, placed.matrix.to_host(), quantized.to_host()};
  }

  /// Equal on the emulator; on a GPU at most 2 % other codes, at a loss within 1 %.
  template <class Loss>
  void expect_alike(const Chosen& twin, const Chosen& oracle, bool exact, const Loss& loss) {
    if (exact || is_emulated()) {
      EXPECT_EQ(twin.main, oracle.main);
      EXPECT_EQ(twin.residual, oracle.residual);
      EXPECT_EQ(twin.quantized, oracle.quantized);
      EXPECT_EQ(twin.matrix, oracle.matrix);
      return;
    }
    ASSERT_EQ(twin.main.size(), oracle.main.size());
    std::size_t other = 0;
    for (std::size_t i = 0; i < twin.main.size(); ++i)
      other += twin.main[i] != oracle.main[i] || twin.residual[i] != oracle.residual[i] ? 1U : 0U;
    EXPECT_LE(static_cast<double>(other), 0.02 * static_cast<double>(twin.main.size()) + 2);
    EXPECT_NEAR(loss(twin) / loss(oracle), 1.0, 0.01);
  }
  /// sum of |(target - q) / U_nn|^2, what the column loop keeps small.
  static double loop_loss(const Problem& problem, const Chosen& chosen) {
    double sum = 0;
    for (std::int64_t p = 0; p < problem.slice.in_features; ++p)
      for (std::int64_t r = 0; r < problem.slice.width; ++r) {
        const auto i = static_cast<std::size_t>(p * problem.slice.width + r);
        const double error = static_cast<double>(chosen.matrix[i] - chosen.quantized[i]) /
                             static_cast<double>(problem.coupling[problem.at(p, p)]);
        sum += error * error;
      }
    return sum;
  }
  void expect_loops_alike(const Problem& problem, const kernels::ColumnLoopOptions& options) {
    expect_alike(column_loop(gpu(), problem, options), column_loop(cpu(), problem, options), !options.feedback,
                 [&](const Chosen& chosen) { return loop_loss(problem, chosen); });
  }
};

TEST_F(SliceTest, ColumnLoopChoosesAsTheCpu) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::PrintToString(shape));
    const Problem problem(shape);
    expect_loops_alike(problem, {1, true, false});
    if (shape.kr == 0) continue;
    expect_loops_alike(problem, {4, true, false});
  }
}

// As many candidates as there may be: more than lanes that keep scores, more than centroids.
TEST_F(SliceTest, ColumnLoopOfMostCandidates) {
  for (const Shape& shape : {Shape{6, 70, 4, 16, 16, 1, 0, 1, 0, 1}, Shape{6, 70, 4, 200, 40, 1, 2, 8, 16, 1},
                             Shape{6, 150, 6, 1000, 16, 1, 0, 1, 0, 2}, Shape{6, 40, 6, 8, 16, 1, 0, 1, 0, 1}}) {
    SCOPED_TRACE(testing::PrintToString(shape));
    expect_loops_alike(Problem(shape, 50), {16, true, false});
  }
}

TEST_F(SliceTest, ColumnsToTheirNearestVectorsAreEqual) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::PrintToString(shape));
    const Problem problem(shape, 100);
    expect_loops_alike(problem, {1, false, false});
    expect_loops_alike(problem, {5, false, false});
  }
}

TEST_F(SliceTest, PaddingThatCounts) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::PrintToString(shape));
    expect_loops_alike(Problem(shape, 200), {3, true, true});
  }
}

// Books past shared memory are read from global memory, for twice the vectors.
TEST_F(SliceTest, ColumnLoopOfLargeBooks) {
  const std::int64_t k = is_emulated() ? 8192 : 65536, columns = is_emulated() ? 3 : 300;
  for (const Shape& shape :
       {Shape{columns, 300, 8, k, 0, 1, 0, 1, 0, 1}, Shape{columns, 261, 12, k / 2, 256, 1, 0, 1, 0, 2}}) {
    SCOPED_TRACE(testing::PrintToString(shape));
    expect_loops_alike(Problem(shape, 300), {8, true, false});
  }
}

// All scores within the rounding of tf32, and more groups of centroids than a lane keeps scores of: the exact search.
TEST_F(SliceTest, CentroidsCloserThanTheRoundingOfTensorCores) {
  Problem problem({2, 22, 4, 16384, 8, 1, 0, 1, 0, 1}, 350);
  for (float& value : problem.main) value = 3.0F + 1e-4F * value;
  std::fill(problem.scale.begin(), problem.scale.end(), 1.0F);
  std::fill(problem.bias.begin(), problem.bias.end(), 0.0F);
  for (float& value : problem.matrix) value = 3.0F + 1e-4F * value;
  problem.clear_padding(problem.matrix);
  for (const std::int64_t candidates : {1, 3}) {
    SCOPED_TRACE(candidates);
    expect_loops_alike(problem, {candidates, false, false});
  }
}

TEST_F(SliceTest, SweepChoosesAsTheCpu) {
  for (const Shape& shape : kShapes) {
    for (const std::int64_t candidates : {1, 6}) {
      SCOPED_TRACE(testing::PrintToString(shape));
      const Problem problem(shape, 400);
      expect_alike(sweep(gpu(), problem, candidates), sweep(cpu(), problem, candidates), false,
                   [&](const Chosen& chosen) {
                     double sum = 0;
                     for (const float g : chosen.matrix) sum += static_cast<double>(g) * static_cast<double>(g);
                     return sum;
                   });
    }
  }
}

// The rows of a member's slice give the same codes whatever rows lie beside them.
TEST_F(SliceTest, RowsDoNotDependOnTheirNeighbours) {
  Problem whole({40, 320, 8, 64, 0, 1, 0, 1, 0, 2});
  const Chosen together = column_loop(gpu(), whole, {1, true, false});
  Problem upper({40, 160, 8, 64, 0, 1, 0, 1, 0, 1});
  for (std::int64_t p = 0; p < 40; ++p)
    std::copy_n(whole.matrix.begin() + p * 320 + 160, 160, upper.matrix.begin() + p * 160);
  upper.main = whole.main;
  upper.scale = whole.scale;
  upper.bias = whole.bias;
  upper.coupling = whole.coupling;
  const Chosen alone = column_loop(gpu(), upper, {1, true, false});
  for (std::int64_t p = 0; p < 40; ++p)
    EXPECT_TRUE(
        std::equal(alone.main.begin() + p * 20, alone.main.begin() + (p + 1) * 20, together.main.begin() + p * 40 + 20))
        << p;
}

TEST_F(SliceTest, DataMovesUnchanged) {
  struct Moved {
    std::vector<float> transposed, decoded, points, weights, difference;
    bool operator==(const Moved&) const = default;
  };
  const auto run = [&](backend::Context& context, const Problem& problem) {
    const kernels::VqSlice& s = problem.slice;
    const Placed placed(context, problem);
    const backend::Array<float> weight(context, std::span<const float>(normal_values(s.rows * s.in_features, 501)));
    std::vector<std::int32_t> order(static_cast<std::size_t>(s.in_features));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(order.size() - 1 - i);
    const backend::Array<std::int32_t> perm(context, std::span<const std::int32_t>(order)),
        main(context, std::span<const std::int32_t>(problem.random_codes(false, 3)));
    backend::Array<std::int32_t> residual;
    if (s.kr > 0)
      residual = backend::Array<std::int32_t>(context, std::span<const std::int32_t>(problem.random_codes(true, 4)));
    const std::int64_t size = s.in_features * s.width;
    backend::Array<float> transposed(context, size), decoded(context, size), difference(context, size);
    const auto& table = context.slice();
    table.transpose(context.exec(), s, weight.data(), perm.data(), transposed.data());
    table.decode(context.exec(), s, placed.books, {const_cast<std::int32_t*>(main.data()), residual.data()},
                 decoded.data());
    table.subtract(context.exec(), size, transposed.data(), decoded.data(), difference.data());
    const kernels::TrainingRange range{1, s.in_features - 2, 3, 2};
    std::int64_t n = 0;
    for (std::int64_t part = 0; part < s.n_parts; ++part)
      n += ((s.part_begin[part + 1] - s.part_begin[part]) / range.dim * range.count + range.stride - 1) / range.stride;
    backend::Array<float> points(context, n * range.dim), weights(context, n);
    table.gather_training(context.exec(), s, range, placed.matrix.data(), placed.scale.data(), placed.bias.data(),
                          placed.scale.data(), points.data(), weights.data());
    return Moved{transposed.to_host(), decoded.to_host(), points.to_host(), weights.to_host(), difference.to_host()};
  };
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::PrintToString(shape));
    const Problem problem(shape, 500);
    EXPECT_EQ(run(gpu(), problem), run(cpu(), problem));
  }
}

TEST_F(SliceTest, SumsOfParts) {
  const auto run = [&](backend::Context& context, const Problem& problem, bool combined) {
    const kernels::VqSlice& s = problem.slice;
    Placed placed(context, problem);
    backend::Array<std::int32_t> main(context, std::span<const std::int32_t>(problem.random_codes(false, 5))), residual;
    if (s.kr > 0)
      residual = backend::Array<std::int32_t>(context, std::span<const std::int32_t>(problem.random_codes(true, 6)));
    else
      placed.books.residual = nullptr;
    const kernels::VqCodes codes{main.data(), residual.data()};
    const std::int64_t copies = combined ? 1 : s.n_parts;
    backend::Array<float> g(context, placed.matrix.size());
    const auto& table = context.slice();
    table.decode(context.exec(), s, placed.books, codes, g.data());
    backend::Array<double> dot(context, copies), books(context, copies * problem.book_size()),
        diagonal(context, copies * problem.book_size()), columns(context, copies * 2 * s.in_features),
        column_diagonal(context, copies * 2 * s.in_features);
    const auto& exec = context.exec();
    table.dots(exec, s, placed.matrix.data(), g.data(), combined, dot.data());
    table.collect_books(exec, s, codes, placed.scale.data(), placed.matrix.data(), nullptr, combined, books.data());
    table.collect_books(exec, s, codes, placed.scale.data(), nullptr, placed.scale.data(), combined, diagonal.data());
    table.collect_columns(exec, s, placed.books, codes, placed.matrix.data(), nullptr, combined, columns.data());
    table.collect_columns(exec, s, placed.books, codes, nullptr, placed.scale.data(), combined, column_diagonal.data());
    std::vector<std::vector<double>> all;
    for (const auto* sums : {&dot, &books, &diagonal, &columns, &column_diagonal}) all.push_back(sums->to_host());
    return all;
  };
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::PrintToString(shape));
    const Problem problem(shape, 600);
    const auto apart = run(gpu(), problem, false), oracle = run(cpu(), problem, false),
               combined = run(gpu(), problem, true);
    for (std::size_t kind = 0; kind < apart.size(); ++kind) {
      ASSERT_EQ(apart[kind].size(), oracle[kind].size());
      for (std::size_t i = 0; i < apart[kind].size(); ++i)
        EXPECT_NEAR(apart[kind][i], oracle[kind][i], 1e-9) << kind << " " << i;
      std::vector<double> in_order(combined[kind].size(), 0.0);
      for (std::size_t i = 0; i < apart[kind].size(); ++i) in_order[i % in_order.size()] += apart[kind][i];
      EXPECT_EQ(combined[kind], in_order) << kind;
    }
  }
}

TEST_F(SliceTest, PackedWordsAreEqual) {
  for (const Shape& shape :
       {Shape{45, 37, 4, 16, 0, 1, 0, 1, 0, 1}, Shape{75, 300, 6, 4096, 0, 2, 5, 4, 32, 3},
        Shape{40, 33, 3, 65536, 65536, 1, 0, 1, 0, 1}, Shape{50, 65, 8, 2048, 16, 5, 10, 6, 16, 1}}) {
    SCOPED_TRACE(testing::PrintToString(shape));
    const Problem problem(shape, 700);
    const kernels::VqSlice& s = problem.slice;
    const int bits = static_cast<int>(std::log2(shape.k) + (shape.kr > 0 ? std::log2(shape.kr) : 0));
    std::vector<std::int32_t> stored(static_cast<std::size_t>(s.groups * s.group_size));
    for (std::size_t i = 0; i < stored.size(); ++i)
      stored[i] = static_cast<std::int32_t>((static_cast<std::int64_t>(i) % s.group_size * 11 + 3) % s.group_size);
    ASSERT_NE(s.group_size % 11, 0);
    const auto pack = [&](backend::Context& context) {
      backend::Array<std::int32_t> main(context, std::span<const std::int32_t>(problem.random_codes(false, 7))),
          residual;
      if (s.kr > 0)
        residual = backend::Array<std::int32_t>(context, std::span<const std::int32_t>(problem.random_codes(true, 8)));
      const backend::Array<std::int32_t> columns(context, std::span<const std::int32_t>(stored));
      backend::Array<std::uint32_t> words(context,
                                          s.groups * ((s.rows + s.v - 1) / s.v) * ((s.group_size * bits + 31) / 32));
      backend::Array<std::uint16_t> outliers(context, (s.rows + s.v0 - 1) / s.v0 * s.outlier_size);
      context.slice().pack(context.exec(), s, {main.data(), residual.data()}, columns.data(), words.data(),
                           outliers.data());
      return std::pair(words.to_host(), outliers.to_host());
    };
    EXPECT_EQ(pack(gpu()), pack(cpu()));
  }
}

}  // namespace
}  // namespace voronoi
