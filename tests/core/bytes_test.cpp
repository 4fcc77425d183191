#include "core/bytes.h"

#include <gmock/gmock.h>

namespace voronoi::core {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Bytes, ValuesComeBackPieceByPiece) {
  const std::vector<std::uint16_t> small{1, 65535};
  const std::vector<double> large{-0.5, 3};
  std::vector<std::byte> bytes;
  append_bytes<std::uint16_t>(small, bytes);
  append_bytes<double>(large, bytes);
  append_bytes<double>({}, bytes);
  std::span<const std::byte> rest = bytes;
  std::vector<std::uint16_t> some{7};
  take_values(rest, 2, some);
  EXPECT_THAT(some, ElementsAre(7, 1, 65535));
  EXPECT_THAT(values_of<double>(rest), ElementsAre(-0.5, 3));
  EXPECT_THAT(values_of<double>({}), IsEmpty());
}

TEST(Bytes, FewerThanAnnouncedAndPartsOfAValueAreRefused) {
  const std::vector<std::byte> bytes(7);
  std::span<const std::byte> rest = bytes;
  std::vector<std::int32_t> values;
  EXPECT_THROW(take_values(rest, 2, values), InternalError);
  EXPECT_THROW(append_values(rest, values), InternalError);
  EXPECT_THAT(values, IsEmpty());
  EXPECT_EQ(rest.size(), 7U);
}

}  // namespace
}  // namespace voronoi::core
