#include "format/recoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "core/random.h"
#include "format/tuned.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using test::AqlmShape;
using test::case_of;
using test::PackedShape;
using test::SignedShape;
using test::UniformShape;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(Farthest, AreAShareRoundedUpAndOfEqualOnesTheFirst) {
  const std::vector<float> distances{1, 3, 2, 3, 0, 3, 5, 2};
  EXPECT_THAT(farthest(distances, 0.01), ElementsAre(6));
  EXPECT_THAT(farthest(distances, 0.375), ElementsAre(1, 3, 6));
  EXPECT_THAT(farthest(distances, 0.5), ElementsAre(1, 3, 5, 6));
  EXPECT_THAT(farthest(distances, 0.625), ElementsAre(1, 2, 3, 5, 6));
}

TEST(Farthest, LeaveOutWhatIsThereAlreadyAndWhatIsNoNumber) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(farthest(std::vector<float>{0, nan, 1, infinity, 0}, 1.0), ElementsAre(2));
  EXPECT_THAT(farthest(std::vector<float>{0, 0}, 1.0), IsEmpty());
  EXPECT_THAT(farthest(std::vector<float>{}, 1.0), IsEmpty());
}

/// A matrix, numbers away from the stored ones, and what they decode to with the codes of now.
class Recoding : public ::testing::TestWithParam<test::PackedCase> {
 protected:
  void SetUp() override {
    matrix_ = make();
    parameters_ = matrix_->initial();
    const core::CounterRandom random(7, 1);
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      parameters_[i] += 0.02F * static_cast<float>(random.uniform(i) - 0.5);
    before_ = decoded(*matrix_);
  }
  const Encoding& encoding() const { return GetParam().encoding; }
  std::unique_ptr<TunedMatrix> make() { return encoding().format->tuned(context_, encoding()); }
  std::vector<float> decoded(const TunedMatrix& matrix) {
    std::vector<float> weight(static_cast<std::size_t>(encoding().out_features * encoding().in_features));
    matrix.decode(context_, parameters_.data(), weight.data());
    return weight;
  }
  /// The decoded weight and noise.
  std::vector<float> moved(double size) const {
    const core::CounterRandom random(8, 2);
    std::vector<float> target = before_;
    for (std::size_t i = 0; i < target.size(); ++i) target[i] += static_cast<float>(size * (random.uniform(i) - 0.5));
    return target;
  }
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
      sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    return sum;
  }
  /// What one code stands for at most.
  std::int64_t most_weights() const {
    if (encoding().format == &aqlm_format()) return aqlm_view(encoding()).in_group;
    if (encoding().format != &vptq_format()) return 1;
    const VqView view = vq_view(encoding());
    return std::max(view.vector_length, view.outlier_size > 0 ? view.outlier_vector_length : 0);
  }

  /// Whether the search looks at every code.
  bool exhaustive() const {
    if (encoding().format == &aqlm_format()) return aqlm_view(encoding()).codebooks == 1;
    return encoding().format != &vptq_format() || vq_view(encoding()).residual_centroids == 0;
  }

  backend::Context context_{backend::Device::cpu, 2};
  std::unique_ptr<TunedMatrix> matrix_;
  std::vector<float> parameters_, before_;
};

TEST_P(Recoding, FindsTheCodesThatATargetWasMadeOf) {
  // The same numbers with other codes: those of the vectors in another order.
  const auto other = make();
  const std::vector<float> noise = moved(2.0);
  ASSERT_GT(other->recode(context_, parameters_, noise, 1.0), 0);
  const std::vector<float> target = decoded(*other);
  ASSERT_NE(target, before_);
  EXPECT_GT(matrix_->recode(context_, parameters_, target, 1.0), 0);
  // With a residual the search is not exhaustive; else nothing of the way is left but what rounding hides.
  const double left = exhaustive() ? 1e-9 : encoding().format == &vptq_format() ? 0.02 : 0.1;
  EXPECT_LE(distance(decoded(*matrix_), target), left * distance(before_, target));
}

TEST_P(Recoding, NothingIsFurtherThanBefore) {
  const std::vector<float> target = moved(0.5);
  matrix_->recode(context_, parameters_, target, 1.0);
  const std::vector<float> after = decoded(*matrix_);
  EXPECT_LT(distance(after, target), distance(before_, target));
  // The nearest again: there is nothing left to find where the search looks at everything.
  if (exhaustive()) {
    EXPECT_EQ(matrix_->recode(context_, parameters_, target, 1.0), 0);
  }
}

