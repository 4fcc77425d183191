#include "format/gptvq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "core/packing.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(Gptvq, DecodesToTheCentroidsOfItsGroups) {
  for (const test::GptvqShape& shape :
       {test::GptvqShape{7, 22, 2, 3, 3, 8, 16}, test::GptvqShape{7, 22, 1, 2, 3, 9, 8, 0, true},
        test::GptvqShape{10, 40, 4, 5, 4, 16, 8, 8, true, core::DType::bf16},
        test::GptvqShape{7, 22, 1, 3, 3, 9, 8, 4, true, core::DType::f16, 3},
        test::GptvqShape{9, 24, 1, 2, 2, 8, 16, 0, false, core::DType::bf16, 1}}) {
    const Encoding encoding = test::random_packed(shape);
    ASSERT_EQ(find_problem(encoding), "");
    const GptvqEncoding e = test::gptvq_of(encoding);
    const std::vector<float> weight = test::decoded(encoding);
    const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
    std::vector<std::uint32_t> codes(at(e.vectors())), blocks(at(e.blocks()));
    for (std::int64_t row = 0; row < shape.out_features; ++row) {
      const auto row_of = [&](const std::vector<std::uint32_t>& words, std::int64_t n, int bits) {
        return std::span(words).subspan(at(row * core::packed_words(n, bits)), at(core::packed_words(n, bits)));
      };
      core::unpack_row(row_of(e.indices, e.vectors(), shape.index_bits), shape.index_bits, codes);
      if (e.scale_block > 0) core::unpack_row(row_of(e.block_codes, e.blocks(), 4), 4, blocks);
      for (std::int64_t c = 0; c < shape.in_features; ++c) {
        const std::int64_t book = row / shape.group_rows * e.strips() + c / shape.group_columns;
        const std::int64_t place = (book * e.centroids + codes[at(c / shape.d)]) * shape.d + c % shape.d;
        const auto stored = [&](std::int64_t i) {
          if (shape.codebook_bits == 16) return static_cast<double>(core::from_bits16(shape.dtype, e.codebook[at(i)]));
          return static_cast<double>(core::from_bits16(shape.dtype, e.codebook_scale[at(book)])) / 127 *
                 static_cast<double>(static_cast<std::int8_t>(e.codebook8[at(i)]));
        };
        double value = shape.rank == 0 ? stored(place) : 0, rounding = 0;
        for (std::int64_t i = 0; i < shape.rank; ++i) {
          const double product =
              stored(book * shape.rank + i) *
              static_cast<double>(core::from_bits16(shape.dtype, e.codebook_basis[at(i * e.centroids + codes[at(c)])]));
          value += product;
          rounding += std::abs(product) * 1e-6;
        }
        if (shape.rank > 0) rounding += std::abs(value) * (shape.dtype == core::DType::f16 ? 0x1p-11 : 0x1p-8);
        if (e.scale_block > 0) {
          const std::int64_t block = c / e.scale_block;
          const double scale =
              static_cast<double>(core::from_bits16(shape.dtype, e.block_grid[at(2 * block)])) *
              std::pow(static_cast<double>(core::from_bits16(shape.dtype, e.block_grid[at(2 * block + 1)])),
                       blocks[at(block)]);
          value *= scale;
          rounding *= scale;
        }
        const std::int64_t column = e.perm.empty() ? c : e.perm[at(c)];
        ASSERT_NEAR(static_cast<double>(weight[at(row * shape.in_features + column)]), value,
                    2e-6 * std::abs(value) + rounding)
            << row << ", " << c;
      }
    }
  }
}

