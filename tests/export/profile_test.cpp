#include "export/profile.h"

#include <gmock/gmock.h>

#include <array>

#include "export/checkpoints.h"
#include "quant/vq/vector_parameters.h"
#include "support/typed_encoding.h"

namespace voronoi::exporting {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

quant::QuantParameters parameters(std::int64_t v, std::int64_t k, std::int64_t kr) {
  quant::QuantParameters p;
  p.method = "voronoi";
  p.get<quant::VectorParameters>().vector_length = v;
  p.get<quant::VectorParameters>().centroids = k;
  p.get<quant::VectorParameters>().residual_centroids = kr;
  return p;
}

TEST(Profile, WhatTheClientHasKernelsForIsTaken) {
  for (const std::int64_t v : {4, 6, 8, 12, 16})
    for (const std::int64_t k : {256, 4096, 8192, 16384, 32768, 65536})
      for (const std::int64_t kr : {0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 65536})
        if (kr <= k) {
          EXPECT_THAT(check_exportable(parameters(v, k, kr), {}, Profile::safe), IsEmpty())
              << v << " " << k << " " << kr;
        }
}

TEST(Profile, WhatItHasNoKernelForIsRefusedByName) {
  for (const std::int64_t v : {1, 2, 3, 5, 10, 15})
    EXPECT_THAT(check_exportable(parameters(v, 256, 0), {}, Profile::full), Contains(HasSubstr("--vector-length")));
  for (const std::int64_t k : {2, 16, 128, 512, 1024, 2048})
    EXPECT_THAT(check_exportable(parameters(4, k, 0), {}, Profile::full), Contains(HasSubstr("--centroids")));
  for (const std::int64_t kr : {2, 8192, 16384, 32768})
    EXPECT_THAT(check_exportable(parameters(4, 65536, kr), {}, Profile::full),
                Contains(HasSubstr("--residual-centroids")));
  EXPECT_THAT(check_exportable(parameters(4, 256, 512), {}, Profile::full), Contains(HasSubstr("above --centroids")));
}

TEST(Profile, ArchitecturesThatTheClientCannotLoadAreRefusedByName) {
  model::ModelConfig config;
  config.model_type = "gemma3_text";
  EXPECT_TRUE(check_exportable(config, "gptq").empty());
  config.wrapper = "gemma3";
  EXPECT_TRUE(check_exportable(config, "vptq").empty());
  EXPECT_THAT(check_exportable(config, "gptq"), testing::ElementsAre(testing::HasSubstr("gemma3")));
  config = {};
  config.model_type = "gpt_oss";
  config.mixture.n_experts = 4;
  EXPECT_TRUE(check_exportable(config, "vptq").empty());
  config.mixture.storage = model::ExpertStorage::interleaved;
  EXPECT_THAT(check_exportable(config, "vptq"), testing::ElementsAre(testing::HasSubstr("gpt_oss")));
}

TEST(Profile, MethodsWithoutCodebooksAreRefused) {
  quant::QuantParameters p;
  for (const char* method : {"rtn", "gptq", "bitdistiller", "awq", "afpq", "gptvq", "quip_sharp", "trellis", "aqlm"}) {
    p.method = method;
    EXPECT_THAT(check_exportable(p, {}, Profile::full), Contains(HasSubstr("--method " + std::string(method))));
  }
}

TEST(Profile, GroupsAndOutliersAskForTheFullOne) {
  quant::QuantParameters p = parameters(8, 256, 256);
  p.get<quant::VectorParameters>().groups = 2;
  p.get<quant::VectorParameters>().outlier_percent = 1;
  EXPECT_THAT(check_exportable(p, {}, Profile::safe), SizeIs(2));
  EXPECT_THAT(check_exportable(p, {}, Profile::full), IsEmpty());
  p.get<quant::VectorParameters>().residual_centroids = 16;
  EXPECT_THAT(check_exportable(p, {}, Profile::full), Contains(HasSubstr("read past the residual codebook")));
  p.get<quant::VectorParameters>().residual_centroids = 0;
  p.get<quant::VectorParameters>().vector_length = 6;
  EXPECT_THAT(check_exportable(p, {}, Profile::full), Contains(HasSubstr("multiple of 4")));
  p.get<quant::VectorParameters>().vector_length = 8;
  p.get<quant::VectorParameters>().outlier_vector_length = 8;
  EXPECT_THAT(check_exportable(p, {}, Profile::full), Contains(HasSubstr("--outlier-vector-length")));
}

TEST(Profile, AStoredOrderHasAtMost65535Columns) {
  quant::QuantParameters p = parameters(8, 256, 0);
  const std::array<LayerShape, 2> shapes{{{64, 65535}, {64, 65536}}};
  EXPECT_THAT(check_exportable(p, shapes, Profile::safe), IsEmpty()) << "no order is stored";
  p.get<quant::VectorParameters>().groups = 4;
  EXPECT_THAT(check_exportable(p, shapes, Profile::full), Contains(HasSubstr("65535")));
  EXPECT_THAT(check_exportable(p, std::span(shapes).first(1), Profile::full), IsEmpty());
}

TEST(Profile, AllProblemsComeAtOnce) {
  quant::QuantParameters p = parameters(5, 512, 2);
  p.get<quant::VectorParameters>().groups = 2;
  p.get<quant::VectorParameters>().outlier_percent = 1;
  p.get<quant::VectorParameters>().outlier_vector_length = 3;
  EXPECT_GE(check_exportable(p, {}, Profile::safe).size(), 7U);
}

TEST(Profile, LayersAreHeldToTheSameRules) {
  const model::LinearSpec linear{"x", 24, 64, false};
  const auto problems = [&](test::LayerKind kind, Profile profile) {
    return check_exportable(test::random_encoding(linear, kind, core::DType::f16, 1), profile);
  };
  EXPECT_THAT(problems({}, Profile::safe), IsEmpty());
  EXPECT_THAT(problems({5}, Profile::safe), Contains(HasSubstr("--vector-length")));
  EXPECT_THAT(problems({8, 256, 256, 2, 4}, Profile::full), IsEmpty());
  EXPECT_THAT(problems({8, 256, 256, 2, 4}, Profile::safe), SizeIs(2));
  EXPECT_THAT(check_exportable(
                  format::to_encoding(format::UniformEncoding{{24, 24, 2, 8, core::DType::f16}, {}, {}, {}, {}, {}}),
                  Profile::full),
              Contains(HasSubstr("--method")));
}

}  // namespace
}  // namespace voronoi::exporting