TEST_P(Recoding, NoMoreThanItsShareChangesAndThatIsTheFurthest) {
  const std::vector<float> target = moved(2.0);
  const auto all = make();
  const std::int64_t n_all = all->recode(context_, parameters_, target, 1.0);
  const double share = 0.1;
  const std::int64_t n = matrix_->recode(context_, parameters_, target, share);
  ASSERT_GT(n, 0);
  ASSERT_LT(n, n_all);
  const std::vector<float> after = decoded(*matrix_), complete = decoded(*all);
  std::int64_t n_weights = 0;
  double moved_least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (after[i] == before_[i]) continue;
    ++n_weights;
    EXPECT_EQ(after[i], complete[i]) << i;
    moved_least = std::min(moved_least, static_cast<double>(std::fabs(target[i] - before_[i])));
  }
  EXPECT_LE(n, static_cast<std::int64_t>(std::ceil(share * static_cast<double>(after.size()))));
  EXPECT_LE(n_weights, n * most_weights());
  if (most_weights() == 1) {
    // Of single weights: those that stay are not further off, unless their code is the nearest.
    for (std::size_t i = 0; i < after.size(); ++i)
      if (after[i] == before_[i] && complete[i] != before_[i]) {
        EXPECT_LE(static_cast<double>(std::fabs(target[i] - before_[i])), moved_least);
      }
  }
}

TEST_P(Recoding, CodesComeBackAndAreWhatIsStored) {
  const std::vector<std::byte> stored = matrix_->codes();
  matrix_->recode(context_, parameters_, moved(2.0), 1.0);
  const std::vector<std::byte> codes = matrix_->codes();
  EXPECT_NE(codes, stored);
  EXPECT_EQ(codes.size(), stored.size());
  const auto other = make();
  other->set_codes(codes);
  EXPECT_EQ(decoded(*other), decoded(*matrix_));
  const Encoding rounded = matrix_->rounded(parameters_);
  EXPECT_EQ(find_problem(rounded), "");
  EXPECT_EQ(rounded.format->tuned(context_, rounded)->codes(), codes);
  other->set_codes(stored);
  EXPECT_EQ(decoded(*other), before_);
}

TEST_P(Recoding, ThreadsChangeNothing) {
  matrix_->recode(context_, parameters_, moved(2.0), 0.3);
  for (const int threads : {1, 3}) {
    backend::Context context(backend::Device::cpu, threads);
    const auto other = encoding().format->tuned(context, encoding());
    other->recode(context, parameters_, moved(2.0), 0.3);
    EXPECT_EQ(other->codes(), matrix_->codes());
  }
}

TEST_P(Recoding, ATargetThatIsNoNumberMovesNothing) {
  const std::vector<float> target(before_.size(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(matrix_->recode(context_, parameters_, target, 1.0), 0);
  EXPECT_EQ(decoded(*matrix_), before_);
}

INSTANTIATE_TEST_SUITE_P(Vptq, Recoding,
                         ::testing::Values(case_of(PackedShape{24, 64, 4, 6, 0}),
                                           case_of(PackedShape{62, 50, 8, 5, 4, 1, 0, 0, 0, false, core::DType::bf16}),
                                           case_of(PackedShape{59, 66, 12, 5, 3, 2}),
                                           case_of(PackedShape{61, 96, 6, 5, 4, 3, 6, 4, 37, true, core::DType::bf16}),
                                           case_of(PackedShape{77, 51, 3, 4, 0, 1, 1, 5, 7, true})));

INSTANTIATE_TEST_SUITE_P(Uniform, Recoding,
                         ::testing::Values(case_of(UniformShape{24, 64, 2, 64}),
                                           case_of(UniformShape{37, 101, 3, 16, true}),
                                           case_of(UniformShape{34, 70, 4, 70, false, core::DType::bf16})));

// Every code looked at, and several codebooks.
INSTANTIATE_TEST_SUITE_P(Aqlm, Recoding,
                         ::testing::Values(case_of(AqlmShape{24, 64, 1, 7, 2}),
                                           case_of(AqlmShape{30, 60, 1, 9, 4, core::DType::bf16}),
                                           case_of(AqlmShape{40, 96, 2, 4, 8})));

// Columns with scales, in both forms of codes of single weights.
INSTANTIATE_TEST_SUITE_P(Scaled, Recoding,
                         ::testing::Values(case_of(UniformShape{37, 101, 3, 16, true, core::DType::f16, true}),
                                           case_of(UniformShape{24, 70, 4, 64, false, core::DType::bf16, true})));

INSTANTIATE_TEST_SUITE_P(
    SignedLevels, Recoding,
    ::testing::Values(case_of(SignedShape{24, 64, 3, LevelTable::normal, 64}),
                      case_of(SignedShape{37, 101, 4, LevelTable::normal, 16, true}),
                      case_of(SignedShape{34, 70, 4, LevelTable::floating, 70, false, core::DType::bf16, true}),
                      case_of(SignedShape{7, 65, 3, LevelTable::floating, 5, true, core::DType::f16, true})));

}  // namespace
}  // namespace voronoi::format
