// Planned bits against the bits of real encodings, and the work and memory that go with them.
#include <gtest/gtest.h>

#include "backend/device.h"
#include "core/team.h"
#include "format/vptq.h"
#include "layers.h"
#include "quant/aqlm/aqlm_method.h"
#include "quant/baselines/afpq.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/uniform_method.h"
#include "quant/cost.h"
#include "quant/gptvq/layout.h"
#include "quant/memory.h"
#include "quant/method.h"
#include "quant/vq/vector_parameters.h"
#include "quant/vq/voronoi.h"

namespace voronoi::quant {
namespace {

QuantParameters parameters(const std::string& method) {
  QuantParameters p;
  p.method = method;
  p.get<VectorParameters>().kmeans_iterations = 3;
  p.get<VoronoiParameters>().rounds = 1;
  p.get<VectorParameters>().centroids = 16;
  return p;
}

void expect_as_planned(const QuantParameters& p, std::int64_t out_features, std::int64_t in_features) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  ASSERT_TRUE(check_parameters(p).empty());
  ASSERT_TRUE(check_shape(p, out_features, in_features).empty());
  const test::Layer layer = test::make_layer(context, out_features, in_features, 7, p.act_order);
  const QuantResult result = find_method(p.method).quantize(context, team, layer.input(), p);
  EXPECT_EQ(planned_bits(p, out_features, in_features).total(), stored_bits(result.encoding))
      << p.method << " " << out_features << " x " << in_features;
  EXPECT_DOUBLE_EQ(planned_nominal_bits(p), nominal_bits(result.encoding));
}

TEST(Footprint, PlannedBitsAreThoseOfRealEncodings) {
  for (const char* method : {"rtn", "gptq", "bitdistiller", "awq"})
    for (const int bits : {2, 3, 8})
      for (const std::int64_t group_size : {0, 16, 24, 64})
        for (const bool act_order : {true, false}) {
          QuantParameters p = parameters(method);
          p.get<GptqParameters>().group_grid = bits == 3 ? "original" : "static";
          p.get<UniformParameters>().bits = bits;
          p.get<UniformParameters>().group_size = group_size;
          p.act_order = act_order;
          expect_as_planned(p, 33, 50);
        }
  for (const int bits : {2, 3})
    for (const std::int64_t d : {1, 2, 4})
      for (const std::int64_t scale_block : {0, 16})
        for (const bool bytes : {true, false}) {
          QuantParameters p = parameters("gptvq");
          p.get<UniformParameters>().bits = bits;
          p.act_order = bytes;
          auto& own = p.get<GptvqParameters>();
          own.vector_columns = d;
          own.scale_block = scale_block;
          own.codebook_bits = bytes ? 8 : 16;
          own.group_weights = 500;
          own.group_columns = 32;
          own.codebook_update = false;
          own.strip_passes = 1;
          expect_as_planned(p, 33, 52);
          own.codebook_rank = d == 1 ? 2 : 0;
          if (own.codebook_rank > 0 && bits > 1) expect_as_planned(p, 33, 52);
        }
  for (const char* levels : {"normal", "floating"})
    for (const char* with : {"none", "gptq", "awq"})
      for (const int bits : {3, 4}) {
        QuantParameters p = parameters("afpq");
        p.get<AfpqParameters>() = {levels, with};
        p.get<GptqParameters>().group_grid = bits == 3 ? "original" : "static";
        p.get<UniformParameters>().bits = bits;
        p.get<UniformParameters>().group_size = 16;
        expect_as_planned(p, 33, 50);
      }
  for (const std::int64_t bits : {3, 9})
    for (const std::int64_t group : {1, 4, 8})
      for (const std::int64_t books : {1, 3}) {
        QuantParameters p = parameters("aqlm");
        p.get<AqlmParameters>().codebooks = books;
        p.get<AqlmParameters>().code_bits = bits;
        p.get<AqlmParameters>().in_group = group;
        p.get<AqlmParameters>().rounds = 0;
        expect_as_planned(p, 100, 56);
      }
  for (const char* method : {"vptq", "voronoi"})
    for (const std::int64_t v : {1, 4, 6, 8})
      for (const std::int64_t kr : {0, 4, 16}) {
        QuantParameters p = parameters(method);
        p.get<VectorParameters>().vector_length = v;
        p.get<VectorParameters>().residual_centroids = kr;
        expect_as_planned(p, 45, 40);  // 45 is no multiple of 4, 6 and 8
      }
}

TEST(Footprint, PlannedBitsCountGroupsOutliersAndPermutation) {
  for (const char* method : {"vptq", "voronoi"}) {
    QuantParameters p = parameters(method);
    p.get<VectorParameters>().groups = 4;
    expect_as_planned(p, 64, 48);
    EXPECT_EQ(planned_bits(p, 64, 48).permutation, 16 * 48);
    p.get<VectorParameters>().groups = 1;
    p.get<VectorParameters>().outlier_percent = 10;
    p.get<VectorParameters>().outlier_centroids = 8;
    expect_as_planned(p, 61, 48);
    p.get<VectorParameters>().groups = 3;
    p.get<VectorParameters>().outlier_percent = 5;
    expect_as_planned(p, 61, 48);
  }
}

TEST(Footprint, PartsOfPlannedBitsByHand) {
  QuantParameters p = parameters("vptq");
  p.get<VectorParameters>().vector_length = 6;
  p.get<VectorParameters>().centroids = 4096;
  p.get<VectorParameters>().residual_centroids = 16;
  const StoredBits bits = planned_bits(p, 100, 70);
  EXPECT_EQ(bits.indices, 17 * 35 * 32);  // 17 rows of vectors; 70 x 16 bits fill 35 words
  EXPECT_EQ(bits.codebooks, 16 * 6 * (4096 + 16));
  EXPECT_EQ(bits.scales, 32 * 70);
  EXPECT_EQ(bits.permutation, 0);
}

TEST(Footprint, WorkGrowsWithWhatItCounts) {
  QuantParameters p = parameters("voronoi");
  p.get<VectorParameters>().centroids = 256;
  const OperatorWork one = operator_work(p, 512, 512), wide = operator_work(p, 1024, 512);
  EXPECT_GT(wide.kmeans.nearest, 1.5 * one.kmeans.nearest);
  EXPECT_DOUBLE_EQ(wide.column_loop.gemm, 2 * one.column_loop.gemm);
  EXPECT_GT(one.refine.gemm, one.column_loop.gemm);
  p.method = "vptq";
  EXPECT_EQ(operator_work(p, 512, 512).refine.flops(), 0);
  EXPECT_DOUBLE_EQ(hessian_work(300).factor, 2.0 / 3.0 * 300 * 300 * 300);
  EXPECT_EQ(operator_work(p, 4096, 512).row_pieces, 42);  // 1024 vectors, at least 24 a piece
  EXPECT_GT(received_bytes(operator_work(p, 512, 512), 2), 4 * 512 * 512 / 4 / 2);
}

TEST(Footprint, OfASumAMemberReceivesSlices) {
  OperatorWork work;
  work.exchange_bytes = 100;
  work.row_pieces = 64;
  work.sums = {{1000, 2}};  // 64 arrays of 8000 bytes: a quarter of each array's pieces, and the sum
  EXPECT_DOUBLE_EQ(received_bytes(work, 4), 0.75 * (100 + 2 * (16 * 8000 + 8000)));
  work.sums = {{10, 1}};  // few: all arrays
  EXPECT_DOUBLE_EQ(received_bytes(work, 4), 0.75 * (100 + 64 * 80));
  EXPECT_EQ(received_bytes(work, 1), 0);
}

TEST(Footprint, MemoryIsAtLeastWhatMustBeThere) {
  QuantParameters p = parameters("voronoi");
  p.get<VectorParameters>().centroids = 256;
  const std::vector<OperatorShape> operators{{"q", 512}, {"k", 128}};
  const core::MemoryPeak peak = site_memory(p, 256, operators, {}, 2, 1);
  // Hessian twice and its factor, weight, pieces, quantized values, gradients.
  EXPECT_GT(peak.bytes, 4 * (4 * 256 * 256 + 4 * 512 * 256));
  EXPECT_FALSE(peak.where.empty());
  EXPECT_LT(site_memory(p, 256, operators, {}, 1, 8).bytes, peak.bytes);
  // A narrow operator behind a wide Hessian: factoring is the worst.
  const std::vector<OperatorShape> narrow{{"down", 16}};
  EXPECT_GE(site_memory(p, 4096, narrow, {}, 1, 1).bytes, 18 * std::int64_t{4096} * 4096);
  EXPECT_LE(site_memory(p, 4096, narrow, {}, 1, 1).bytes, 20 * std::int64_t{4096} * 4096);
  EXPECT_EQ(site_memory(p, 4096, narrow, {}, 1, 1).where, "factoring the Hessian");
  EXPECT_LT(host_staging(p, 256, operators, {}), peak.bytes);
  // Moments stay until the last metric is made of them: for the linear that has none behind it, until its own.
  const std::int64_t moments = std::int64_t{16} * 4096 * 4096;
  const std::vector<OperatorShape> two{{"gate", 16}, {"up", 16}};
  EXPECT_EQ(site_memory(p, 4096, narrow, {moments, true, true, false, false}, 1, 1).where, "factoring the Hessian");
  const auto later = [&](const std::vector<OperatorShape>& operators_there) {
    return host_staging(p, 4096, operators_there, {moments, true, true, false, false});
  };
  EXPECT_EQ(later(narrow), moments / 2 + 4 * std::int64_t{4096} * 4096);
  EXPECT_GE(later(two), moments + 4 * std::int64_t{4096} * 4096);
  const std::vector<OperatorShape> wide{{"gate", 65536}};
  std::vector<OperatorShape> wide_two = wide;
  wide_two.push_back({"up", 65536});
  EXPECT_EQ(later(wide_two) - later(wide), moments);
}

}  // namespace
}  // namespace voronoi::quant