TEST(Gptvq, TheProductIsThatOfTheDecodedWeightAtAnyNumberOfThreads) {
  for (const test::GptvqShape& shape : {test::GptvqShape{37, 132, 4, 8, 20, 64, 8, 32, true},
                                        test::GptvqShape{37, 132, 1, 4, 20, 44, 8, 32, true, core::DType::f16, 5}}) {
    const Encoding encoding = test::random_packed(shape);
    const std::vector<float> weight = test::decoded(encoding);
    std::vector<float> x;
    for (int i = 0; i < 5 * 132; ++i) x.push_back(static_cast<float>((i * 37) % 101) / 101 - 0.5F);
    std::vector<float> first;
    for (const int threads : {1, 3}) {
      backend::Context context(backend::Device::cpu, threads);
      const std::unique_ptr<PackedMatrix> matrix = encoding.format->upload(context, encoding);
      // A basis is multiplied out in memory.
      if (shape.rank == 0) {
        EXPECT_EQ(8 * matrix->size_bytes(), stored_bits(encoding));
      }
      std::vector<float> out(std::size_t{5} * 37, 0.5F);
      matrix->multiply(context, 5, x.data(), true, out.data());
      if (first.empty()) first = out;
      EXPECT_EQ(out, first);
      for (std::size_t t = 0; t < 5; ++t)
        for (std::size_t row = 0; row < 37; ++row) {
          double sum = 0.5;
          for (std::size_t c = 0; c < 132; ++c)
            sum += static_cast<double>(weight[row * 132 + c]) * static_cast<double>(x[t * 132 + c]);
          ASSERT_NEAR(static_cast<double>(out[t * 37 + row]), sum, 1e-4) << t << ", " << row;
        }
      std::vector<std::uint16_t> narrow(weight.size());
      matrix->decode_16(context, narrow.data());
      for (std::size_t i = 0; i < weight.size(); ++i) ASSERT_EQ(narrow[i], core::to_bits16(encoding.dtype, weight[i]));
    }
  }
}

TEST(Gptvq, NoDecodedWeightIsAboveTheBound) {
  for (const std::int64_t scale_block : {0, 8})
    for (const std::int64_t codebook_bits : {8, 16, 17}) {
      const Encoding encoding = test::random_packed(
          codebook_bits == 17
              ? test::GptvqShape{8, 96, 1, 3, 4, 32, 8, scale_block, false, core::DType::f16, 2}
              : test::GptvqShape{8, 96, 2, 8, 4, 32, codebook_bits, scale_block, false, core::DType::f16});
      double largest = 0;
      for (const float value : test::decoded(encoding))
        largest = std::max(largest, std::fabs(static_cast<double>(value)));
      EXPECT_LE(largest, encoding.format->decoded_bound(encoding));
      EXPECT_GE(largest, 0.4 * encoding.format->decoded_bound(encoding));
    }
}

