#include "model/packed_text.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>

#include "core/error.h"
#include "support/packed.h"

namespace voronoi::model {
namespace {

using namespace std::string_literals;

const std::string kName = "texts/wiki.gz";

/// Compressible, and longer than the first piece that is unpacked.
std::string long_text() {
  std::string text;
  for (std::int64_t i = 0; text.size() < 3'000'000; ++i) text += "line " + std::to_string(i * 7919 % 100003) + "\n";
  return text;
}

std::string error_of(const std::string& packed) {
  try {
    unpack(packed, kName);
  } catch (const core::FormatError& error) {
    return error.what();
  }
  return "";
}

/// Both ways of packing.
class PackedText : public ::testing::TestWithParam<TextPacking> {
 protected:
  static std::string pack(std::string_view text) {
    return GetParam() == TextPacking::gzip ? test::gzip(text) : test::zstd(text);
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, PackedText, ::testing::Values(TextPacking::gzip, TextPacking::zstd),
                         [](const auto& way) { return way.param == TextPacking::gzip ? "gzip"s : "zstd"s; });

TEST_P(PackedText, ComesBackWhole) {
  for (const std::string& text : {""s, "a"s, "a\0b"s, long_text()}) {
    const std::string packed = pack(text);
    EXPECT_EQ(packing_of(packed), GetParam());
    EXPECT_EQ(unpack(packed, kName), text);
  }
}

TEST_P(PackedText, FollowsOneAnother) {
  EXPECT_EQ(unpack(pack("first ") + pack("") + pack("second"), kName), "first second");
}

TEST_P(PackedText, CutAnywhereIsToldAsCut) {
  const std::string packed = pack("a text of some words, some of them twice");
  for (std::size_t size = 4; size < packed.size(); ++size) {
    const std::string error = error_of(packed.substr(0, size));
    EXPECT_TRUE(error.starts_with(kName + ": byte ")) << size << ": " << error;
    EXPECT_NE(error.find("ends in the middle"), std::string::npos) << size << ": " << error;
  }
}

TEST_P(PackedText, AnyFlippedBitOfItsContentIsFound) {
  const std::string text = "a text of some words, some of them twice", packed = pack(text);
  for (std::size_t at = 0; at < packed.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = packed;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      if (packing_of(damaged) != GetParam()) continue;
      try {
        // What gzip's header says of file and system is under no checksum.
        EXPECT_EQ(unpack(damaged, kName), text) << at << " " << bit;
      } catch (const core::FormatError&) {
      }
    }
}

TEST_P(PackedText, OtherBytesBehindItAreRefused) {
  const std::string error = error_of(pack("text") + "more");
  EXPECT_TRUE(error.starts_with(kName + ": byte ")) << error;
  EXPECT_NE(error.find("does not unpack"), std::string::npos) << error;
}

TEST_P(PackedText, FilledMemoryIsRefusedNamingTheBound) {
  const std::string zeros(kAlwaysUnpackedBytes + (std::size_t{1} << 26), '\0');
  const std::string packed = pack(zeros);
  ASSERT_LT(kAlwaysUnpackedBytes + kMostUnpackedRatio * packed.size(), zeros.size());
  const std::string error = error_of(packed);
  EXPECT_NE(error.find("unpacks to more than " +
                       std::to_string(kAlwaysUnpackedBytes + kMostUnpackedRatio * packed.size()) + " bytes"),
            std::string::npos)
      << error;
  EXPECT_EQ(unpack(pack(zeros.substr(0, kAlwaysUnpackedBytes)), kName).size(), kAlwaysUnpackedBytes);
}

TEST(PackedTextFiles, ZerosBehindGzipArePadding) {
  EXPECT_EQ(unpack(test::gzip("text") + std::string(512, '\0'), kName), "text");
}

TEST(PackedTextFiles, FramesWithoutContentAreSkipped) {
  const std::string skipped = "\x53\x2A\x4D\x18\x02\x00\x00\x00hi"s;
  EXPECT_EQ(packing_of(skipped), TextPacking::zstd);
  EXPECT_EQ(unpack(skipped + test::zstd("text"), kName), "text");
}

TEST(PackedTextFiles, AreToldByTheirContent) {
  for (const std::string& text : {""s, "\x1F"s, "P"s, "PK\3\4"s, "{\"text\": 1}"s, "\x28\xB5\x2F"s})
    EXPECT_EQ(packing_of(text), TextPacking::none);
  EXPECT_EQ(packing_of_file("/nowhere"), TextPacking::none);
  EXPECT_THROW(unpack("text", kName), core::InternalError);
}

}  // namespace
}  // namespace voronoi::model
