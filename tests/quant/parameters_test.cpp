// check_parameters, check_shape and the registry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "quant/aqlm/aqlm_method.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/uniform_method.h"
#include "quant/method.h"
#include "quant/quantizer.h"
#include "quant/quip/quip_sharp.h"
#include "quant/trellis/trellis_method.h"
#include "quant/vq/vector_parameters.h"
#include "quant/vq/voronoi.h"

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

VectorParameters& vq(QuantParameters& p) { return p.get<VectorParameters>(); }
VoronoiParameters& own(QuantParameters& p) { return p.get<VoronoiParameters>(); }
UniformParameters& uniform(QuantParameters& p) { return p.get<UniformParameters>(); }

TEST(Registry, NamesEveryMethodAndFindsIt) {
  EXPECT_THAT(method_names(), ElementsAre("rtn", "gptq", "bitdistiller", "awq", "afpq", "gptvq", "quip_sharp",
                                          "trellis", "aqlm", "vptq", "voronoi"));
  for (const std::string& name : method_names()) EXPECT_EQ(&find_method(name), &find_method(name));
  EXPECT_NE(&find_method("rtn"), &find_method("gptq"));
  EXPECT_NE(&find_method("vptq"), &find_method("voronoi"));
}

TEST(Registry, AnUnknownMethodIsAnsweredWithTheKnownOnes) {
  try {
    find_method("spqr");
    ADD_FAILURE() << "found";
  } catch (const core::ConfigError& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("'spqr'"),
                      HasSubstr("rtn, gptq, bitdistiller, awq, afpq, gptvq, quip_sharp, trellis, aqlm, vptq, "
                                "voronoi")));
  }
}

