// A format that the program does not know needs nothing of it but a place in the list that a file's reader is given.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "core/error.h"
#include "format/encoding.h"
#include "support/toy_format.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using test::ToyFormat;
using testing::HasSubstr;

Encoding toy() { return ToyFormat::encode(2, 3, std::vector<float>{1, -2, 3, -0.5F, 0.5F, 0.5F}); }

TEST(ThirdFormat, IsStoredReadAndDecoded) {
  const Encoding encoding = toy();
  EXPECT_EQ(find_problem(encoding), "");
  EXPECT_EQ(stored_bits(encoding), 2 * 32 + 2 * 32);
  EXPECT_EQ(nominal_bits(encoding), 1);
  EXPECT_EQ(test::decoded(encoding), (std::vector<float>{2, -2, 2, -0.5F, 0.5F, 0.5F}));

  std::vector<const Format*> formats(known_formats().begin(), known_formats().end());
  formats.push_back(&ToyFormat::instance());
  auto attributes = to_attributes(encoding);
  EXPECT_EQ(attributes.at("encoding"), "toy");
  EXPECT_TRUE(from_arrays(attributes, encoding.arrays, "f", formats) == encoding);
  attributes["words"] = "2";
  EXPECT_THROW(from_arrays(attributes, encoding.arrays, "f", formats), core::FormatError);
}

TEST(ThirdFormat, ThatIsNotInTheListIsRefusedByName) {
  try {
    from_arrays(to_attributes(toy()), toy().arrays, "runs/a.h5");
    FAIL() << "accepted";
  } catch (const core::FormatError& error) {
    EXPECT_THAT(
        error.what(),
        HasSubstr("runs/a.h5: attribute 'encoding' is 'toy', none of 'vq', 'uniform', 'signed_levels', 'gptvq', "
                  "'e8p', "
                  "'trellis', 'aqlm'"));
  }
}

TEST(ThirdFormat, IsMultipliedThroughItsMatrix) {
  backend::Context context(backend::Device::cpu, 1);
  const Encoding encoding = toy();
  const auto matrix = encoding.format->upload(context, encoding);
  const std::vector<float> x{1, 10, 100};
  std::vector<float> out(2);
  matrix->multiply(context, 1, x.data(), false, out.data());
  EXPECT_EQ(out, (std::vector<float>{182, 54.5F}));
}

}  // namespace
}  // namespace voronoi::format
