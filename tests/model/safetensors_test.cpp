#include "model/safetensors.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "model/model_files.h"

namespace voronoi::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Safetensors : public testing::Test {
 protected:
  std::string refusal(const std::string& content) {
    try {
      const SafetensorsFile file(folder_.write("m.safetensors", content));
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "accepted";
  }
  test::TemporaryFolder folder_;
};

TEST_F(Safetensors, MapsTensorsWithTypeShapeAndBytes) {
  const std::string path = folder_.write(
      "m.safetensors",
      test::safetensors_bytes(
          {{"w", "BF16", {2, 3}, "abcdefghijkl"}, {"s", "F64", {}, "12345678"}, {"q", "F8_E4M3", {2}, "xy"}}));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.path(), path);
  ASSERT_EQ(file.tensors().size(), 3U);
  const SafetensorsTensor* w = file.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->dtype, core::DType::bf16);
  EXPECT_EQ(w->shape, (core::Shape{2, 3}));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(w->bytes.data()), w->bytes.size()), "abcdefghijkl");
  EXPECT_EQ(file.find("s")->bytes.size(), 8U);
  EXPECT_EQ(file.find("q")->dtype, std::nullopt);
  EXPECT_EQ(file.find("q")->dtype_name, "F8_E4M3");
  EXPECT_EQ(file.find("x"), nullptr);
  EXPECT_EQ(file.header_bytes().size() + 22, file.bytes().size());
}

TEST_F(Safetensors, KeepsNamesWholeWhateverTheyHold) {
  const std::string name("a\0x", 3);
  const SafetensorsFile file(folder_.write("m.safetensors", test::safetensors_bytes({{name, "U8", {1}, "1"}})));
  EXPECT_NE(file.find(name), nullptr);
  EXPECT_EQ(file.find("a"), nullptr);
}

TEST_F(Safetensors, RefusesTensorsThatDoNotTileTheData) {
  const auto header = [](int begin, int end) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[)" +
           std::to_string(end - begin) + R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) +
           "]}}";
  };
  EXPECT_EQ(refusal(test::safetensors_bytes(header(4, 8), "12345678")), "accepted");
  EXPECT_THAT(refusal(test::safetensors_bytes(header(5, 8), "12345678")),
              AllOf(HasSubstr("m.safetensors"), HasSubstr("tensor \"b\""), HasSubstr("holes")));
  EXPECT_THAT(refusal(test::safetensors_bytes(header(3, 8), "12345678")), HasSubstr("tensor \"b\""));
  EXPECT_THAT(refusal(test::safetensors_bytes(header(4, 9), "12345678")),
              AllOf(HasSubstr("tensor \"b\""), HasSubstr("truncated")));
  EXPECT_THAT(refusal(test::safetensors_bytes(header(4, 8), "123456789")), HasSubstr("9 bytes"));
}

TEST_F(Safetensors, RefusesEntriesThatAreNotWhatTheFormatSays) {
  const auto refused = [&](const std::string& entry) {
    return refusal(test::safetensors_bytes("{\"a\":" + entry + "}", "1234"));
  };
  EXPECT_EQ(refused(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "accepted");
  EXPECT_EQ(refused(R"({"dtype":"F4","shape":[8],"data_offsets":[0,4]})"), "accepted");
  for (const char* entry :
       {R"(7)", R"({"shape":[1],"data_offsets":[0,4]})", R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})",
        R"({"dtype":"F32","shape":[1],"data_offsets":[0.0,4]})",
        R"({"dtype":"F32","shape":[true],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})",
        R"({"dtype":"F4","shape":[7],"data_offsets":[0,4]})"})
    EXPECT_THAT(refused(entry), HasSubstr("tensor \"a\"")) << entry;
  EXPECT_THAT(refusal(test::safetensors_bytes(R"({"__metadata__":{"a":1}})", "")), HasSubstr("__metadata__"));
}

TEST_F(Safetensors, NamesTheFileThatIsNotThere) {
  try {
    const SafetensorsFile file(folder_.path() + "/none.safetensors");
    FAIL();
  } catch (const core::StoreError& error) {
    EXPECT_THAT(error.what(), HasSubstr("none.safetensors"));
  }
}

}  // namespace
}  // namespace voronoi::model