TEST(Parameters, DefaultsOfEveryMethodAreFine) {
  for (const std::string& name : method_names()) {
    QuantParameters p = of_method(name);
    if (name == "afpq") uniform(p).bits = 3;  // it has to be told
    EXPECT_THAT(check_parameters(p), IsEmpty()) << name;
    EXPECT_THAT(check_shape(p, 4096, 4096), IsEmpty()) << name;
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
      {"spqr", [](QuantParameters&) {},
       "--method spqr is unknown; it must be one of rtn, gptq, bitdistiller, awq, afpq, gptvq, quip_sharp, "
       "trellis, aqlm, vptq, voronoi"},
      {"afpq", [](QuantParameters&) {}, "--bits: afpq has tables of 3 and 4 bits, not 2"},
      {"awq", [](QuantParameters& p) { p.get<AwqParameters>().column_scales = "some"; }, "--column-scales"},
      {"rtn", [](QuantParameters& p) { p.damping = -0.1; }, "--damping"},
      {"rtn", [](QuantParameters& p) { p.damping = 1.5; }, "--damping: must be a number from 0 to 1, not '1.5'"},
      {"rtn", [nan](QuantParameters& p) { p.damping = nan; }, "--damping"},
      {"rtn", [](QuantParameters& p) { uniform(p).bits = 0; }, "--bits: must be an integer from 1 to 8, not '0'"},
      {"gptq", [](QuantParameters& p) { uniform(p).bits = 9; }, "--bits: must be an integer from 1 to 8, not '9'"},
      {"quip_sharp", [](QuantParameters& p) { uniform(p).bits = 5; },
       "--bits: must be an integer from 2 to 4, not '5'"},
      {"quip_sharp", [](QuantParameters& p) { p.get<QuipSharpParameters>().sweeps = -1; }, "--sweeps: must be"},
      {"quip_sharp", [](QuantParameters& p) { uniform(p).group_size = -1; }, ""},
      {"trellis", [](QuantParameters& p) { uniform(p).bits = 6; }, "--bits: must be an integer from 1 to 5, not '6'"},
      {"trellis", [](QuantParameters& p) { p.get<TrellisParameters>().state_bits = 11; }, "--state-bits: must be"},
      {"trellis", [](QuantParameters& p) { p.get<TrellisParameters>().code = "1mad"; }, "--trellis-code"},
      {"aqlm", [](QuantParameters& p) { p.get<AqlmParameters>().in_group = 6; }, "--in-group 6"},
      {"aqlm", [](QuantParameters& p) { p.get<AqlmParameters>().codebooks = 0; }, "--codebooks: must be"},
      {"aqlm", [](QuantParameters& p) { p.get<AqlmParameters>().code_bits = 17; }, "--code-bits: must be"},
      {"aqlm", [](QuantParameters& p) { p.get<AqlmParameters>().beam = 0; }, "--beam: must be"},
      {"aqlm", [](QuantParameters& p) { p.get<AqlmParameters>().rule = "best"; }, "--aqlm-rule"},
      {"gptq", [](QuantParameters& p) { uniform(p).group_size = -1; }, "--group-size"},
      {"gptq", [](QuantParameters& p) { uniform(p).group_size = 0; }, ""},
      {"gptq", [](QuantParameters& p) { vq(p).centroids = 3; }, ""},  // not an option of this method
      {"vptq", [](QuantParameters& p) { uniform(p).bits = 99; }, ""},
      {"vptq", [](QuantParameters& p) { vq(p).vector_length = 0; },
       "--vector-length: must be an integer from 1 to 16, not '0'"},
      {"vptq", [](QuantParameters& p) { vq(p).vector_length = 17; },
       "--vector-length: must be an integer from 1 to 16, not '17'"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 300; },
       "--centroids: must be a power of two from 2 to 65536, not '300'"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 1; },
       "--centroids: must be a power of two from 2 to 65536, not '1'"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = -256; }, "not '-256'"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 131072; }, "not '131072'"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 65536, vq(p).residual_centroids = 65536; },
       ""},  // 32 bits, the most
      {"vptq", [](QuantParameters& p) { vq(p).residual_centroids = 1; },
       "--residual-centroids: must be a power of two from 2 to 65536, or 0 for none, not '1'"},
      {"vptq", [](QuantParameters& p) { vq(p).residual_centroids = 100; }, "--residual-centroids: must be"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 16, vq(p).residual_centroids = 256; },
       "--residual-centroids 256 is above --centroids 16"},
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = -1; }, "--outlier-percent"},
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = 1, p.act_order = false; }, "--act-order false"},
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = 51; },
       "--outlier-percent: must be a number from 0 to 50, not '51'"},
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = 1, vq(p).outlier_vector_length = 0; },
       "--outlier-vector-length"},
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = 1, vq(p).outlier_centroids = 1000; },
       "--outlier-centroids: must be a power of two"},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 0; }, "--groups: must be an integer from 1 to 65535, not '0'"},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 4, vq(p).residual_centroids = 16; },
       "--groups 4 with --residual-centroids 16"},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 4, vq(p).residual_centroids = 256; }, ""},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 4; }, ""},
      {"vptq", [](QuantParameters& p) { vq(p).kmeans_iterations = -1; }, "--kmeans-iterations"},
      {"vptq", [nan](QuantParameters& p) { vq(p).kmeans_tolerance = nan; }, "--kmeans-tolerance"},
      {"vptq", [](QuantParameters& p) { own(p).rounds = -5, own(p).candidates = 99; }, ""},
      {"voronoi", [](QuantParameters& p) { own(p).rounds = 101; },
       "--rounds: must be an integer from 0 to 100, not '101'"},
      {"voronoi", [](QuantParameters& p) { own(p).candidates = 0; },
       "--candidates: must be an integer from 1 to 16, not '0'"},
      {"voronoi", [](QuantParameters& p) { own(p).candidates = 17; }, "--candidates: must be"}};
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
  vq(p).vector_length = 99;
  vq(p).centroids = 5;
  vq(p).groups = -1;
  own(p).candidates = 0;
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
      {"gptq", none, 8, 65536, ""},  // static grids: natural order is stored
      {"gptq", [](QuantParameters& p) { p.get<GptqParameters>().group_grid = "original"; }, 8, 65536,
       "--group-grid static"},
      {"gptq", [](QuantParameters& p) { p.act_order = false; }, 8, 65536, ""},
      {"vptq", [](QuantParameters& p) { vq(p).vector_length = 8; }, 6, 4096,
       "--vector-length 8 is above the 6 rows of a layer [6, 4096]"},
      {"vptq", none, 64, 16, ""},  // 16 columns of 16 vectors: just as many as centroids
      {"vptq", none, 64, 15, "--centroids 256 is more than the 240 vectors"},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 3; }, 4096, 4096, "--groups 3 does not divide the 4096 columns"},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 4; }, 4096, 4096, ""},
      {"vptq", [](QuantParameters& p) { vq(p).groups = 4; }, 8, 65536, "more than 65535 columns"},
      {"vptq", none, 8, 65536, ""},  // natural order is stored: no perm
      // 1 % of 4096 is 41, and 1 column is left over by 3 groups: ceil(4096 / 100) + 4055 % 3 = 43.
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = 1, vq(p).groups = 3; }, 4096, 4096, ""},
      {"vptq", [](QuantParameters& p) { vq(p).outlier_percent = 1; }, 64, 4096,
       "--outlier-centroids 4096 is more than the 656 vectors"},
      {"vptq",
       [](QuantParameters& p) {
         vq(p).outlier_percent = 1, vq(p).outlier_vector_length = 8, vq(p).outlier_centroids = 2;
       },
       5, 4096, "--outlier-vector-length 8 is above the 5 rows"},
      {"vptq",
       [](QuantParameters& p) {
         vq(p).outlier_percent = 50, vq(p).groups = 4, vq(p).centroids = 2, vq(p).outlier_centroids = 2;
       },
       4, 5, "leaves no column a group"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 4, vq(p).groups = 2; }, 64, 14, "14 bits and 18 of padding"},
      {"vptq", [](QuantParameters& p) { vq(p).centroids = 2; }, 64, 33, ""}};
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
  vq(p).groups = 0;
  vq(p).vector_length = 0;
  vq(p).centroids = 0;
  EXPECT_THAT(check_shape(p, 64, 64), IsEmpty());
}

}  // namespace
}  // namespace voronoi::quant
