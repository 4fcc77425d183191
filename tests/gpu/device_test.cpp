#include <gmock/gmock.h>

#include <numeric>
#include <span>

#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class DeviceTest : public test::GpuTest {};

TEST_F(DeviceTest, FactsAreThoseOfAGpu) {
  const kernels::DeviceFacts facts = gpu().memory().facts(gpu().exec());
  EXPECT_FALSE(facts.name.empty());
  EXPECT_GE(facts.compute_capability, 80);
  EXPECT_GT(facts.free_bytes, 0);
  EXPECT_LE(facts.free_bytes, facts.total_bytes);
}

TEST_F(DeviceTest, BytesComeBackAsTheyWent) {
  for (const std::int64_t n : {1, 63, 64, 4097, 300001}) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(n));
    std::iota(values.begin(), values.end(), -7);
    backend::Array<std::int32_t> array = on_gpu(values);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(array.data()) % 256, 0U);
    EXPECT_EQ(array.to_host(), values);
    const backend::Array<std::int32_t> copy = array.clone();
    array.zero();
    EXPECT_EQ(copy.to_host(), values);
    EXPECT_EQ(array.to_host(), std::vector<std::int32_t>(static_cast<std::size_t>(n)));
  }
}

TEST_F(DeviceTest, UploadsAreThereAfterTheJoin) {
  // Larger than one pinned buffer; the host's copy changes as soon as the call returns.
  const std::int64_t n = (std::int64_t{35} << 20) / 4 + 3;
  std::vector<std::int32_t> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 5);
  backend::Array<std::int32_t> first(gpu(), n), second(gpu(), 10);
  const std::vector<std::int32_t> kept = values;
  gpu().memory().upload(gpu().exec(), values.data(), n * 4, first.data());
  std::fill(values.begin(), values.end(), 0);
  gpu().memory().upload(gpu().exec(), kept.data(), 40, second.data());
  gpu().memory().uploads_join(gpu().exec());
  EXPECT_EQ(first.to_host(), kept);
  EXPECT_EQ(second.to_host(), std::vector<std::int32_t>(kept.begin(), kept.begin() + 10));
}

TEST_F(DeviceTest, MemoryIsHandedOutAgain) {
  const std::int64_t most = gpu().memory().facts(gpu().exec()).free_bytes / 3 * 2;
  for (int i = 0; i < 3; ++i) {
    backend::Array<char> large(gpu(), most / (is_emulated() ? 8 : 1));
    large.zero();
  }
  gpu().memory().synchronize(gpu().exec());
}

TEST_F(DeviceTest, MemoryThatIsShortIsAnErrorThatSaysHowMuch) {
  const std::int64_t total = gpu().memory().facts(gpu().exec()).total_bytes;
  EXPECT_THAT([&] { const backend::Array<char> all(gpu(), 2 * total); },
              ThrowsMessage<core::DeviceError>(
                  HasSubstr("out of GPU memory: asked for " + std::to_string(2 * total >> 20) + " MiB")));
  const backend::Array<char> fits(gpu(), 1 << 20);  // and the context goes on
}

TEST_F(DeviceTest, AnOrdinalWithoutGpuIsAnError) {
  EXPECT_THROW(backend::Context(backend::Device::cuda, 1, 1000), core::DeviceError);
}

}  // namespace
}  // namespace voronoi
