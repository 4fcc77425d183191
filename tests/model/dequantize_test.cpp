// Blocks of GGUF against the reference of the `gguf` Python package.
#include <gmock/gmock.h>

#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "core/hash.h"
#include "model/gguf.h"
#include "model/model_files.h"

namespace voronoi::model {
namespace {

/// What gguf 0.19 (gguf.quants.dequantize, numpy) makes of random_blocks(): SHA-256 of the bits of all values, NaNs as
/// 0x7FC00000, and of the tenth block the bits of values 0, n / 8 + 1, 2 (n / 8 + 1), 3 (n / 8 + 1).
struct Reference {
  GgmlType type;
  std::vector<std::size_t> halves;  ///< where a block holds a scale or minimum in 16 bits
  const char* sha256;
  std::array<std::uint32_t, 4> some;
};
const std::vector<Reference>& references() {
  static const std::vector<Reference> table{{GgmlType::q5_0,
                                             {0},
                                             "39d50827f2d4219fb93b1a5649d5b0f5bb2ff3920a12a98b6082d72f8397decb",
                                             {0xBDCCC000U, 0x3FB32800U, 0x3F665800U, 0x00000000U}},
                                            {GgmlType::q5_1,
                                             {0, 2},
                                             "ecc83f3e9ddc5ea7c123299d1af53c540656643061f130248bf2dd06ad59dce6",
                                             {0x3F8CC400U, 0x3EFFF000U, 0x00000000U, 0x3FFFF000U}},
                                            {GgmlType::q4_0,
                                             {0},
                                             "30aabf242812213e89880798b54cc043b05252468abd3f3d1685d50c8940ffa0",
                                             {0x00000000U, 0xBEFFF000U, 0xBF4CC000U, 0x3E999000U}},
                                            {GgmlType::q4_1,
                                             {0, 2},
                                             "bfd6d30c7f8cfafb0432609bdb96758cb22a297a50ce8d2deceb62136a825ab5",
                                             {0x3FBFF400U, 0x3FA65C00U, 0x3F8CC400U, 0x3FB32800U}},
                                            {GgmlType::q8_0,
                                             {0},
                                             "4e4279669214663deb3326b9a3a1e266df4011cc8639e84eddddb7e04f7f3659",
                                             {0x40E65800U, 0x40AFF500U, 0x3FD98C00U, 0x40999000U}},
                                            {GgmlType::q2_k,
                                             {80, 82},
                                             "5fd1d9eb2cf49f98b1b70ceefd138c5d81c4c7599454c4124c27fc4a39b1e3b6",
                                             {0x3FA65C00U, 0x00000000U, 0x3E4CC000U, 0x3F8CC400U}},
                                            {GgmlType::q3_k,
                                             {108},
                                             "f8cf558e7598424f8471be7311cc44ce3d542cf72a3a9acb91699af59b81903a",
                                             {0x40332800U, 0xC114C380U, 0xC0A32900U, 0xC0665800U}},
                                            {GgmlType::q4_k,
                                             {0, 2},
                                             "6b0faba356f7c13292528039fcbb8bf467c389085040230956f1ae5dc4b86b64",
                                             {0x413FF400U, 0x41DF2540U, 0x4157F280U, 0x41819180U}},
                                            {GgmlType::q5_k,
                                             {0, 2},
                                             "c2b336c4eff57cb9bb9a7b231ec065f388065360377aac7e042739b16503c86d",
                                             {0x419FF600U, 0x426FF100U, 0x41CA59C0U, 0x414FF300U}},
                                            {GgmlType::q6_k,
                                             {208},
                                             "674ccb400dc471e5c123605cb4d480bec4e275edb85bff44aa8327ea36c7a1c3",
                                             {0xC3703DC8U, 0x42412720U, 0xC10FF700U, 0x42119080U}},
                                            {GgmlType::iq4_nl,
                                             {0},
                                             "2b31b7da0dc866e60a131132fa24aafded8baddaf5e77580cb9e8f7aea4be155",
                                             {0x401FF600U, 0x3FA65C00U, 0x410E5D80U, 0xBF7FF000U}},
                                            {GgmlType::iq4_xs,
                                             {0},
                                             "7e1d17bf36bc8f55ad4fb0eb180b84200a4774781b277032b21af87c3af63daa",
                                             {0x41EF2440U, 0x4209F760U, 0xC3258F40U, 0xC3985CE0U}},
                                            {GgmlType::mxfp4,
                                             {},
                                             "ea0b04dec91dc6558f0a9f3a78348dce583c09ce42634453f086f70ba8c346b1",
                                             {0xF3400000U, 0xF2C00000U, 0x00000000U, 0x72C00000U}}};
  return table;
}

/// 24 blocks: all bits set, none, then those of a linear congruential generator; scales go through zeros of both signs,
/// infinities, NaN, the smallest and the largest halves.
std::string random_blocks(const Reference& reference) {
  constexpr std::array<std::uint16_t, 12> kHalves{0x3C00, 0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00,
                                                  0x0001, 0x83FF, 0x7BFF, 0x2E66, 0xB555, 0x1234};
  const auto size = static_cast<std::size_t>(ggml_block_bytes(reference.type));
  std::uint32_t state = static_cast<std::uint32_t>(reference.type) + 1;
  std::string bytes;
  for (std::size_t block = 0; block < 24; ++block) {
    for (std::size_t i = 0; i < size; ++i) {
      state = state * 1664525U + 1013904223U;
      bytes += static_cast<char>(block == 0 ? 255U : block == 1 ? 0U : state >> 24U);
    }
    for (std::size_t k = 0; k < reference.halves.size(); ++k)
      bytes.replace(block * size + reference.halves[k], 2, test::bytes_of(kHalves[(block + 5 * k) % kHalves.size()]));
  }
  return bytes;
}

TEST(DequantizeReference, EveryTypeGivesTheBitsOfTheReference) {
  for (const Reference& reference : references()) {
    const auto elements = static_cast<std::size_t>(ggml_block_elements(reference.type));
    const std::string bytes = random_blocks(reference);
    std::vector<float> values(24 * elements);
    dequantize(reference.type, std::as_bytes(std::span(bytes)), values);
    std::vector<std::uint32_t> bits;
    for (const float value : values)
      bits.push_back(std::isnan(value) ? 0x7FC00000U : std::bit_cast<std::uint32_t>(value));
    const std::string name = ggml_type_name(reference.type);
    for (std::size_t i = 0; i < reference.some.size(); ++i)
      EXPECT_EQ(bits[9 * elements + i * (elements / 8 + 1)], reference.some[i]) << name << ", value " << i;
    EXPECT_EQ(core::sha256(std::as_bytes(std::span(bits))), reference.sha256) << name;
  }
}

// Not in the package: files hold it only where somebody quantized activations.
TEST(DequantizeReference, Q8_KIsScaleTimesSignedByte) {
  std::string bytes;
  for (const float d : {0.3F, -2.0F}) {
    bytes += test::bytes_of(d);
    for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i - 128);
    bytes += std::string(32, 'x');
  }
  std::vector<float> values(512);
  dequantize(GgmlType::q8_k, std::as_bytes(std::span(bytes)), values);
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 0.3F * static_cast<float>(i - 128));
    EXPECT_EQ(values[static_cast<std::size_t>(256 + i)], -2.0F * static_cast<float>(i - 128));
  }
}

TEST(DequantizeReference, MessagesNameTheTypesThatAreRead) {
  EXPECT_EQ(readable_ggml_types(),
            "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, IQ4_NL, IQ4_XS, MXFP4");
}

}  // namespace
}  // namespace voronoi::model
