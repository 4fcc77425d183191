// The layout of AQLM: what is written, read back, and what a hostile checkpoint says.
#include "export/aqlm_layout.h"

#include <gmock/gmock.h>

#include <functional>

#include "core/error.h"
#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "format/aqlm.h"
#include "quant/aqlm/aqlm_method.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::exporting {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

/// A small model with random additive codes in the place of its linears, in groups that divide all widths.
class Additive {
 public:
  explicit Additive(std::int64_t codebooks = 2, std::int64_t code_bits = 5) : small(std::vector<test::LayerKind>(1)) {
    for (auto& [name, encoding] : small.encodings)
      encoding = test::random_packed(
          test::AqlmShape{encoding.out_features, encoding.in_features, codebooks, code_bits, 4, encoding.dtype});
    small.request.layout = &aqlm_layout();
    small.request.origin.layout = "aqlm";
    small.request.origin.method = "aqlm";
  }
  test::SmallExport small;
};

constexpr const char* kAdditiveLinear = "model.layers.0.self_attn.q_proj";

TEST(AqlmLayout, WhatIsWrittenComesBackBitForBit) {
  for (const std::int64_t bits : {5, 11}) {
    Additive model(2, bits);
    const auto out = model.small.write("out" + std::to_string(bits));
    const Checkpoint read(out.string());
    EXPECT_EQ(read.layout().name(), "aqlm");
    EXPECT_EQ(read.linears().size(), model.small.encodings.size());
    for (const auto& [name, encoding] : model.small.encodings) EXPECT_EQ(read.encoding(name), encoding) << name;
    EXPECT_EQ(read.nominal_bits(), 2 * static_cast<double>(bits) / 4);
    double stored = 0, weights = 0;
    for (const auto& [name, encoding] : model.small.encodings) {
      stored += static_cast<double>(stored_bits(encoding));
      weights += static_cast<double>(encoding.out_features * encoding.in_features);
    }
    EXPECT_DOUBLE_EQ(read.true_bits(), stored / weights);
  }
}

TEST(AqlmLayout, TensorsAndConfigAreThoseOfTheClient) {
  Additive model;
  const auto out = model.small.write();
  const core::Json config = core::read_json_file((out / "config.json").string()).at("quantization_config");
  EXPECT_EQ(config, (core::Json{{"quant_method", "aqlm"},
                                {"in_group_size", 4},
                                {"out_group_size", 1},
                                {"num_codebooks", 2},
                                {"nbits_per_codebook", 5},
                                {"linear_weights_not_to_quantize", {"lm_head.weight"}}}));
  const auto set = test::TensorSet::read(out / "model.safetensors");
  const std::string linear = kAdditiveLinear;
  const format::AqlmEncoding e = test::aqlm_of(model.small.encodings.at(linear));
  const auto& codes = set.tensors.at(linear + ".codes");
  EXPECT_EQ(codes.dtype, "I8");
  EXPECT_EQ(codes.shape, (core::Shape{e.out_features, e.groups(), 2}));
  for (std::size_t i = 0; i < e.codes8.size(); ++i) {
    const auto value = static_cast<int>(static_cast<signed char>(codes.bytes[i]));
    ASSERT_EQ(((value % 32) + 32) % 32, e.codes8[i] & 31) << i;  // as the client takes them
    ASSERT_TRUE(value >= -16 && value < 16) << i;
  }
  EXPECT_EQ(set.tensors.at(linear + ".codebooks").dtype, "F16");
  EXPECT_EQ(set.tensors.at(linear + ".codebooks").shape, (core::Shape{2, 32, 1, 4}));
  EXPECT_EQ(set.tensors.at(linear + ".scales").shape, (core::Shape{e.out_features, 1, 1, 1}));
  EXPECT_FALSE(set.tensors.contains(linear + ".weight"));
}

TEST(AqlmLayout, AWeightThatIsNotToBeQuantizedIsReadAsItIs) {
  Additive model;
  const auto out = model.small.write();
  auto set = test::TensorSet::read(out / "model.safetensors");
  core::Json config = core::read_json_file((out / "config.json").string());
  const std::string linear = kAdditiveLinear;
  const core::Shape shape{model.small.encodings.at(linear).out_features, model.small.encodings.at(linear).in_features};
  for (const char* suffix : {".codes", ".codebooks", ".scales"}) set.tensors.erase(linear + suffix);
  set.tensors[linear + ".weight"] = {"F16", shape,
                                     std::string(static_cast<std::size_t>(2 * shape[0] * shape[1]), '\0')};
  config["quantization_config"]["linear_weights_not_to_quantize"].push_back(linear + ".weight");
  set.write(out / "model.safetensors");
  test::write_bytes(out / "config.json", config.dump());
  EXPECT_EQ(Checkpoint(out.string()).linears().size(), model.small.encodings.size() - 1);
}

