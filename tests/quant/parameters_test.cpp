// check_parameters, check_shape and the registry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "quant/quantizer.h"

namespace voronoi::quant {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

QuantParameters of_method(const std::string& method) {
  QuantParameters p;
  p.method = method;
  return p;
}

TEST(Registry, NamesEveryMethodAndFindsIt) {
  EXPECT_THAT(quantizer_names(), ElementsAre("rtn", "gptq", "vptq", "voronoi"));
  for (const std::string& name : quantizer_names()) EXPECT_EQ(&find_quantizer(name), &find_quantizer(name));
  EXPECT_NE(&find_quantizer("rtn"), &find_quantizer("gptq"));
  EXPECT_NE(&find_quantizer("vptq"), &find_quantizer("voronoi"));
}

TEST(Registry, AnUnknownMethodIsAnsweredWithTheKnownOnes) {
  try {
    find_quantizer("awq");
    ADD_FAILURE() << "found";
  } catch (const core::ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'awq'"), HasSubstr("rtn, gptq, vptq, voronoi")));
  }
}

TEST(Parameters, DefaultsOfEveryMethodAreFine) {
  for (const std::string& name : quantizer_names()) {
    EXPECT_THAT(check_parameters(of_method(name)), IsEmpty()) << name;
    EXPECT_THAT(check_shape(of_method(name), 4096, 4096), IsEmpty()) << name;
  }
}

struct Case {
  std::string method;
  std::function<void(QuantParameters&)> change;
  std::string message;  ///< empty: no problem
};

TEST(Parameters, EachFaultIsNamedByItsOption) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Case> cases{
      {"awq", [](auto&) {}, "--method awq is unknown; it must be one of rtn, gptq, vptq, voronoi"},
      {"rtn", [](auto& p) { p.damping = -0.1; }, "--damping"},
      {"rtn", [](auto& p) { p.damping = 1.5; }, "--damping is 1.5; it must be 0..1"},
      {"rtn", [nan](auto& p) { p.damping = nan; }, "--damping"},
      {"rtn", [](auto& p) { p.bits = 0; }, "--bits is 0; it must be 1..8"},
      {"gptq", [](auto& p) { p.bits = 9; }, "--bits is 9"},
      {"gptq", [](auto& p) { p.group_size = -2; }, "--group-size"},
      {"gptq", [](auto& p) { p.group_size = -1; }, ""},
      {"gptq", [](auto& p) { p.group_size = 0; }, ""},
      {"gptq", [](auto& p) { p.centroids = 3; }, ""},  // not an option of this method
      {"vptq", [](auto& p) { p.bits = 99; }, ""},
      {"vptq", [](auto& p) { p.vector_length = 0; }, "--vector-length is 0; it must be 1..16"},
      {"vptq", [](auto& p) { p.vector_length = 17; }, "--vector-length is 17"},
      {"vptq", [](auto& p) { p.centroids = 300; }, "--centroids is 300; it must be a power of two in 2..65536"},
      {"vptq", [](auto& p) { p.centroids = 1; }, "--centroids is 1"},
      {"vptq", [](auto& p) { p.centroids = -256; }, "--centroids is -256"},
      {"vptq", [](auto& p) { p.centroids = 131072; }, "--centroids is 131072"},
      {"vptq", [](auto& p) { p.centroids = 65536, p.residual_centroids = 65536; }, ""},  // 32 bits, the most
      {"vptq", [](auto& p) { p.residual_centroids = 1; }, "--residual-centroids is 1"},
      {"vptq", [](auto& p) { p.residual_centroids = 100; }, "--residual-centroids is 100"},
      {"vptq", [](auto& p) { p.centroids = 16, p.residual_centroids = 256; },
       "--residual-centroids 256 is above --centroids 16"},
      {"vptq", [](auto& p) { p.outlier_percent = -1; }, "--outlier-percent"},
      {"vptq", [](auto& p) { p.outlier_percent = 1, p.act_order = false; }, "--act-order false"},
      {"vptq", [](auto& p) { p.outlier_percent = 51; }, "--outlier-percent is 51; it must be 0..50"},
      {"vptq", [](auto& p) { p.outlier_percent = 1, p.outlier_vector_length = 0; }, "--outlier-vector-length"},
      {"vptq", [](auto& p) { p.outlier_percent = 1, p.outlier_centroids = 1000; }, "--outlier-centroids is 1000"},
      {"vptq", [](auto& p) { p.outlier_centroids = 1000; }, ""},  // no outliers, no codebook
      {"vptq", [](auto& p) { p.groups = 0; }, "--groups is 0"},
      {"vptq", [](auto& p) { p.groups = 4, p.residual_centroids = 16; }, "--groups 4 with --residual-centroids 16"},
      {"vptq", [](auto& p) { p.groups = 4, p.residual_centroids = 256; }, ""},
      {"vptq", [](auto& p) { p.groups = 4; }, ""},
      {"vptq", [](auto& p) { p.kmeans_iterations = -1; }, "--kmeans-iterations"},
      {"vptq", [nan](auto& p) { p.kmeans_tolerance = nan; }, "--kmeans-tolerance"},
      {"vptq", [](auto& p) { p.rounds = -5, p.candidates = 99; }, ""},
      {"voronoi", [](auto& p) { p.rounds = 101; }, "--rounds is 101; it must be 0..100"},
      {"voronoi", [](auto& p) { p.candidates = 0; }, "--candidates is 0; it must be 1..16"},
      {"voronoi", [](auto& p) { p.candidates = 17; }, "--candidates is 17"}};
  for (const Case& entry : cases) {
    QuantParameters p = of_method(entry.method);
    entry.change(p);
    const auto problems = check_parameters(p);
    if (entry.message.empty())
      EXPECT_THAT(problems, IsEmpty()) << entry.method;
    else
      EXPECT_THAT(problems, ElementsAre(HasSubstr(entry.message)));
  }
}

