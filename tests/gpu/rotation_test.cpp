// Turns on the device against the host: the same bits, whatever divides the work into passes.
#include <gtest/gtest.h>

#include "format/hadamard.h"
#include "gpu/gpu_fixture.h"

namespace voronoi::test {
namespace {

class GpuRotation : public GpuTest {
 protected:
  void expect_equal(std::int64_t n, std::int64_t n_vectors) {
    SCOPED_TRACE(n);
    std::vector<std::uint32_t> signs;
    for (std::int64_t word = 0; word < format::sign_words(n); ++word)
      signs.push_back(static_cast<std::uint32_t>(static_cast<std::uint64_t>(word + 1) * 0x9E3779B97F4A7C15ULL));
    const format::HostRotation host(n, signs);
    kernels::Rotation there = host.view();
    const std::vector<std::uint32_t> factor = format::hadamard_factor(there.order);
    const backend::Array<std::uint32_t> gpu_factor = on_gpu(factor), gpu_signs = on_gpu(signs);
    there.factor = gpu_factor.data();
    there.signs = gpu_signs.data();
    const std::vector<float> x = normal_values(n * n_vectors, 5);
    for (const bool inverse : {false, true})
      for (const bool by_rows : {true, false}) {
        std::vector<float> expected = x;
        backend::Array<float> found = on_gpu(x);
        if (by_rows) {
          cpu().rotation().turn_rows(cpu().exec(), host.view(), inverse, n_vectors, expected.data());
          gpu().rotation().turn_rows(gpu().exec(), there, inverse, n_vectors, found.data());
        } else {
          cpu().rotation().turn_columns(cpu().exec(), host.view(), inverse, n_vectors, expected.data());
          gpu().rotation().turn_columns(gpu().exec(), there, inverse, n_vectors, found.data());
        }
        EXPECT_EQ(found.to_host(), expected) << (by_rows ? "rows" : "columns") << (inverse ? ", inverse" : "");
      }
  }
};

TEST_F(GpuRotation, GivesTheSameBits) {
  expect_equal(1, 3);
  expect_equal(8, 1);
  expect_equal(45, 7);         // signs alone
  expect_equal(20, 33);        // a factor alone
  expect_equal(576, 5);        // both
  expect_equal(256, 40);       // columns in two passes
  expect_equal(8192, 2);       // rows in two passes
  expect_equal(29568 / 8, 2);  // a factor of more values than a block's usual share
}

}  // namespace
}  // namespace voronoi::test
