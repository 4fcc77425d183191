// Layouts of integers: what is written, read back, and the words themselves.
#include "export/layout.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "export/int_layer.h"
#include "format/uniform.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/uniform_method.h"
#include "support/typed_encoding.h"

namespace voronoi::exporting {
namespace {

using test::decoded;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

struct Kind {
  std::string layout;
  int bits = 4;
  std::int64_t group_size = 32;  ///< 0: whole rows
  bool ordered = false;
};

/// Sizes that every layout takes.
core::Json config() {
  core::Json json = test::small_config();
  json["hidden_size"] = 64;
  json["intermediate_size"] = 96;
  json["num_attention_heads"] = 4;
  json["num_key_value_heads"] = 2;
  json.erase("head_dim");
  return json;
}

format::Encoding random_integers(std::int64_t out, std::int64_t in, const Kind& kind, std::uint64_t stream,
                                 std::uint64_t least_zero = 0) {
  test::Draw draw(stream);
  format::UniformEncoding e;
  e.out_features = out;
  e.in_features = in;
  e.bits = kind.bits;
  e.group_size = kind.group_size > 0 ? kind.group_size : in;
  const std::uint64_t levels = std::uint64_t{1} << kind.bits;
  const std::int64_t n_groups = core::ceil_div(in, e.group_size);
  std::vector<std::uint8_t> codes, zeros;
  for (std::int64_t i = 0; i < out * in; ++i) codes.push_back(static_cast<std::uint8_t>(draw.below(levels)));
  for (std::int64_t i = 0; i < out * n_groups; ++i)
    zeros.push_back(static_cast<std::uint8_t>(least_zero + draw.below(levels - least_zero)));
  e.codes = pack_rows(codes, out, in, kind.bits);
  e.zeros = pack_rows(zeros, out, n_groups, kind.bits);
  e.scale = draw.numbers(out * n_groups, core::DType::f16, 0.1);
  if (kind.ordered) {
    e.perm.resize(static_cast<std::size_t>(in));
    std::iota(e.perm.begin(), e.perm.end(), std::uint16_t{0});
    for (std::size_t i = e.perm.size() - 1; i > 0; --i) std::swap(e.perm[i], e.perm[draw.below(i + 1)]);
  }
  return format::to_encoding(e);
}

/// A small model with random integers in the place of its linears.
class Integers {
 public:
  explicit Integers(const Kind& kind, std::uint64_t least_zero = 0) : small({{}}, config()) {
    std::uint64_t stream = 100;
    for (auto& [name, encoding] : small.encodings)
      encoding = random_integers(encoding.out_features, encoding.in_features, kind, ++stream, least_zero);
    small.request.layout = find_layout(kind.layout);
    small.request.origin.layout = kind.layout;
    small.request.origin.method = "rtn";
  }
  test::SmallExport small;
};

class IntLayouts : public testing::TestWithParam<Kind> {};

TEST_P(IntLayouts, WhatIsWrittenComesBackBitForBit) {
  Integers model(GetParam());
  const auto out = model.small.write();
  const Checkpoint read(out.string());
  EXPECT_EQ(read.layout().name(), GetParam().layout);
  EXPECT_EQ(read.linears().size(), model.small.encodings.size());
  for (const auto& [name, encoding] : model.small.encodings)
    EXPECT_EQ(decoded(read.encoding(name)), decoded(encoding)) << name;
  EXPECT_EQ(read.nominal_bits(), GetParam().bits);
  EXPECT_GE(read.true_bits(), GetParam().bits);
  const auto manifest = read_manifest(out);
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->layout, GetParam().layout);
}

INSTANTIATE_TEST_SUITE_P(All, IntLayouts,
                         testing::Values(Kind{"compressed-tensors", 2}, Kind{"compressed-tensors", 4, 16},
                                         Kind{"compressed-tensors", 8, 0}, Kind{"compressed-tensors", 4, 32, true},
                                         Kind{"gptq", 2}, Kind{"gptq", 3, 16}, Kind{"gptq", 3, 40, true},
                                         Kind{"gptq", 4, 0}, Kind{"gptq", 8, 32, true}, Kind{"awq", 4},
                                         Kind{"awq", 4, 0}),
                         [](const auto& test) {
                           const Kind& kind = test.param;
                           std::string name = kind.layout + std::to_string(kind.bits) + "Groups" +
                                              std::to_string(kind.group_size) + (kind.ordered ? "Ordered" : "");
                           std::erase(name, '-');
                           return name;
                         });

/// A linear of 8 outputs (or 32) and few inputs, as the layout stores it.
std::vector<std::uint32_t> words_of(const std::string& layout, const format::UniformEncoding& fields,
                                    const std::string& suffix) {
  const format::Encoding encoding = format::to_encoding(fields);
  const auto writer = find_layout(layout)->writer(Profile::safe);
  model::LinearSpec linear;
  linear.name = "a";
  linear.out_features = fields.out_features;
  linear.in_features = fields.in_features;
  EXPECT_THAT(writer->add(linear, encoding), IsEmpty());
  for (const LayerTensor& tensor : writer->tensors("a", encoding))
    if (tensor.name == "a" + suffix) {
      std::vector<std::uint32_t> words(tensor.bytes.size() / 4);
      std::memcpy(words.data(), tensor.bytes.data(), tensor.bytes.size());
      return words;
    }
  ADD_FAILURE() << "no " << suffix;
  return {};
}

/// codes[row][column] = code(row, column), zeros `zero`, scales 1.
format::UniformEncoding fields_of(std::int64_t out, std::int64_t in, int bits,
                                  const std::function<int(std::int64_t, std::int64_t)>& code, int zero) {
  format::UniformEncoding e;
  e.out_features = out;
  e.in_features = in;
  e.bits = bits;
  e.group_size = in;
  std::vector<std::uint8_t> codes;
  for (std::int64_t row = 0; row < out; ++row)
    for (std::int64_t column = 0; column < in; ++column) codes.push_back(static_cast<std::uint8_t>(code(row, column)));
  e.codes = pack_rows(codes, out, in, bits);
  e.zeros = pack_rows(std::vector<std::uint8_t>(static_cast<std::size_t>(out), static_cast<std::uint8_t>(zero)), out, 1,
                      bits);
  e.scale.assign(static_cast<std::size_t>(out), core::to_bits16(core::DType::f16, 1));
  return e;
}

TEST(AwqWords, EightRowsAWordInTheirOrder) {
  const auto e = fields_of(
      8, 2, 4, [](std::int64_t row, std::int64_t column) { return column == 0 ? row : 15 - row; }, 9);
  // Rows 0 2 4 6 1 3 5 7 from the lowest four bits up.
  EXPECT_THAT(words_of("awq", e, ".qweight"), testing::ElementsAre(0x75316420U, 0x8ACE9BDFU));
  EXPECT_THAT(words_of("awq", e, ".qzeros"), testing::ElementsAre(0x99999999U));
}

TEST(GptqWords, ThreeBitsRunOverTheWordsDownAColumn) {
  const auto e = fields_of(
      32, 32, 3, [](std::int64_t row, std::int64_t column) { return (row + column) % 8; }, 5);
  const auto words = words_of("gptq", e, ".qweight");
  ASSERT_EQ(words.size(), 96U);
  // Row 0: 0 1 .. 7 0 1 ..: 24 bits 0xFAC688 again and again.
  EXPECT_EQ(words[0], 0x88FAC688U);
  EXPECT_EQ(words[32], 0xC688FAC6U);
  EXPECT_EQ(words[64], 0xFAC688FAU);
  // Row 1 begins with 1 2 3: 001 010 011 from the lowest bit up.
  EXPECT_EQ(words[1] & 0x1FFU, 1U + (2U << 3) + (3U << 6));
  // Zeros less one: 4 = 100, 32 of them in three words.
  EXPECT_THAT(words_of("gptq", e, ".qzeros"), testing::ElementsAre(0x24924924U, 0x49249249U, 0x92492492U));
}

TEST(GptqWords, AZeroOfNothingIsStoredAsItIs) {
  Integers model({"gptq", 4}, 0);
  const core::Json with = core::read_json_file((model.small.write() / "config.json").string());
  EXPECT_EQ(with.at("quantization_config").at("checkpoint_format"), "gptq_v2");
  Integers above({"gptq", 4}, 1);
  const core::Json without = core::read_json_file((above.small.write() / "config.json").string());
  EXPECT_EQ(without.at("quantization_config").at("checkpoint_format"), "gptq");
  EXPECT_EQ(without.at("quantization_config").at("group_size"), 32);
}

TEST(CompressedTensorsWords, ZerosArePackedDownTheRows) {
  auto e = fields_of(
      16, 32, 4, [](std::int64_t, std::int64_t column) { return static_cast<int>(column % 16); }, 0);
  std::vector<std::uint8_t> zeros(16);
  std::iota(zeros.begin(), zeros.end(), std::uint8_t{0});
  e.zeros = pack_rows(zeros, 16, 1, 4);
  EXPECT_THAT(words_of("compressed-tensors", e, ".weight_zero_point"), testing::ElementsAre(0x76543210U, 0xFEDCBA98U));
  const auto codes = words_of("compressed-tensors", e, ".weight_packed");
  ASSERT_EQ(codes.size(), 64U);
  EXPECT_EQ(codes[0], 0x76543210U);
  EXPECT_EQ(codes[5], 0xFEDCBA98U);
}

TEST(CompressedTensors, ConfigNamesTheLinearsWhereSettingsDiffer) {
  Integers model({"compressed-tensors", 4});
  const core::Json one = core::read_json_file((model.small.write("one") / "config.json").string());
  const core::Json& groups = one.at("quantization_config").at("config_groups");
  ASSERT_EQ(groups.size(), 1U);
  EXPECT_EQ(groups.at("group_0").at("targets"), core::Json::array({"Linear"}));
  EXPECT_EQ(groups.at("group_0").at("weights").at("group_size"), 32);
  EXPECT_EQ(one.at("quantization_config").at("ignore"), core::Json::array({"lm_head"}));

  auto& [name, encoding] = *model.small.encodings.begin();
  encoding = random_integers(encoding.out_features, encoding.in_features, {"", 8, 16}, 3);
  const auto out = model.small.write("two");
  const core::Json two = core::read_json_file((out / "config.json").string());
  EXPECT_EQ(two.at("quantization_config").at("config_groups").size(), 2U);
  const Checkpoint read(out.string());
  EXPECT_EQ(decoded(read.encoding(name)), decoded(encoding));
}

TEST(IntLayoutChecks, WhatALayoutCannotHoldIsSaid) {
  quant::QuantParameters p;
  p.method = "rtn";
  auto& uniform = p.get<quant::UniformParameters>();
  const std::vector<LayerShape> shapes{{64, 96}};
  const auto problems = [&](const std::string& layout) { return check_exportable(p, shapes, Target{layout}); };
  uniform = {4, 32};
  for (const char* layout : {"auto", "compressed-tensors", "gptq", "awq"}) EXPECT_THAT(problems(layout), IsEmpty());
  EXPECT_THAT(problems("vptq"), Contains(HasSubstr("--method rtn")));
  uniform = {3, 32};
  EXPECT_THAT(problems("auto"), IsEmpty());
  EXPECT_EQ(layout_of(Target{}, p)->name(), "gptq");
  EXPECT_THAT(problems("compressed-tensors"), Contains(HasSubstr("3 bits")));
  EXPECT_THAT(problems("awq"), Contains(HasSubstr("3 bits")));
  uniform = {5, 32};
  EXPECT_THAT(problems("auto"), Contains(HasSubstr("5 bits")));
  EXPECT_THAT(problems("gptq"), Contains(HasSubstr("5 bits")));
  uniform = {4, 36};
  EXPECT_THAT(problems("compressed-tensors"), Contains(HasSubstr("--group-size 36")));
  EXPECT_THAT(problems("awq"), Contains(HasSubstr("whole groups")));
  // Scales of columns go into what comes before: those that could not are refused.
  p.method = "awq";
  uniform = {4, 32};
  for (const char* layout : {"auto", "compressed-tensors", "gptq", "awq"}) EXPECT_THAT(problems(layout), IsEmpty());
  p.get<quant::AwqParameters>().column_scales = "all";
  for (const char* layout : {"auto", "compressed-tensors", "gptq", "awq"})
    EXPECT_THAT(problems(layout), Contains(HasSubstr("--column-scales all")));
  p.get<quant::AwqParameters>().column_scales = "none";
  EXPECT_THAT(problems("awq"), IsEmpty());
  p.method = "afpq";
  EXPECT_THAT(problems("awq"), Contains(HasSubstr("--method afpq")));
  p.method = "voronoi";
  EXPECT_EQ(layout_of(Target{}, p)->name(), "vptq");
  EXPECT_THAT(problems("gptq"), Contains(HasSubstr("--method voronoi")));
}

TEST(IntLayoutChecks, WhatIsPlannedIsWhatIsPacked) {
  model::LinearSpec linear;
  linear.name = "a";
  linear.out_features = 64;
  linear.in_features = 96;
  for (const bool ordered : {false, true})
    for (const Layout* layout : layouts()) {
      const format::Encoding encoding = random_integers(64, 96, {"", 4, 32, ordered}, 9);
      if (!layout->holds(encoding) || (ordered && layout->name() == "awq")) continue;
      const auto writer = layout->writer(Profile::safe);
      ASSERT_THAT(writer->add(linear, encoding), IsEmpty());
      const std::vector<TensorPlan> plan = writer->plan("a", encoding);
      const std::vector<LayerTensor> tensors = writer->tensors("a", encoding);
      ASSERT_EQ(plan.size(), tensors.size());
      for (std::size_t i = 0; i < plan.size(); ++i) {
        EXPECT_EQ(plan[i].name, tensors[i].name);
        EXPECT_EQ(plan[i].dtype, tensors[i].dtype);
        EXPECT_EQ(plan[i].shape, tensors[i].shape);
        EXPECT_EQ(plan[i].size_bytes, std::ssize(tensors[i].bytes)) << layout->name() << " " << plan[i].name;
      }
    }
}

TEST(IntLayoutChecks, GptqHasOneSettingForAll) {
  Integers model({"gptq", 4});
  auto& encoding = model.small.encodings.begin()->second;
  encoding = random_integers(encoding.out_features, encoding.in_features, {"", 8}, 3);
  try {
    model.small.write();
    FAIL();
  } catch (const core::ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("one setting for all"));
  }
}