TEST(AqlmLayout, WhatItCannotHoldIsSaid) {
  quant::QuantParameters p;
  p.method = "aqlm";
  EXPECT_EQ(layout_of(Target{}, p)->name(), "aqlm");
  EXPECT_THAT(check_exportable(p, {}, Target{}), IsEmpty());
  EXPECT_THAT(check_exportable(p, {}, Target{"vptq"}), Contains(HasSubstr("--method aqlm")));
  EXPECT_THAT(check_exportable(p, {}, Target{"gptq"}), Contains(HasSubstr("--method aqlm")));
  quant::QuantParameters other = p;
  EXPECT_THAT(check_together(p, other, false, Target{}), IsEmpty());
  EXPECT_THAT(check_together(p, other, true, Target{}), Contains(HasSubstr("--allocate")));
  other.get<quant::AqlmParameters>().codebooks = 3;
  EXPECT_THAT(check_together(p, other, false, Target{}), Contains(HasSubstr("one setting for all")));
  other.method = "gptq";
  EXPECT_THAT(check_exportable(other, {}, Target{"aqlm"}), Contains(HasSubstr("--method gptq")));
  EXPECT_THAT(check_together(other, p, true, Target{}), IsEmpty());

  Additive model;
  auto& encoding = model.small.encodings.begin()->second;
  encoding = test::random_packed(test::AqlmShape{encoding.out_features, encoding.in_features, 3, 5, 4});
  try {
    model.small.write();
    FAIL();
  } catch (const core::ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("one setting for all"));
  }
}

TEST(AqlmLayout, EachLieOfACheckpointIsNamed) {
  const auto said = [](const std::function<void(test::TensorSet&, core::Json&)>& change) -> std::string {
    Additive model;
    const auto out = model.small.write();
    auto tensors = test::TensorSet::read(out / "model.safetensors");
    core::Json config = core::read_json_file((out / "config.json").string());
    change(tensors, config["quantization_config"]);
    tensors.write(out / "model.safetensors");
    test::write_bytes(out / "config.json", config.dump());
    try {
      const Checkpoint read(out.string());
      for (const std::string& linear : read.linears()) read.encoding(linear);
      return "";
    } catch (const core::Error& error) {
      return error.what();
    }
  };
  const std::string linear = kAdditiveLinear;
  EXPECT_EQ(said([](auto&, auto&) {}), "");
  for (const char* suffix : {".codes", ".codebooks", ".scales"}) {
    EXPECT_THAT(said([&](auto& set, auto&) { set.tensors.erase(linear + suffix); }), HasSubstr("is missing")) << suffix;
    EXPECT_THAT(said([&](auto& set, auto&) {
                  std::swap(set.tensors.at(linear + suffix).shape.front(),
                            set.tensors.at(linear + suffix).shape.back());
                }),
                HasSubstr("has shape"))
        << suffix;
  }
  EXPECT_THAT(said([&](auto& set, auto&) { set.tensors.at(linear + ".codes").dtype = "U8"; }), HasSubstr("as U8"));
  EXPECT_THAT(said([&](auto& set, auto&) { set.tensors.at(linear + ".scales").dtype = "BF16"; }), HasSubstr("as BF16"));
  for (const char* suffix : {".codebooks", ".scales"})
    EXPECT_THAT(said([&](auto& set, auto&) {
                  set.tensors.at(linear + suffix).bytes.replace(2, 2, std::string("\x00\x7c", 2));
                }),
                HasSubstr("is not finite"));
  const auto with = [&](const char* key, const core::Json& value) {
    return said([&](auto&, core::Json& quantization) { quantization[key] = value; });
  };
  for (const char* key : {"num_codebooks", "nbits_per_codebook", "in_group_size"})
    for (const core::Json& value :
         {core::Json(0), core::Json(-1), core::Json("2"), core::Json(1.5), core::Json(std::uint64_t{1} << 63)})
      EXPECT_THAT(with(key, value), HasSubstr(key)) << value;
  EXPECT_THAT(with("out_group_size", 2), HasSubstr("out_group_size"));
  EXPECT_THAT(with("in_group_size", 16), HasSubstr("in_group"));
  EXPECT_THAT(with("num_codebooks", 3), HasSubstr("has shape"));
  EXPECT_THAT(with("nbits_per_codebook", 12), HasSubstr("wanted"));
  EXPECT_THAT(with("linear_weights_not_to_quantize", "lm_head"), HasSubstr("is not a list"));
}

}  // namespace
}  // namespace voronoi::exporting
