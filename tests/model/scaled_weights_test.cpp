#include "model/scaled_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/model_files.h"
#include "model/safetensors_folder.h"
#include "model/weights.h"

namespace voronoi::model {
namespace {

using core::Json;
using test::FileTensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = ScaledWeights::Kind;

std::vector<std::byte> bytes_from(const std::vector<int>& values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(ScaledWeights, EightBitsAreThoseOfTheFiniteKind) {
  const std::vector<float> scales{1, 2};
  std::vector<float> out(9);
  decode_f8_row(bytes_from({0x00, 0x01, 0x07, 0x08, 0x38, 0x7e, 0xb8, 0x39, 0x7f}), scales.data(), 6, out.data());
  EXPECT_EQ(out[0], 0.0F);
  EXPECT_EQ(out[1], 0x1p-9F);
  EXPECT_EQ(out[2], 0x7p-9F);
  EXPECT_EQ(out[3], 0x1p-6F);
  EXPECT_EQ(out[4], 1.0F);
  EXPECT_EQ(out[5], 448.0F);
  EXPECT_EQ(out[6], -2.0F) << "the second block's scale";
  EXPECT_EQ(out[7], 2.25F);
  EXPECT_TRUE(std::isnan(out[8]));
}

TEST(ScaledWeights, FourBitsComeLowHalfFirst) {
  std::vector<int> blocks(32, 0);
  blocks[0] = 0x21;
  blocks[1] = 0xf7;
  blocks[31] = 0xc0;
  std::vector<float> out(64);
  decode_mxfp4_row(bytes_from(blocks), bytes_from({127, 129}), out.data());
  EXPECT_THAT(std::vector<float>(out.begin(), out.begin() + 5), ElementsAre(0.5F, 1, 6, -6, 0));
  EXPECT_EQ(out[63], -8.0F);
}

TEST(ScaledWeights, TheConfigSaysWhichKind) {
  const auto kind = [](const Json& quantization) {
    return scaled_weights(Json{{"quantization_config", quantization}}).kind;
  };
  EXPECT_EQ(scaled_weights(Json::object()).kind, Kind::none);
  EXPECT_EQ(kind({{"quant_method", "mxfp4"}}), Kind::mxfp4);
  EXPECT_EQ(kind({{"quant_method", "gptq"}}), Kind::none);
  EXPECT_EQ(kind({{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}}), Kind::none);
  EXPECT_EQ(kind({{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}}), Kind::fp8_rows);
  EXPECT_EQ(kind({{"quant_method", "fp8"}}), Kind::none);
  EXPECT_EQ(kind({{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}), Kind::none);
  EXPECT_EQ(kind({{"quant_method", "fp8"}, {"weight_block_size", {128, "x"}}}), Kind::none);
  EXPECT_EQ(kind({{"quant_method", "fp8"}, {"weight_block_size", {128, 64}}}), Kind::fp8_blocks);
}

class ScaledFiles : public ::testing::Test {
 protected:
  /// "w.weight" [3, 4], ones but for element (1, 1), times its scales, in values_; or the refusal.
  std::string read(const FileTensor& scales, const ScaledWeights& scaled, int odd_code = 0x38) {
    std::string codes(12, '\x38');
    codes[5] = static_cast<char>(odd_code);
    folder_.write("model.safetensors", test::safetensors_bytes({{"w.weight", "F8_E4M3", {3, 4}, codes}, scales}));
    SafetensorsFolder files(folder_.path());
    files.set_scaled(scaled);
    values_.assign(12, 0);
    try {
      if (!files.float_shape("w.weight")) return "absent";
      files.read({"w.weight", {3, 4}}, values_);
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "";
  }
  static FileTensor scales(const std::string& name, const core::Shape& shape, const std::vector<float>& values) {
    return {name, "F32", shape, test::encode(core::DType::f32, values)};
  }

  test::TemporaryFolder folder_;
  std::vector<float> values_;
};

TEST_F(ScaledFiles, ScalesAreOfBlocksOrRows) {
  const ScaledWeights blocks{Kind::fp8_blocks, 2, 3}, rows{Kind::fp8_rows, 0, 0};
  EXPECT_EQ(read(scales("w.weight_scale_inv", {2, 2}, {1, 2, 3, 4}), blocks), "");
  EXPECT_THAT(values_, ElementsAre(1, 1, 1, 2, 1, 1, 1, 2, 3, 3, 3, 4));
  EXPECT_EQ(read(scales("w.weight_scale", {3, 1}, {1, 2, 3}), rows), "");
  EXPECT_THAT(values_, ElementsAre(1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
}

TEST_F(ScaledFiles, WithoutFittingScalesTheyAreRefused) {
  const ScaledWeights blocks{Kind::fp8_blocks, 2, 3};
  EXPECT_THAT(read(scales("w.weight_scale_inv", {2, 1}, {1, 2}), blocks), HasSubstr("F8_E4M3"));
  EXPECT_THAT(read(scales("other", {2, 2}, {1, 2, 3, 4}), blocks), HasSubstr("F8_E4M3"));
  EXPECT_THAT(read(scales("w.weight_scale_inv", {2, 2}, {1, 2, 3, 4}), {}), HasSubstr("F8_E4M3"));
  EXPECT_THAT(read(scales("w.weight_scale_inv", {2, 2}, {1, 2, 3, 4}), blocks, 0x7f),
              testing::AllOf(HasSubstr("w.weight"), HasSubstr("[1, 1]")));
  EXPECT_THAT(read(scales("w.weight_scale_inv", {2, 2}, {1, NAN, 3, 4}), blocks), HasSubstr("w.weight"));
}

}  // namespace
}  // namespace voronoi::model
