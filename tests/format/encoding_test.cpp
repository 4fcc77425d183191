#include "format/encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/packing.h"
#include "core/random.h"
#include "format/uniform.h"
#include "format/vptq.h"
#include "support/data.h"
#include "support/safetensors_lite.h"

namespace voronoi::format {
namespace {

using core::DType;
using test::SafetensorsLite;
using testing::HasSubstr;

std::uint16_t half(float value) { return core::float_to_half(value); }

/// v 2, k 4, kr 2, two groups, one outlier column, 3 rows (a tail), perm: everything at once, small enough to decode by
/// hand.
VqEncoding vq_fields() {
  VqEncoding e;
  e.out_features = 3;
  e.in_features = 5;
  e.vector_length = 2;
  e.centroids = 4;
  e.residual_centroids = 2;
  e.groups = 2;
  e.outlier_size = 1;
  e.outlier_vector_length = 3;
  e.outlier_centroids = 2;
  for (int i = 0; i < 16; ++i) e.codebook.push_back(half(static_cast<float>(i)));  // group 1 starts at 8
  for (const float value : {0.25F, 0.5F, -0.25F, -0.5F, 0.125F, 0.0F, 0.0F, 0.125F})
    e.residual_codebook.push_back(half(value));
  for (const float value : {1.0F, 2.0F, 3.0F, 100.0F, 200.0F, 300.0F}) e.outlier_codebook.push_back(half(value));
  e.outlier_indices = {1};
  // main | residual << 2, two columns a group, 3 bits each: [group][vector row].
  e.indices = {0U | (5U << 3), 7U | (2U << 3), 3U | (4U << 3), 1U | (6U << 3)};
  for (const float value : {1.0F, 2.0F, 4.0F, 0.5F, 1.0F}) e.scale.push_back(half(value));
  for (const float value : {0.0F, 1.0F, 0.0F, -1.0F, 0.0F}) e.bias.push_back(half(value));
  e.perm = {2, 0, 4, 1, 3};
  return e;
}

UniformEncoding uniform_fields() {
  UniformEncoding e;
  e.out_features = 2;
  e.in_features = 5;
  e.bits = 3;
  e.group_size = 2;
  e.codes = {0U | 1U << 3 | 2U << 6 | 3U << 9 | 4U << 12, 7U | 6U << 3 | 5U << 6 | 4U << 9 | 3U << 12};
  for (const float value : {1.0F, 2.0F, 4.0F, 0.5F, 0.25F, 8.0F}) e.scale.push_back(half(value));
  e.zeros = {1U | 2U << 3 | 0U << 6, 7U | 4U << 3 | 2U << 6};
  e.perm = {4, 3, 2, 1, 0};
  return e;
}

Encoding small_vq() { return to_encoding(vq_fields()); }
Encoding small_uniform() { return to_encoding(uniform_fields()); }

std::vector<float> decoded(const Encoding& e) {
  std::vector<float> weight(static_cast<std::size_t>(e.out_features * e.in_features),
                            std::numeric_limits<float>::quiet_NaN());
  decode(e, weight);
  return weight;
}

TEST(Encoding, VectorLayerDecodesAsWorkedOutByHand) {
  // Stored columns: outlier -> natural 2; group 0 -> 0, 4; group 1 -> 1, 3. Codes (main, residual): group 0 rows 0-1:
  // (0,0) (1,1), row 2: (3,1) (2,0); group 1 rows 0-1: (3,0) (0,1), row 2: (1,0) (2,1).
  const std::vector<float> expected{0.25F, (14.125F * 2) + 1, 400,  (8.0F * 0.5F) - 1,   2 - 0.25F,  //
                                    1.5F,  (15.0F * 2) + 1,   800,  (9.125F * 0.5F) - 1, 3 - 0.5F,   //
                                    5.75F, (10.125F * 2) + 1, 1200, (12.0F * 0.5F) - 1,  4.25F};
  EXPECT_EQ(decoded(small_vq()), expected);
}

TEST(Encoding, UniformLayerDecodesAsWorkedOutByHand) {
  const std::vector<float> expected{16, 2, 0,     0,     -1,  //
                                    8,  0, 0.25F, -0.5F, 0};
  EXPECT_EQ(decoded(small_uniform()), expected);
}

TEST(Encoding, EveryFiniteHalfIsWidenedExactly) {
  // All 63488 finite halves as a codebook of vectors of one row.
  VqEncoding e;
  e.out_features = 1;
  e.in_features = 65536;
  e.vector_length = 1;
  e.centroids = 65536;
  e.codebook.resize(65536);
  e.scale.assign(65536, half(1));
  e.bias.assign(65536, half(-0.0F));
  std::vector<std::uint32_t> codes(65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    e.codebook[i] = static_cast<std::uint16_t>((i & 0x7C00U) == 0x7C00U ? 0 : i);
    codes[i] = i;
  }
  e.indices.resize(32768);
  core::pack_row(codes, 16, e.indices);
  const auto weight = decoded(to_encoding(e));
  for (std::size_t i = 0; i < 65536; ++i) ASSERT_EQ(weight[i], core::half_to_float(e.codebook[i])) << i;
}

TEST(Encoding, StoredBitsCountEveryArrayWithPadding) {
  // 4 words; 16 + 8 + 6 codebook values, 1 outlier index, 5 + 5 scale and bias, 5 perm, 16 bits each.
  EXPECT_EQ(stored_bits(small_vq()), 4 * 32 + (16 + 8 + 6 + 1 + 10 + 5) * 16);
  EXPECT_DOUBLE_EQ(nominal_bits(small_vq()), 1.5);
  EXPECT_EQ(stored_bits(small_uniform()), 4 * 32 + (6 + 5) * 16);
  EXPECT_DOUBLE_EQ(nominal_bits(small_uniform()), 3);
}

TEST(Encoding, ArraysAndAttributesGiveTheSameEncodingBack) {
  VqEncoding plain = vq_fields();
  plain.outlier_size = plain.outlier_vector_length = plain.outlier_centroids = 0;
  plain.outlier_codebook.clear();
  plain.outlier_indices.clear();
  plain.perm.clear();
  plain.groups = 1;
  plain.residual_centroids = 0;
  plain.residual_codebook.clear();
  plain.codebook.resize(8);
  plain.indices.resize(2);
  plain.dtype = DType::bf16;
  UniformEncoding ordered = uniform_fields();
  ordered.perm.clear();
  for (const Encoding& e : {small_vq(), to_encoding(plain), small_uniform(), to_encoding(ordered)}) {
    auto attributes = to_attributes(e);
    attributes["elapsed"] = "of someone else";
    EXPECT_TRUE(from_arrays(attributes, e.arrays, "shard") == e);
    std::vector<NamedArray> backwards(e.arrays.rbegin(), e.arrays.rend());
    EXPECT_TRUE(from_arrays(attributes, backwards, "shard") == e);
  }
}

struct Damage {
  std::string name;
  std::function<void(std::map<std::string, std::string>&, std::map<std::string, NamedArray>&)> apply;
  std::string message;
};

NamedArray resized(NamedArray array, core::Shape shape) {
  array.bytes.resize(static_cast<std::size_t>(*core::element_count(shape) * core::dtype_size(array.dtype)));
  array.shape = std::move(shape);
  return array;
}

void set16(NamedArray& array, std::size_t at, std::uint16_t value) {
  std::memcpy(array.bytes.data() + 2 * at, &value, 2);
}

const std::vector<Damage>& vq_damages() {
  static const std::vector<Damage> damages{
      {"kind", [](auto& a, auto&) { a["encoding"] = "plain"; }, "none of 'vq', 'uniform'"},
      {"attribute missing", [](auto& a, auto&) { a.erase("groups"); }, "'groups' of the quantized layer is missing"},
      {"attribute no number", [](auto& a, auto&) { a["groups"] = "2x"; }, "not a whole number"},
      {"attribute past 64 bits", [](auto& a, auto&) { a["out_features"] = "99999999999999999999"; },
       "not a whole number"},
      {"rows past all memory", [](auto& a, auto&) { a["out_features"] = "9223372036854775807"; }, "out_features"},
      {"rows negative", [](auto& a, auto&) { a["out_features"] = "-3"; }, "out_features"},
      {"rows more than indices", [](auto& a, auto&) { a["out_features"] = "5"; }, "indices has 4 elements where 6"},
      {"columns zero", [](auto& a, auto&) { a["in_features"] = "0"; }, "in_features"},
      {"vectors of no rows", [](auto& a, auto&) { a["vector_length"] = "0"; }, "vector_length"},
      {"vectors huge", [](auto& a, auto&) { a["vector_length"] = "4611686018427387904"; }, "vector_length"},
      {"k no power of two", [](auto& a, auto&) { a["centroids"] = "3"; }, "power of two"},
      {"k one", [](auto& a, auto&) { a["centroids"] = "1"; }, "power of two"},
      {"k of 17 bits", [](auto& a, auto&) { a["centroids"] = "131072"; }, "power of two"},
      {"kr above k", [](auto& a, auto&) { a["residual_centroids"] = "8"; }, "residual_centroids"},
      {"kr no power of two", [](auto& a, auto&) { a["residual_centroids"] = "3"; }, "residual_centroids"},
      {"groups zero", [](auto& a, auto&) { a["groups"] = "0"; }, "groups"},
      {"groups uneven", [](auto& a, auto&) { a["groups"] = "3"; }, "does not divide"},
      {"outliers all", [](auto& a, auto&) { a["outlier_size"] = "5"; }, "outlier_size"},
      {"outlier vector zero", [](auto& a, auto&) { a["outlier_vector_length"] = "0"; }, "outlier_vector_length"},
      {"outlier book too large", [](auto& a, auto&) { a["outlier_centroids"] = "65537"; }, "outlier_centroids"},
      {"dtype f32", [](auto& a, auto&) { a["dtype"] = "F32"; }, "array 'codebook' holds F16 where F32 is due"},
      {"dtype unknown", [](auto& a, auto&) { a["dtype"] = "F4"; }, "not F16 or BF16"},
      {"indices short",
       [](auto&, auto& m) {
         m["indices"] = resized(m["indices"], {2, 2, 0});
       },
       "indices has 0 elements"},
      {"indices missing", [](auto&, auto& m) { m.erase("indices"); }, "indices has 0 elements"},
      {"indices of another shape", [](auto&, auto& m) { m["indices"].shape = {4}; }, "[4] where [2, 2, 1] is due"},
      {"shape overflows",
       [](auto&, auto& m) {
         m["indices"].shape = {std::int64_t{1} << 62, 4, 4};
       },
       "indices"},
      {"shape negative",
       [](auto&, auto& m) {
         m["indices"].shape = {-2, -2, 1};
       },
       "indices"},
      {"bytes short", [](auto&, auto& m) { m["codebook"].bytes.pop_back(); }, "codebook"},
      {"indices of another type", [](auto&, auto& m) { m["indices"].dtype = DType::u16; },
       "holds U16 where U32 is due"},
      {"array unknown", [](auto&, auto& m) { m["extra"] = m["scale"], m["extra"].name = "extra"; },
       "'extra' is none of this"},
      {"codebook NaN", [](auto&, auto& m) { set16(m["codebook"], 3, 0x7E00); }, "codebook[3] is not finite"},
      {"residual infinite", [](auto&, auto& m) { set16(m["residual_codebook"], 2, 0xFC00); },
       "residual_codebook[2] is not finite"},
      {"outlier NaN", [](auto&, auto& m) { set16(m["outlier_codebook"], 5, 0x7C01); },
       "outlier_codebook[5] is not finite"},
      {"scale infinite", [](auto&, auto& m) { set16(m["scale"], 0, 0x7C00); }, "scale[0] is not finite"},
      {"bias NaN", [](auto&, auto& m) { set16(m["bias"], 4, 0xFFFF); }, "bias[4] is not finite"},
      {"outlier index past the book", [](auto&, auto& m) { set16(m["outlier_indices"], 0, 2); },
       "beyond the 2 outlier centroids"},
      {"perm out of range", [](auto&, auto& m) { set16(m["perm"], 1, 5); }, "perm is no permutation: entry 1 is 5"},
      {"perm repeats", [](auto&, auto& m) { set16(m["perm"], 4, 2); }, "perm is no permutation: entry 4 is 2"},
      {"perm short", [](auto&, auto& m) { m["perm"] = resized(m["perm"], {4}); }, "perm has 4 elements where 5"},
      {"book of no outliers without bounds",
       [](auto& a, auto&) { a["outlier_size"] = "0", a["outlier_vector_length"] = "-274877906945"; },
       "outlier_vector_length is -274877906945, not 0..4096"},
      {"scale missing", [](auto&, auto& m) { m.erase("scale"); }, "scale has 0 elements where 5"}};
  return damages;
}

const std::vector<Damage>& uniform_damages() {
  static const std::vector<Damage> damages{
      {"bits zero", [](auto& a, auto&) { a["bits"] = "0"; }, "bits"},
      {"bits 17", [](auto& a, auto&) { a["bits"] = "17"; }, "bits"},
      {"bits past an int", [](auto& a, auto&) { a["bits"] = "4294967299"; }, "bits is 4294967299"},
      {"group zero", [](auto& a, auto&) { a["group_size"] = "0"; }, "group_size"},
      {"group huge", [](auto& a, auto&) { a["group_size"] = "9223372036854775807"; }, "group_size"},
      {"group other", [](auto& a, auto&) { a["group_size"] = "5"; }, "scale has 6 elements where 2"},
      {"rows other", [](auto& a, auto&) { a["out_features"] = "4"; }, "codes has 2 elements where 4"},
      {"scale NaN", [](auto&, auto& m) { set16(m["scale"], 5, 0x7E00); }, "scale[5] is not finite"},
      {"zeros missing", [](auto&, auto& m) { m.erase("zeros"); }, "zeros has 0 elements"},
      {"perm repeats", [](auto&, auto& m) { set16(m["perm"], 0, 0); }, "perm is no permutation"}};
  return damages;
}

TEST(Encoding, DamagedArraysAreRefusedWithTheFileAndTheFault) {
  const std::vector<std::pair<Encoding, const std::vector<Damage>*>> cases{{small_vq(), &vq_damages()},
                                                                           {small_uniform(), &uniform_damages()}};
  for (const auto& [encoding, damages] : cases)
    for (const Damage& damage : *damages) {
      auto attributes = to_attributes(encoding);
      std::map<std::string, NamedArray> by_name;
      for (const NamedArray& array : encoding.arrays) by_name[array.name] = array;
      damage.apply(attributes, by_name);
      std::vector<NamedArray> arrays;
      for (const auto& [name, array] : by_name) arrays.push_back(array);
      try {
        from_arrays(attributes, arrays, "runs/a.h5");
        ADD_FAILURE() << damage.name << " was accepted";
      } catch (const core::FormatError& error) {
        EXPECT_THAT(error.what(), HasSubstr("runs/a.h5: ")) << damage.name;
        EXPECT_THAT(error.what(), HasSubstr(damage.message)) << damage.name;
      }
    }
}

TEST(Encoding, ATwiceGivenArrayIsRefused) {
  auto arrays = small_vq().arrays;
  arrays.push_back(arrays.front());
  EXPECT_THROW(from_arrays(to_attributes(small_vq()), arrays, "f"), core::FormatError);
}

TEST(Encoding, DecodingRefusesWhatWouldReadOutOfBounds) {
  VqEncoding e = vq_fields();
  e.codebook.pop_back();
  std::vector<float> weight(15);
  EXPECT_THROW(decode(to_encoding(e), weight), core::InternalError);
  weight.pop_back();
  EXPECT_THROW(decode(small_vq(), weight), core::InternalError);
  EXPECT_THROW(decode(Encoding{}, weight), core::InternalError);
}

/// A layer of a checkpoint in VPTQ's public format, by its configuration.
Encoding from_checkpoint(const std::vector<std::unique_ptr<SafetensorsLite>>& shards, const std::string& prefix,
                         const core::Json& config) {
  const auto integer = [](const core::Json& value) { return std::max<std::int64_t>(value.get<std::int64_t>(), 0); };
  const auto shard_of = [&](const std::string& name) {
    const auto found =
        std::find_if(shards.begin(), shards.end(), [&](const auto& shard) { return shard->has(prefix + name); });
    return found == shards.end() ? nullptr : found->get();
  };
  const auto bits = [&](const std::string& name) {
    const SafetensorsLite* shard = shard_of(name);
    return shard ? shard->bits<std::uint16_t>(prefix + name) : std::vector<std::uint16_t>{};
  };
  VqEncoding e;
  e.out_features = integer(config.at("out_features"));
  e.in_features = integer(config.at("in_features"));
  e.vector_length = integer(config.at("vector_lens")[1]);
  e.centroids = integer(config.at("num_centroids")[1]);
  e.residual_centroids = integer(config.at("num_res_centroids")[1]);
  e.groups = integer(config.at("group_num"));
  e.outlier_size = integer(config.at("outlier_size"));
  e.outlier_vector_length = integer(config.at("vector_lens")[0]);
  e.outlier_centroids = integer(config.at("num_centroids")[0]);
  e.dtype = *core::dtype_from_name(shard_of(".centroids.weight")->dtype(prefix + ".centroids.weight"));
  e.indices = shard_of(".indices")->bits<std::uint32_t>(prefix + ".indices");
  e.codebook = bits(".centroids.weight");
  e.residual_codebook = bits(".res_centroids.weight");
  e.outlier_codebook = bits(".outlier_centroids.weight");
  e.outlier_indices = bits(".outlier_indices");
  e.scale = bits(".weight_scale");
  e.bias = bits(".weight_bias");
  e.perm = bits(".perm");
  return to_encoding(e);
}

TEST(Encoding, LayersOfThePublicClientDecodeBitForBit) {
  VORONOI_NEEDS_DATA("models/stories260K-vptq/README.md");
  int folders = 0, layers = 0;
  for (const auto& folder : std::filesystem::directory_iterator(test::data_path("models/stories260K-vptq"))) {
    if (!folder.is_directory()) continue;
    ++folders;
    std::vector<std::unique_ptr<SafetensorsLite>> shards;
    for (const auto& file : std::filesystem::directory_iterator(folder))
      if (file.path().extension() == ".safetensors") shards.push_back(std::make_unique<SafetensorsLite>(file.path()));
    const core::Json config = core::read_json_file(folder.path() / "config.json").at("quantization_config");
    const core::Json golden = core::read_json_file(folder.path() / "golden.json").at("layers");
    for (const auto& [name, expected] : golden.items()) {
      const std::string last = name.substr(name.rfind('.') + 1);
      const bool own = config.at("config_for_layers").contains(name);
      const auto encoding = from_checkpoint(
          shards, name, own ? config.at("config_for_layers").at(name) : config.at("shared_layer_config").at(last));
      ASSERT_EQ(find_problem(encoding), "") << folder.path() << " " << name;
      const std::vector<float> weight = decoded(encoding);
      EXPECT_EQ(core::sha256(std::as_bytes(std::span(weight))), expected.at("sha256").get<std::string>())
          << folder.path() << " " << name;
      EXPECT_TRUE(from_arrays(to_attributes(encoding), encoding.arrays, "f") == encoding);
      ++layers;
    }
  }
  EXPECT_EQ(folders, 12);
  EXPECT_EQ(layers, 12 * 35);
}

}  // namespace
}  // namespace voronoi::format
