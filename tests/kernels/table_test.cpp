#include <gmock/gmock.h>

#include "support/kernel_table.h"

namespace voronoi::kernels {
namespace {

TEST(Table, NoEntryOfTheCpuIsMissing) {
  EXPECT_THAT(test::null_entries(cpu()), testing::IsEmpty());
  Kernels lacking = cpu();
  lacking.delta_rule.sigmoid_gate_gradient = nullptr;
  lacking.device.count = nullptr;
  EXPECT_THAT(test::null_entries(lacking), testing::ElementsAre(0, sizeof lacking / sizeof(void*) - 1));
}

}  // namespace
}  // namespace voronoi::kernels
