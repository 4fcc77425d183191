#include <cstdlib>
#include <string>

#include "gpu/gpu_fixture.h"
#include "support/kernel_table.h"
#include "support/skip.h"

namespace voronoi {
namespace {

class CollectiveTest : public test::GpuTest {};

TEST(Module, OpensAndHasTheTransportItWasBuiltWith) {
  EXPECT_GE(kernels::cuda().device.count(), 0);
  const char* built = std::getenv("VORONOI_NCCL_FOUND");
  ASSERT_NE(built, nullptr);
  EXPECT_EQ(kernels::cuda().collective.available(), std::string(built) == "ON");
  EXPECT_FALSE(kernels::cpu().collective.available());
  EXPECT_THROW(kernels::cpu().collective.make_id(), core::InternalError);
}

TEST(Module, HasEveryEntry) { EXPECT_EQ(test::null_entries(kernels::cuda()), std::vector<std::size_t>{}); }

TEST_F(CollectiveTest, AGroupOfOneOpensAndCloses) {
  const kernels::CollectiveKernels& collective = kernels::cuda().collective;
  if (!collective.available()) VORONOI_SKIP_MISSING("no transport between devices in this module (NCCL)");
  void* group = collective.join(gpu().exec(), collective.make_id(), 0, 1);
  ASSERT_NE(group, nullptr);
  collective.leave(group);
}

}  // namespace
}  // namespace voronoi
