#include "core/error.h"

#include <gmock/gmock.h>

#include <cerrno>

#include "core/file.h"

namespace voronoi::core {
namespace {

using testing::HasSubstr;
using testing::StrEq;

TEST(Error, CarriesTheDocumentedExitCode) {
  EXPECT_EQ(ConfigError("x").exit_code(), ExitCode::usage);
  EXPECT_EQ(FormatError("f", "x").exit_code(), ExitCode::data);
  EXPECT_EQ(NumericError("x").exit_code(), ExitCode::data);
  EXPECT_EQ(DeviceError("x").exit_code(), ExitCode::node);
  EXPECT_EQ(CommError("x").exit_code(), ExitCode::node);
  EXPECT_EQ(StoreError("x").exit_code(), ExitCode::system);
  EXPECT_EQ(NotCompiled("x").exit_code(), ExitCode::system);
  EXPECT_EQ(InternalError("x").exit_code(), ExitCode::system);
  EXPECT_EQ(StopRequested().exit_code(), ExitCode::stopped);
  EXPECT_EQ(static_cast<int>(ExitCode::usage), 2);
  EXPECT_EQ(static_cast<int>(ExitCode::data), 3);
  EXPECT_EQ(static_cast<int>(ExitCode::partial), 4);
  EXPECT_EQ(static_cast<int>(ExitCode::system), 5);
  EXPECT_EQ(static_cast<int>(ExitCode::node), 74);
  EXPECT_EQ(static_cast<int>(ExitCode::stopped), 75);
}

TEST(Error, AFailingDiskOrServerIsTheNodesFault) {
  for (const int error : {EIO, ESTALE, ESHUTDOWN})
    EXPECT_EQ(system_error("a/b.bin", "be read", error).exit_code(), ExitCode::node) << error;
  for (const int error : {ENOSPC, EACCES, ENOENT, EROFS})
    EXPECT_EQ(system_error("a/b.bin", "be read", error).exit_code(), ExitCode::system) << error;
}

TEST(Error, FormatErrorNamesFileAndByte) {
  EXPECT_THAT(FormatError("a/b.bin", "is short").what(), StrEq("a/b.bin: is short"));
  EXPECT_THAT(FormatError("a/b.bin", std::uint64_t{42}, "is short").what(), StrEq("a/b.bin: byte 42: is short"));
}

TEST(Error, FormatErrorIsOneShortPrintableLine) {
  EXPECT_THAT(FormatError("f", "key \"\x1B[2J\n\x7F\xFF\" \xC3\xA9").what(),
              StrEq("f: key \"\\x1b[2J\\x0a\\x7f\\xff\" \xC3\xA9"));
  const std::string message = FormatError("f", std::string(100'000, 'x')).what();
  EXPECT_LT(message.size(), 2100U);
  EXPECT_TRUE(message.ends_with("x..."));
}

TEST(Error, ConfigErrorListsEveryProblem) {
  const ConfigError error(std::vector<std::string>{"one", "two", "three"});
  EXPECT_THAT(error.what(), StrEq("one\ntwo\nthree"));
  EXPECT_THAT(ConfigError(std::vector<std::string>{}).what(), StrEq(""));
}

TEST(Error, ContextGrowsAsItClimbs) {
  try {
    try {
      try {
        throw NumericError("pivot 3 is negative");
      } catch (Error& error) {
        error.add_context("q_proj");
        throw;
      }
    } catch (Error& error) {
      error.add_context("block 7");
      throw;
    }
  } catch (const NumericError& error) {
    EXPECT_THAT(error.what(), StrEq("block 7: q_proj: pivot 3 is negative"));
    EXPECT_EQ(error.exit_code(), ExitCode::data);
  }
}

TEST(Error, RequireNamesPlaceConditionAndReason) {
  const int n = 3;
  EXPECT_NO_THROW(VORONOI_REQUIRE(n == 3, "unused"));
  try {
    VORONOI_REQUIRE(n == 4, "n counts fingers");
    FAIL();
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("error_test.cpp:"));
    EXPECT_THAT(error.what(), HasSubstr("n == 4 (n counts fingers)"));
  }
}

}  // namespace
}  // namespace voronoi::core