class HostileIntegers : public testing::TestWithParam<std::string> {
 protected:
  /// What reading everything of the changed checkpoint says; empty: it is taken.
  std::string said(const std::function<void(test::TensorSet&, core::Json&)>& change) {
    Integers model({GetParam(), 4}, 1);
    const auto out = model.small.write();
    auto tensors = test::TensorSet::read(out / "model.safetensors");
    core::Json config = core::read_json_file((out / "config.json").string());
    change(tensors, config);
    tensors.write(out / "model.safetensors");
    test::write_bytes(out / "config.json", config.dump());
    try {
      const Checkpoint read(out.string());
      for (const std::string& linear : read.linears()) read.encoding(linear);
      return "";
    } catch (const core::Error& error) {
      return error.what();
    }
  }
  static constexpr const char* kLinear = "model.layers.0.self_attn.q_proj";
  static test::TensorSet::Tensor& scales(test::TensorSet& set) {
    const auto found = set.tensors.find(std::string(kLinear) + ".scales");
    return found != set.tensors.end() ? found->second : set.tensors.at(std::string(kLinear) + ".weight_scale");
  }
};

TEST_P(HostileIntegers, EachLieIsNamed) {
  EXPECT_EQ(said([](auto&, auto&) {}), "");
  EXPECT_THAT(said([](auto& set, auto&) { scales(set).bytes.replace(0, 2, std::string("\x00\x7c", 2)); }),
              HasSubstr("is not finite"));
  EXPECT_THAT(said([](auto& set, auto&) { std::swap(scales(set).shape[0], scales(set).shape[1]); }),
              HasSubstr("has shape"));
  EXPECT_THAT(said([](auto& set, auto&) {
                set.tensors.erase(std::string(kLinear) + ".weight_packed"),
                    set.tensors.erase(std::string(kLinear) + ".qweight");
              }),
              HasSubstr("is missing"));
  EXPECT_THAT(said([](auto& set, auto&) { scales(set).dtype = "I16"; }), HasSubstr("is stored as I16"));
}

