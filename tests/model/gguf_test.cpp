#include "model/gguf.h"

#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/model_files.h"

namespace voronoi::model {
namespace {

using core::DType;
using test::bytes_of;
using test::GgufWriter;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string half(float value) { return bytes_of(core::float_to_half(value)); }

std::vector<float> dequantized(GgmlType type, const std::string& bytes, std::size_t n) {
  std::vector<float> out(n);
  dequantize(type, std::as_bytes(std::span(bytes)), out);
  return out;
}

/// One metadata entry of every type.
class GgufMetadata : public testing::Test {
 protected:
  GgufMetadata() {
    GgufWriter writer;
    writer.text("text", "h\xC3\xA9llo")
        .u32("u32", 7)
        .f32("f32", 0.5F)
        .entry("u8", 0, "\xC8")
        .entry("i8", 1, "\xC8")
        .entry("u16", 2, bytes_of(std::uint16_t{65535}));
    writer.entry("i16", 3, bytes_of(std::int16_t{-5}))
        .entry("i32", 5, bytes_of(std::int32_t{-6}))
        .entry("yes", 7, "\x01")
        .entry("no", 7, std::string(1, '\0'));
    writer.entry("u64", 10, bytes_of(~std::uint64_t{0}))
        .entry("i64", 11, bytes_of(std::int64_t{-8}))
        .entry("f64", 12, bytes_of(0.1));
    const auto array = [&](const std::string& key, std::uint32_t type, std::uint64_t n, const std::string& bytes) {
      writer.entry(key, 9, bytes_of(type) + bytes_of(n) + bytes);
    };
    array("strings", 8, 2, GgufWriter::string_bytes("a") + GgufWriter::string_bytes(""));
    array("floats", 6, 2, bytes_of(1.5F) + bytes_of(-2.0F));
    array("doubles", 12, 1, bytes_of(0.25));
    array("ints", 5, 2, bytes_of(std::int32_t{-1}) + bytes_of(std::int32_t{3}));
    array("bytes", 0, 2, "\xFF\x01");
    array("flags", 7, 2, std::string("\0\1", 2));
    array("empty", 6, 0, "");
    file_ = std::make_unique<GgufFile>(folder_.write("m.gguf", writer.bytes()));
  }
  std::string refusal(const std::function<void(const GgufFile&)>& use) {
    try {
      use(*file_);
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "accepted";
  }
  test::TemporaryFolder folder_;
  std::unique_ptr<GgufFile> file_;
};

TEST_F(GgufMetadata, HoldsEveryTypeOfValue) {
  const GgufFile& file = *file_;
  EXPECT_EQ(file.at("text").as_string(), "h\xC3\xA9llo");
  EXPECT_EQ(file.at("u8").as_u64(), 200U);
  EXPECT_EQ(file.at("i8").as_i64(), -56);
  EXPECT_EQ(file.at("u16").as_i64(), 65535);
  EXPECT_EQ(file.at("i16").as_i64(), -5);
  EXPECT_EQ(file.at("u32").as_u64(), 7U);
  EXPECT_EQ(file.at("i32").as_i64(), -6);
  EXPECT_EQ(file.at("u64").as_u64(), ~std::uint64_t{0});
  EXPECT_EQ(file.at("i64").as_i64(), -8);
  EXPECT_EQ(file.at("f32").as_f64(), 0.5);
  EXPECT_EQ(file.at("f64").as_f64(), 0.1);
  EXPECT_TRUE(file.at("yes").as_bool());
  EXPECT_FALSE(file.at("no").as_bool());
  EXPECT_THAT(file.at("strings").as_strings(), ElementsAre("a", ""));
  EXPECT_THAT(file.at("floats").as_floats(), ElementsAre(1.5F, -2.0F));
  EXPECT_THAT(file.at("doubles").as_floats(), ElementsAre(0.25F));
  EXPECT_THAT(file.at("ints").as_ints(), ElementsAre(-1, 3));
  EXPECT_THAT(file.at("bytes").as_ints(), ElementsAre(255, 1));
  EXPECT_THAT(file.at("flags").as_ints(), ElementsAre(0, 1));
  EXPECT_TRUE(file.at("empty").as_floats().empty());
  EXPECT_TRUE(file.at("empty").is_array());
  EXPECT_FALSE(file.at("text").is_array());
  EXPECT_EQ(file.find("none"), nullptr);
  EXPECT_TRUE(file.tensors().empty());
}

TEST_F(GgufMetadata, RefusesAnotherTypeNamingFileKeyAndBoth) {
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("text").as_u64(); }),
              AllOf(HasSubstr("m.gguf"), HasSubstr("\"text\""), HasSubstr("is a string"), HasSubstr("integer")));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("u32").as_f64(); }), HasSubstr("a float is wanted"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("i32").as_u64(); }), HasSubstr("at least 0"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("u64").as_i64(); }), HasSubstr("below 2^63"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("u8").as_bool(); }), HasSubstr("a boolean is wanted"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("u8").as_string(); }), HasSubstr("a string is wanted"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("ints").as_floats(); }), HasSubstr("an array of floats is wanted"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("floats").as_ints(); }),
              HasSubstr("an array of integers is wanted"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("floats").as_strings(); }),
              HasSubstr("an array of strings is wanted"));
  EXPECT_THAT(refusal([](const GgufFile& f) { f.at("none"); }),
              AllOf(HasSubstr("m.gguf"), HasSubstr("\"none\" is missing")));
}