TEST(Parameters, AllProblemsAreToldAtOnce) {
  QuantParameters p = of_method("voronoi");
  p.damping = 2;
  p.vector_length = 99;
  p.centroids = 5;
  p.groups = -1;
  p.candidates = 0;
  EXPECT_EQ(check_parameters(p).size(), 5U);
}

TEST(Shape, EachFaultNamesTheLayerAndTheOption) {
  struct ShapeCase {
    std::string method;
    std::function<void(QuantParameters&)> change;
    std::int64_t out_features, in_features;
    std::string message;
  };
  const auto none = [](QuantParameters&) {};
  const std::vector<ShapeCase> cases{
      {"rtn", none, 1, 1, ""},
      {"rtn", none, 0, 5, "[0, 5] has no weights"},
      {"gptq", none, 8, 65535, ""},
      {"gptq", none, 8, 65536, "--act-order"},
      {"gptq", [](auto& p) { p.act_order = false; }, 8, 65536, ""},
      {"vptq", [](auto& p) { p.vector_length = 8; }, 6, 4096,
       "--vector-length 8 is above the 6 rows of a layer [6, 4096]"},
      {"vptq", none, 64, 16, ""},  // 16 columns of 16 vectors: just as many as centroids
      {"vptq", none, 64, 15, "--centroids 256 is more than the 240 vectors"},
      {"vptq", [](auto& p) { p.groups = 3; }, 4096, 4096, "--groups 3 does not divide the 4096 columns"},
      {"vptq", [](auto& p) { p.groups = 4; }, 4096, 4096, ""},
      {"vptq", [](auto& p) { p.groups = 4; }, 8, 65536, "more than 65535 columns"},
      {"vptq", none, 8, 65536, ""},  // natural order is stored: no perm
      // 1 % of 4096 is 41, and 1 column is left over by 3 groups: ceil(4096 / 100) + 4055 % 3 = 43.
      {"vptq", [](auto& p) { p.outlier_percent = 1, p.groups = 3; }, 4096, 4096, ""},
      {"vptq", [](auto& p) { p.outlier_percent = 1; }, 64, 4096,
       "--outlier-centroids 4096 is more than the 656 vectors"},
      {"vptq", [](auto& p) { p.outlier_percent = 1, p.outlier_vector_length = 8, p.outlier_centroids = 2; }, 5, 4096,
       "--outlier-vector-length 8 is above the 5 rows"},
      {"vptq", [](auto& p) { p.outlier_percent = 50, p.groups = 4, p.centroids = 2, p.outlier_centroids = 2; }, 4, 5,
       "leaves no column a group"},
      {"vptq", [](auto& p) { p.centroids = 4, p.groups = 2; }, 64, 14, "14 bits and 18 of padding"},
      {"vptq", [](auto& p) { p.centroids = 2; }, 64, 33, ""}};
  for (const ShapeCase& entry : cases) {
    QuantParameters p = of_method(entry.method);
    entry.change(p);
    ASSERT_THAT(check_parameters(p), IsEmpty());
    const auto problems = check_shape(p, entry.out_features, entry.in_features);
    if (entry.message.empty())
      EXPECT_THAT(problems, IsEmpty()) << entry.out_features << " " << entry.in_features;
    else
      EXPECT_THAT(problems, Contains(HasSubstr(entry.message))) << entry.out_features << " " << entry.in_features;
  }
}

TEST(Shape, ImpossibleParametersDoNotDivideByZero) {
  QuantParameters p = of_method("vptq");
  p.groups = 0;
  p.vector_length = 0;
  p.centroids = 0;
  EXPECT_THAT(check_shape(p, 64, 64), IsEmpty());
}

}  // namespace
}  // namespace voronoi::quant