TEST_P(HostileIntegers, SettingsAreChecked) {
  const bool grouped = GetParam() != "compressed-tensors";
  const auto with = [&](const char* key, const core::Json& value) {
    return said([&](auto&, core::Json& config) {
      core::Json& quantization = config["quantization_config"];
      (grouped ? quantization : quantization["config_groups"]["group_0"]["weights"])[key] = value;
    });
  };
  const char* bits = grouped ? "bits" : "num_bits";
  for (const core::Json& value : {core::Json(0), core::Json(17), core::Json("4"), core::Json(1.5), core::Json()})
    EXPECT_THAT(with(bits, value), HasSubstr(bits)) << value;
  for (const core::Json& value : {core::Json(0), core::Json(-7), core::Json(std::uint64_t{1} << 63)})
    EXPECT_THAT(with("group_size", value), HasSubstr("group_size")) << value;
  EXPECT_NE(with(bits, 2), "");
  EXPECT_NE(with("group_size", 16), "");
  if (!grouped) {
    EXPECT_THAT(with("type", "float"), HasSubstr("only int"));
    EXPECT_THAT(with("strategy", "tensor"), HasSubstr("group and channel"));
  }
}

INSTANTIATE_TEST_SUITE_P(All, HostileIntegers, testing::Values("compressed-tensors", "gptq", "awq"),
                         [](const auto& test) {
                           return test.param == "awq" || test.param == "gptq" ? test.param : "ct";
                         });

TEST(HostileGptq, GroupsOfColumnsAreChecked) {
  IntLayer layer;
  layer.out_features = 1;
  layer.in_features = 4;
  layer.bits = 2;
  layer.group_size = 2;
  layer.codes = {0, 1, 2, 3};
  layer.zeros = {1, 2};
  layer.scale = {0x3c00, 0x3c00};
  layer.group_of = {1, 0, 0, 1};
  EXPECT_EQ(uniform_encoding(layer, "x").perm, (std::vector<std::uint16_t>{1, 2, 0, 3}));
  layer.group_of = {0, 0, 1, 2};
  EXPECT_THROW(uniform_encoding(layer, "x"), core::FormatError);
  layer.group_of = {0, 0, 0, 1};
  EXPECT_THROW(uniform_encoding(layer, "x"), core::FormatError);
  layer.group_of = {0, 0, 1, -1};
  EXPECT_THROW(uniform_encoding(layer, "x"), core::FormatError);
}

}  // namespace
}  // namespace voronoi::exporting