TEST(Gguf, ListsTensorsOfTypesItCannotDequantize) {
  const test::TemporaryFolder folder;
  const GgufFile file(folder.write(
      "m.gguf",
      GgufWriter().tensor("a", 16, {2, 256}, std::string(132, 'x')).tensor("b", 0, {3}, std::string(12, 'y')).bytes()));
  const GgufTensor* a = file.find_tensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(ggml_type_name(a->type), "IQ2_XXS");
  EXPECT_FALSE(can_dequantize(a->type));
  EXPECT_EQ(a->shape, (core::Shape{2, 256}));
  EXPECT_EQ(a->bytes.size(), 132U);
  EXPECT_EQ(file.find_tensor("b")->bytes.size(), 12U);
  EXPECT_EQ(std::to_integer<char>(file.find_tensor("b")->bytes[0]), 'y');
}

TEST(Gguf, RefusesDataThatOverlapOrLeaveTheFile) {
  const test::TemporaryFolder folder;
  // The second tensor's offset is 32: eight bytes after its name, number of dimensions, dimension and type.
  const std::string good =
      GgufWriter().tensor("aaaa", 0, {8}, std::string(32, 'x')).tensor("bbbb", 0, {8}, std::string(32, 'y')).bytes();
  const auto with_offset = [&](std::uint64_t offset) -> std::string {
    std::string bytes = good;
    bytes.replace(bytes.find("bbbb") + 4 + 4 + 8 + 4, 8, bytes_of(offset));
    try {
      GgufFile(folder.write("m.gguf", bytes));
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(with_offset(32), "accepted");
  EXPECT_THAT(with_offset(0), AllOf(HasSubstr("m.gguf"), HasSubstr("overlap")));
  EXPECT_THAT(with_offset(33), HasSubstr("alignment"));
  for (const std::uint64_t offset : {std::uint64_t{64}, std::uint64_t{1} << 62, ~std::uint64_t{31}})
    EXPECT_THAT(with_offset(offset), AllOf(HasSubstr("tensor \"bbbb\""), HasSubstr("truncated"))) << offset;
}

TEST(Gguf, ReadsVersionTwo) {
  const test::TemporaryFolder folder;
  std::string bytes = GgufWriter().u32("k", 3).bytes();
  bytes[4] = 2;
  EXPECT_EQ(GgufFile(folder.write("m.gguf", bytes)).at("k").as_u64(), 3U);
}

TEST(Dequantize, WidensTheFloatTypes) {
  const std::vector<float> values{1.5F, -0.25F, 65504.0F, 0x1p-24F, 0.0F};
  EXPECT_EQ(dequantized(GgmlType::f32, test::encode(DType::f32, values), 5), values);
  EXPECT_EQ(dequantized(GgmlType::f16, test::encode(DType::f16, values), 5), values);
  const std::vector<float> short_values{1.5F, -0.25F, 65536.0F, 0x1p-24F};
  EXPECT_EQ(dequantized(GgmlType::bf16, test::encode(DType::bf16, short_values), 4), short_values);
}

// Two blocks each, so that a wrong block size shows; the second has other scales.
TEST(Dequantize, ReadsQ4_0AsScaleTimesNibbleLessEight) {
  std::string bytes;
  for (const float d : {0.5F, -3.0F}) {
    bytes += half(d);
    for (int i = 0; i < 16; ++i) bytes += static_cast<char>(i | ((15 - i) << 4));
  }
  const std::vector<float> out = dequantized(GgmlType::q4_0, bytes, 64);
  for (std::size_t i = 0; i < 16; ++i) {
    const auto q = static_cast<float>(i);
    EXPECT_EQ(out[i], 0.5F * (q - 8));
    EXPECT_EQ(out[16 + i], 0.5F * (7 - q));
    EXPECT_EQ(out[32 + i], -3.0F * (q - 8));
    EXPECT_EQ(out[48 + i], -3.0F * (7 - q));
  }
}

TEST(Dequantize, ReadsQ4_1AsScaleTimesNibblePlusMinimum) {
  std::string bytes;
  for (const float d : {0.125F, 2.0F}) {
    bytes += half(d) + half(-d * 7);
    for (int i = 0; i < 16; ++i) bytes += static_cast<char>(i | ((15 - i) << 4));
  }
  const std::vector<float> out = dequantized(GgmlType::q4_1, bytes, 64);
  for (std::size_t i = 0; i < 16; ++i) {
    const auto q = static_cast<float>(i);
    EXPECT_EQ(out[i], 0.125F * q - 0.875F);
    EXPECT_EQ(out[16 + i], 0.125F * (15 - q) - 0.875F);
    EXPECT_EQ(out[32 + i], 2 * q - 14);
    EXPECT_EQ(out[48 + i], 2 * (15 - q) - 14);
  }
}

TEST(Dequantize, ReadsQ8_0AsScaleTimesSignedByte) {
  std::string bytes;
  for (const float d : {0.25F, -1.0F}) {
    bytes += half(d);
    for (int i = 0; i < 32; ++i) bytes += static_cast<char>(i * 8 - 128);
  }
  const std::vector<float> out = dequantized(GgmlType::q8_0, bytes, 64);
  for (std::size_t i = 0; i < 32; ++i) {
    const float q = static_cast<float>(i) * 8 - 128;
    EXPECT_EQ(out[i], 0.25F * q);
    EXPECT_EQ(out[32 + i], -q);
  }
}

/// Packs 256 six-bit numbers the way ggml's quantize_row_q6_K_ref does: for each half of 128 and each l < 32, the
/// numbers l, l + 32, l + 64, l + 96 give nibbles to bytes l and l + 32 and bit pairs to byte l.
std::string pack_q6_k(const std::vector<int>& q, const std::vector<int>& scales, float d) {
  std::string low(128, '\0'), high(64, '\0'), scale_bytes;
  for (std::size_t half_index = 0; half_index < 2; ++half_index)
    for (std::size_t l = 0; l < 32; ++l) {
      const auto at = [&](std::size_t g) { return q[128 * half_index + 32 * g + l]; };
      low[64 * half_index + l] = static_cast<char>((at(0) & 15) | ((at(2) & 15) << 4));
      low[64 * half_index + 32 + l] = static_cast<char>((at(1) & 15) | ((at(3) & 15) << 4));
      high[32 * half_index + l] =
          static_cast<char>((at(0) >> 4) | ((at(1) >> 4) << 2) | ((at(2) >> 4) << 4) | ((at(3) >> 4) << 6));
    }
  for (const int scale : scales) scale_bytes += static_cast<char>(scale);
  return low + high + scale_bytes + half(d);
}

TEST(Dequantize, ReadsQ6_KAsScalesTimesSixBitsLess32) {
  std::vector<int> q(256), scales(16);
  for (std::size_t i = 0; i < 256; ++i) q[i] = static_cast<int>((i * 37 + i / 64) % 64);
  for (std::size_t i = 0; i < 16; ++i) scales[i] = static_cast<int>(i * 15) - 128;
  const std::vector<float> out =
      dequantized(GgmlType::q6_k, pack_q6_k(q, scales, 0.5F) + pack_q6_k(q, scales, -0.25F), 512);
  for (std::size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(out[i], 0.5F * static_cast<float>(scales[i / 16] * (q[i] - 32))) << i;
    EXPECT_EQ(out[256 + i], -0.25F * static_cast<float>(scales[i / 16] * (q[i] - 32))) << i;
  }
}

TEST(Dequantize, WantsExactlyTheBytesOfTheElements) {
  std::vector<float> out(32);
  const std::string bytes(35, '\0');
  EXPECT_THROW(dequantize(GgmlType::q8_0, std::as_bytes(std::span(bytes)), out), core::InternalError);
  EXPECT_THROW(dequantize(GgmlType::q8_0, std::as_bytes(std::span(bytes)).first(34), std::span(out).first(31)),
               core::InternalError);
}

}  // namespace
}  // namespace voronoi::model
