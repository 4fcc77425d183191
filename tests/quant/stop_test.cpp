// A stop in the middle of long work ends it there: factoring, gptq, the column loop, k-means.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"
#include "quant/method.h"
#include "quant/vq/second_order.h"
#include "quant/vq_layer.h"

namespace voronoi::quant {
namespace {

class Stop : public testing::Test {
 protected:
  /// How often the work looks for a stop until its end, or until the look with this number, which finds one.
  int looks(const std::function<void()>& work, int last = 0) {
    int seen = 0;
    context_.pool().stop_when([&] { return ++seen == last; }, std::chrono::nanoseconds{0});
    if (last == 0) {
      work();
    } else {
      EXPECT_THROW(work(), core::StopRequested);
    }
    context_.pool().stop_when(nullptr);
    return seen;
  }
  /// Ends half way through.
  void expect_stop(const std::function<void()>& work) {
    const int all = looks(work);
    ASSERT_GT(all, 10);
    EXPECT_EQ(looks(work, all / 2), all / 2);
  }

  backend::Context context_{backend::Device::cpu, 1};
  core::SoloTeam team_;
  Layer layer_ = make_named_layer("layer", 5, 96, 512);
};

TEST_F(Stop, EndsAFactorization) {
  const test::SyntheticLayer made = test::make_synthetic_layer(1, 512, 3);
  expect_stop([&] { prepare_hessian(context_, 512, made.lower, 0.01, true); });
}

TEST_F(Stop, EndsGptq) {
  expect_stop([&] {
    gptq_codes(context_, layer_.input(), {0, layer_.out}, {2, 64, GroupGrid::fixed, core::DType::f16});
  });
}

TEST_F(Stop, EndsAColumnLoop) {
  const QuantParameters parameters = parameters_of(4, 16);
  const VqGeometry geometry = make_geometry(parameters, layer_.out, layer_.in);
  ASSERT_EQ(geometry.n_parts, 1) << "else a stop may come between the parts";
  const VqRows rows = make_rows(context_, geometry, team_, layer_.weight, layer_.hessian().perm);
  const std::vector<float> ones(static_cast<std::size_t>(layer_.in), 1.0F);
  VqState state = make_state(context_, rows, {ones, std::vector<float>(ones.size(), 0.0F)});
  state.books.main.assign(4 * 16, 0.5F);
  const auto codes = state.codes.span();
  constexpr std::int32_t kUntouched = -7;
  std::fill(codes.begin(), codes.end(), kUntouched);
  expect_stop([&] {
    std::fill(codes.begin(), codes.end(), kUntouched);
    run_column_loop(context_, rows, {layer_.hessian().factor.data()}, {}, false, state);
  });
  EXPECT_NE(codes.front(), kUntouched);
  EXPECT_EQ(codes.back(), kUntouched);
}

TEST_F(Stop, EndsEveryMethod) {
  for (const Method* method : methods()) {
    QuantParameters parameters = parameters_of(4, 16);
    parameters.method = method->name();
    parameters.get<UniformParameters>().bits = 3;
    expect_stop([&] { quantize(context_, team_, layer_.input(), parameters); });
  }
}

}  // namespace
}  // namespace voronoi::quant
