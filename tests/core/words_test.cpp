#include "core/words.h"

#include <gmock/gmock.h>

namespace voronoi::core {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Words, StandBetweenCommas) {
  EXPECT_THAT(words_of_list("rtn,gptq"), ElementsAre("rtn", "gptq"));
  EXPECT_THAT(words_of_list("rtn"), ElementsAre("rtn"));
  EXPECT_THAT(words_of_list(""), IsEmpty());
}

TEST(Words, EmptyOnesAreKept) {
  EXPECT_THAT(words_of_list("a,,b"), ElementsAre("a", "", "b"));
  EXPECT_THAT(words_of_list("a,"), ElementsAre("a", ""));
  EXPECT_THAT(words_of_list(","), ElementsAre("", ""));
}

}  // namespace
}  // namespace voronoi::core
