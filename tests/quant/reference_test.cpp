// What the authors' own programs answer on layers of a formula, run outside of this project in fp32 on a CPU: codes as
// they printed them.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/index.h"
#include "core/packing.h"
#include "quant/aqlm/additive_rows.h"
#include "quant/aqlm/beam_sweep.h"
#include "quant/baselines/afpq.h"
#include "quant/baselines/uniform_method.h"
#include "quant/formula_layer.h"
#include "quant/gptvq/gptvq_method.h"
#include "quant/gptvq/layout.h"
#include "quant/quip/lattice_codes.h"
#include "quant/vq/vector_parameters.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::index;
using core::SoloTeam;

/// Digits of base 16, one after another.
std::vector<std::uint32_t> digits(const std::string& text) {
  std::vector<std::uint32_t> values;
  for (const char c : text) values.push_back(static_cast<std::uint32_t>(std::stoi(std::string(1, c), nullptr, 16)));
  return values;
}

// Qualcomm-AI-research/gptvq at fd8a3ce: GPTQ.fasterquant with VQQuantizer (start by Mahalanobis distances, 100 steps,
// bytes, weighted look-ups), without its last update.
TEST(Reference, GptvqHasTheAuthorsCodes) {
  struct Golden {
    int bits;
    std::int64_t d;
    double error;
    std::string codes;
  };
  for (const Golden& golden : {Golden{2, 2, 0.0319568,
                                      "97711a605522508720353a19512745237470ccd2f061a6ebbe7fa6780142d3c0"
                                      "62dc9e028535b27305101515196340767770b6a411430526c822a6134d6b3701"
                                      "1a1bb9657d3afa067deed519081b463f4000380000615179615255540d961162"
                                      "459613ab3dc1f09910c12c87ad8a6b616a982ac2a5fbe3ffbd7d212002137451"},
                               Golden{1, 4, 0.1166557,
                                      "71291408105948a84327d2e4abe87c97925255c80009b70281646ca48049b706"
                                      "3490b3fdb3a9d04b32062c829824191906746d2627bce36c5a0727cfbb11101d"}}) {
    backend::Context context(backend::Device::cpu, 1);
    SoloTeam team;
    const test::Layer layer = test::formula_layer(context, 16, 32, 0.01, false);
    QuantParameters p;
    p.method = "gptvq";
    p.act_order = false;
    p.get<UniformParameters>().bits = golden.bits;
    p.get<VectorParameters>().kmeans_tolerance = 0;
    auto& own = p.get<GptvqParameters>();
    own.vector_columns = golden.d;
    own.group_weights = std::int64_t{16} * 32;
    own.rule = "published";
    own.strip_passes = 1;
    own.codebook_update = false;
    const QuantResult result = gptvq_method().quantize(context, team, layer.input(), p);
    EXPECT_NEAR(result.relative_error, golden.error, 1e-3 * golden.error);
    const format::GptvqEncoding e = test::gptvq_of(result.encoding);
    std::vector<std::uint32_t> codes(index(e.vectors())), all;
    const std::size_t words = index(core::packed_words(e.vectors(), e.index_bits()));
    for (std::size_t row = 0; row < 16; ++row) {
      core::unpack_row(std::span(e.indices).subspan(row * words, words), e.index_bits(), codes);
      all.insert(all.end(), codes.begin(), codes.end());
    }
    EXPECT_EQ(all, digits(golden.codes)) << golden.bits << " bits";
  }
}

// Vahe1994/AQLM at e79a896: beam_search_optimal_codes with a beam of 1, groups and codebooks in their order.
TEST(Reference, AqlmsSearchTakesTheAuthorsCodes) {
  backend::Context context(backend::Device::cpu, 1);
  SoloTeam team;
  const test::Layer layer = test::formula_layer(context, 8, 32, 0.01, false);
  const QuantInput input = layer.input();
  format::AqlmExtents e;
  e.out_features = 8;
  e.in_features = 32;
  e.codebooks = 2;
  e.code_bits = 4;
  e.in_group = 4;
  AdditiveRows rows(context.pool(), team, input, layer.hessian.h.span(), e);
  for (std::int64_t m = 0; m < 2; ++m)
    for (std::int64_t i = 0; i < 64; ++i)
      rows.numbers.books[index(m * 64 + i)] =
          static_cast<float>(test::formula_normal(700000 + m * 64 + i) / static_cast<double>(1 + m));
  for (std::int64_t row = 0; row < 8; ++row)
    rows.numbers.scale[index(row)] = static_cast<float>(0.02 * (1 + static_cast<double>(row % 5) / 4));
  for (std::size_t i = 0; i < 128; ++i)
    rows.numbers.codes[i] = static_cast<std::uint16_t>(test::mixed(static_cast<std::uint32_t>(900000 + i)) % 16);
  rows.evaluate();
  const std::vector<std::int32_t> order{0, 1, 2, 3, 4, 5, 6, 7};
  sweep_codes(rows, layer.hessian.h.span(), order, 1);
  EXPECT_EQ(std::vector<std::uint32_t>(rows.numbers.codes.begin(), rows.numbers.codes.end()),
            digits("3a04d6da9119775d01b47696ac1c22a03a3706d60e1c1133be7f11be30894383"
                   "0ad7643fb9f71f8e4e59b9f315837759633f4e1d76ad5ab112aa2a4784387cf1"));
}