TEST(Gptvq, HostileExtentsAreNamed) {
  const auto problem = [](const std::function<void(GptvqExtents&)>& change) {
    GptvqExtents e;
    e.out_features = 8;
    e.in_features = 32;
    e.vector_columns = 4;
    e.centroids = 256;
    e.group_rows = 4;
    e.group_columns = 16;
    change(e);
    return find_extent_problem(e);
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  EXPECT_THAT(problem([](auto&) {}), IsEmpty());
  EXPECT_THAT(problem([](auto& e) { e.vector_columns = 0; }), HasSubstr("vector_columns is 0"));
  EXPECT_THAT(problem([](auto& e) { e.vector_columns = 3; }), HasSubstr("vector_columns is 3"));
  EXPECT_THAT(problem([](auto& e) { e.in_features = 30; }), HasSubstr("in_features is 30"));
  EXPECT_THAT(problem([](auto& e) { e.in_features = kHuge; }), HasSubstr("in_features"));
  EXPECT_THAT(problem([](auto& e) { e.out_features = -1; }), HasSubstr("out_features"));
  EXPECT_THAT(problem([](auto& e) { e.centroids = 255; }), HasSubstr("centroids is 255"));
  EXPECT_THAT(problem([](auto& e) { e.centroids = 1; }), HasSubstr("centroids is 1"));
  EXPECT_THAT(problem([](auto& e) { e.centroids = kHuge; }), HasSubstr("centroids"));
  EXPECT_THAT(problem([](auto& e) { e.group_rows = 0; }), HasSubstr("group_rows"));
  EXPECT_THAT(problem([](auto& e) { e.group_columns = kHuge; }), HasSubstr("group_columns"));
  EXPECT_THAT(problem([](auto& e) { e.group_columns = 18; }), HasSubstr("group_columns is 18"));
  EXPECT_THAT(problem([](auto& e) { e.codebook_bits = 4; }), HasSubstr("codebook_bits is 4"));
  EXPECT_THAT(problem([](auto& e) { e.scale_block = 6; }), HasSubstr("scale_block is 6"));
  EXPECT_THAT(problem([](auto& e) { e.scale_block = -4; }), HasSubstr("scale_block"));
  EXPECT_THAT(problem([](auto& e) {
                e.out_features = e.in_features = std::int64_t{1} << 28;
                e.group_rows = 1;
                e.group_columns = 4;
                e.centroids = 65536;
              }),
              HasSubstr("too many codebooks"));
}

TEST(Gptvq, HostileArraysAreNamed) {
  const Encoding sound = test::random_packed(test::GptvqShape{6, 32, 2, 4, 3, 16, 8, 16, true});
  const auto problem = [&](const std::function<void(GptvqEncoding&)>& change) {
    GptvqEncoding e = test::gptvq_of(sound);
    change(e);
    return find_problem(e.view());
  };
  EXPECT_THAT(problem([](auto&) {}), IsEmpty());
  EXPECT_THAT(problem([](auto& e) { e.indices.pop_back(); }), HasSubstr("indices"));
  EXPECT_THAT(problem([](auto& e) { e.codebook.push_back(0); }), HasSubstr("codebook"));
  EXPECT_THAT(problem([](auto& e) { e.codebook8.clear(); }), HasSubstr("codebook8"));
  EXPECT_THAT(problem([](auto& e) { e.codebook_scale[1] = 0x7C00; }), HasSubstr("codebook_scale[1] is not finite"));
  EXPECT_THAT(problem([](auto& e) { e.block_codes.pop_back(); }), HasSubstr("block_codes"));
  EXPECT_THAT(problem([](auto& e) { e.block_grid[0] = 0; }), HasSubstr("block_grid[0]"));
  EXPECT_THAT(problem([](auto& e) { e.block_grid[3] = 0xBC00; }), HasSubstr("block_grid[1]"));
  EXPECT_THAT(problem([](auto& e) { e.block_grid[1] = core::float_to_half(1000); }), HasSubstr("block_grid[0]"));
  EXPECT_THAT(problem([](auto& e) { e.perm[0] = e.perm[1]; }), HasSubstr("perm"));
}

TEST(Gptvq, NothingIsTunedBehindABasis) {
  backend::Context context(backend::Device::cpu, 1);
  const Encoding with = test::random_packed(test::GptvqShape{6, 32, 1, 3, 3, 16, 8, 0, true, core::DType::f16, 2}),
                 without = test::random_packed(test::GptvqShape{6, 32, 1, 3, 3, 16, 8});
  EXPECT_EQ(with.format->tuned(context, with), nullptr);
  EXPECT_NE(without.format->tuned(context, without), nullptr);
}

TEST(Gptvq, HostileBasesAreNamed) {
  const Encoding sound = test::random_packed(test::GptvqShape{6, 32, 1, 3, 3, 16, 8, 0, true, core::DType::f16, 2});
  const auto problem = [&](const std::function<void(GptvqEncoding&)>& change) {
    GptvqEncoding e = test::gptvq_of(sound);
    change(e);
    return find_problem(e.view());
  };
  EXPECT_THAT(problem([](auto&) {}), IsEmpty());
  EXPECT_THAT(problem([](auto& e) { e.codebook_basis.pop_back(); }), HasSubstr("codebook8 has"));
  EXPECT_THAT(problem([](auto& e) { e.codebook_basis.resize(7); }), HasSubstr("codebook8 has"));
  EXPECT_THAT(problem([](auto& e) { e.codebook_basis.push_back(0); }), HasSubstr("codebook_basis"));
  EXPECT_THAT(problem([](auto& e) { e.codebook_basis.resize(64); }), HasSubstr("codebook_basis"));
  EXPECT_THAT(problem([](auto& e) { e.codebook_basis[3] = 0x7C00; }), HasSubstr("codebook_basis[3] is not finite"));
  EXPECT_THAT(problem([](auto& e) { e.vector_columns = 2; }), HasSubstr("codebook_basis is for"));
  EXPECT_THAT(problem([](auto& e) { e.centroids = 512; }), HasSubstr("codebook_basis"));
  EXPECT_THAT(problem([](auto& e) {
                e.codebook_scale[1] = e.codebook_basis[9] = 0x7BFF;
                for (std::size_t i = 2; i < 4; ++i) e.codebook8[i] = 127;
              }),
              HasSubstr("codebook 1 has centroids"));
}

}  // namespace
}  // namespace voronoi::format