// Cornell-RelaxML/quip-sharp at 1d8f873: LDLQ on E8P12, E8P12RVQ3B and E8P12RVQ4B without sweeps, without rotations.
TEST(Reference, LatticeFeedbackTakesTheAuthorsCodes) {
  const std::vector<std::vector<std::uint32_t>> golden{
      {45958, 8670, 38141, 47669, 47098, 33167, 16989, 59711, 15215, 42289, 46847, 24041, 22, 23987, 5506, 7389},
      {940966013U, 1952186480U, 2671575205U, 3124035786U, 2584412360U, 2173304944U, 1056768072U, 3913220298U,
       2424701133U, 336789735U, 2516516918U, 1575551170U, 638451846U, 2452619303U, 3833790563U, 484245558U},
      {945692754U, 919955736U, 33383471U, 3124080596U, 2537162951U, 2173351493U, 1056778059U, 3913273813U, 1573783696U,
       338774862U, 21657533U, 1575565493U, 2489256199U, 2453025385U, 360852799U, 484246766U}};
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::formula_layer(context, 1, 32, 0.01, false);
  std::vector<float> weight;
  for (std::int64_t i = 0; i < 128; ++i) weight.push_back(static_cast<float>(test::formula_normal(500000 + i)));
  double mean = 0;
  for (std::int64_t i = 0; i < 32; ++i) mean += static_cast<double>(layer.hessian.h.span()[index(i * 33)]) / 32;
  const LatticeMetric metric = lattice_metric(context.pool(), 32, layer.hessian.h.span(), 0.01 * mean, 0.01 * mean);
  for (int bits = 2; bits <= 4; ++bits) {
    const LatticeCodes codes = lattice_codes(context.pool(), metric, {bits, 0}, 4, weight);
    std::vector<std::uint32_t> words(codes.codes.begin(), codes.codes.end());
    for (std::size_t i = 0; bits > 2 && i < words.size(); ++i) words[i] = words[i] << 16U | codes.residual[i];
    EXPECT_EQ(words, golden[index(bits - 2)]) << bits << " bits";
  }
}

// zhangsichengsjtu/AFPQ at 55498d2: Quantizer_nf4 and Quantizer_fp4 with two scales; places among the levels in rising
// order. Theirs keep scales in fp32, ours in 16 bits.
TEST(Reference, AfpqTakesTheAuthorsLevels) {
  struct Golden {
    std::string table;
    int bits;
    std::vector<double> levels;
    std::string places;
  };
  const std::vector<double> nf3{-1, -.53502274, -.2469314, 0, .18333752, .3819939, .6229857, 1},
      nf4{-1,       -.6961928, -.52507305, -.3949175, -.28444138, -.18477343, -.09105004, 0,
          .0795803, .1609302,  .2461123,   .33791524, .44070983,  .562617,    .72295684,  1},
      fp3{-1, -.5, -.25, 0, .25, .5, 1},
      fp4{-1, -4.0 / 6, -.5, -2.0 / 6, -.25, -1.0 / 6, -.5 / 6, 0, .5 / 6, 1.0 / 6, .25, 2.0 / 6, .5, 4.0 / 6, 1};
  for (const Golden& golden :
       {Golden{"normal", 3, nf3,
               "016576234227300566064734610543334414504563371112465451764076557376527526171504530612412237325772"
               "627664051721557213526243136206774044000512762344746633466043552204472115235721364202227460262540"},
        Golden{"normal", 4, nf4,
               "02dbfe47a55f700bee0daf79d20c9788981ab0abd67f2113aeb9b2fda0feccf8edc4fb6d1f2c09c60d3592446e73bff3"
               "e4edd90c2f43cbf418b4e39616e50dff8089010b34fd488af9de67aed0a7bb36088f433c37bf527d860354f9e15e4ca0"},
        Golden{"floating", 3, fp3,
               "015465234226300455054634510543334314504553361111464441654065556365526435161504530512412236325662"
               "526554051621546203525143136205663034000412652334645533465043441203362115235621353201226460252540"},
        Golden{"floating", 4, fp4,
               "02cbed47a55e700bdd0dae79d20c9788981ab0abc67e2113adb9b1eca0edcce8dcc3eb6d1e2c09c60c3592446e73bee3"
               "d3dcc90c1e33cbe318b3d39616d50dee8089010b23ec488ae9dd67adc0a7bb35088e323b37be527d850353e9d15d3ca0"}}) {
    backend::Context context(backend::Device::cpu, 1);
    SoloTeam team;
    const test::Layer layer = test::formula_layer(context, 6, 32, 0.01, false);
    QuantParameters p;
    p.method = "afpq";
    p.get<UniformParameters>().bits = golden.bits;
    p.get<UniformParameters>().group_size = 16;
    p.get<AfpqParameters>().levels = golden.table;
    const std::vector<float> quantized =
        test::decoded(afpq_method().quantize(context, team, layer.input(), p).encoding);
    const std::vector<std::uint32_t> places = digits(golden.places);
    int between = 0;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const double level = golden.levels[places[i]];
      double most = 0;
      for (std::size_t c = i / 16 * 16; c < i / 16 * 16 + 16; ++c) {
        const auto w = static_cast<double>(layer.weight[c]);
        most = std::max(most, level < 0 ? -w : w);
      }
      const auto value = static_cast<double>(quantized[i]), w = static_cast<double>(layer.weight[i]);
      // In the middle between two levels the rounding of the scale decides.
      if (std::abs(w - (value + level * most) / 2) < 1e-3 * most && std::abs(value - level * most) > 1e-3 * most) {
        ++between;
        continue;
      }
      ASSERT_NEAR(value, level * most, 1e-3 * most) << golden.table << golden.bits << " " << i;
    }
    EXPECT_LE(between, 1);
  }
}

}  // namespace
}  // namespace voronoi::quant
