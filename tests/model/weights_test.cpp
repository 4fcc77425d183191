#include "model/weights.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "model/mended_source.h"
#include "model/model_files.h"
#include "model/weight_data.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

using core::DType;
using core::Json;
using test::FileTensor;
using testing::AllOf;
using testing::HasSubstr;

std::string refusal_of(const std::string& path) {
  try {
    open_model(path);
  } catch (const core::Error& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<float> read(const WeightSource& source, const TensorSpec& spec) {
  std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()), std::nanf(""));
  source.read(spec, values);
  return values;
}

Json small_config(const std::string& type = "llama") {
  return {{"model_type", type},
          {"hidden_size", 8},
          {"intermediate_size", 12},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"vocab_size", 10},
          {"rope_theta", 5000.0},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 64}};
}

/// Values that every float type holds exactly: multiples of 1/64 below 2.
std::vector<float> values_of(const TensorSpec& spec, std::uint64_t seed) {
  const core::CounterRandom random(seed, std::hash<std::string>{}(spec.name));
  std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.below(i, 256)) / 64 - 2;
  return values;
}

std::vector<FileTensor> tensors_of(const ModelConfig& config, DType dtype) {
  std::vector<FileTensor> tensors;
  for (const TensorSpec& spec : expected_tensors(config))
    tensors.push_back(
        {spec.name, std::string(core::dtype_name(dtype)), spec.shape, test::encode(dtype, values_of(spec, 1))});
  return tensors;
}

/// A folder with config.json and model.safetensors.
void write_model(const test::TemporaryFolder& folder, const Json& config, DType dtype = DType::f32) {
  folder.write("config.json", config.dump());
  folder.write("model.safetensors", test::safetensors_bytes(tensors_of(parse_config(config, "c"), dtype)));
}

TEST(ConvertFinite, WidensEveryHalfAndBfloatExactly) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::string bytes;
    std::vector<float> expected;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const float value = core::from_bits16(dtype, static_cast<std::uint16_t>(bits));
      if (!(std::abs(value) <= kMaxWeight)) continue;
      bytes += test::bytes_of(static_cast<std::uint16_t>(bits));
      expected.push_back(value);
    }
    // An odd address: tensors may begin anywhere in a file.
    bytes.insert(0, "x");
    std::vector<float> out(expected.size());
    EXPECT_TRUE(convert_finite(dtype, std::as_bytes(std::span(bytes)).data() + 1, out));
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0) << core::dtype_name(dtype);
  }
}

TEST(ConvertFinite, FindsOneBadValueAnywhere) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (const float bad : {std::nanf(""), -std::nanf(""), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), 65600.0F, -3e38F})
      for (const std::size_t place : {std::size_t{0}, std::size_t{4095}, std::size_t{4096}, std::size_t{9999}}) {
        std::vector<float> values(10000, -65280.0F), out(10000);
        const std::string good_bytes = test::encode(dtype, values);
        EXPECT_TRUE(convert_finite(dtype, std::as_bytes(std::span(good_bytes)).data(), out));
        EXPECT_EQ(out, values);
        values[place] = bad;
        const std::string bytes = test::encode(dtype, values);
        EXPECT_FALSE(convert_finite(dtype, std::as_bytes(std::span(bytes)).data(), out))
            << core::dtype_name(dtype) << " " << bad << " at " << place;
        EXPECT_EQ(all_finite(values), false);
      }
  EXPECT_TRUE(all_finite(std::vector<float>{65504.0F, -65504.0F}));
}

TEST(RoundToHalf, AgreesWithTheConversionOnEveryHalfAndBetween) {
  for (std::uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = core::half_to_float(static_cast<std::uint16_t>(bits)),
                high = core::half_to_float(static_cast<std::uint16_t>(bits + 1));
    const float middle = 0.5F * (low + high);
    for (const float value : {low, middle, std::nextafter(middle, low), std::nextafter(middle, high)}) {
      std::vector<float> rounded{value, -value};
      round_to_half(rounded);
      EXPECT_EQ(rounded[0], core::round_to(DType::f16, value));
      EXPECT_EQ(rounded[1], core::round_to(DType::f16, -value));
      EXPECT_TRUE(std::signbit(rounded[1]));
    }
  }
  std::vector<float> large{65519.0F};
  round_to_half(large);
  EXPECT_EQ(large[0], 65504.0F);
  for (const float value :
       {65520.0F, 3e38F, std::numeric_limits<float>::infinity(), std::nanf(""), std::bit_cast<float>(0x7FFFFFFFU)}) {
    std::vector<float> rounded{value};
    round_to_half(rounded);
    EXPECT_FALSE(all_finite(rounded)) << value;
  }
}

TEST(Directory, ReadsEveryFloatType) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
    const test::TemporaryFolder folder;
    write_model(folder, small_config(), dtype);
    const auto source = open_model(folder.path());
    EXPECT_EQ(source->path(), folder.path());
    EXPECT_EQ(source->config().head_dim, 6);
    for (const TensorSpec& spec : expected_tensors(source->config()))
      EXPECT_EQ(read(*source, spec), values_of(spec, 1)) << spec.name;
  }
}

TEST(MendedSource, TakesZeroForWhatIsRefusedAndRemembersIt) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
    const test::TemporaryFolder folder;
    const Json config = small_config();
    std::vector<FileTensor> tensors = tensors_of(parse_config(config, "c"), dtype);
    FileTensor& struck = tensors.at(3);
    const TensorSpec spec{struck.name, struck.shape};
    std::vector<float> values = values_of(spec, 1);
    values.at(0) = values.at(7) = std::nanf("");
    values.at(2) = -inf;
    values.at(5) = 66000.0F;
    struck.bytes = test::encode(dtype, values);
    folder.write("config.json", config.dump());
    folder.write("model.safetensors", test::safetensors_bytes(tensors));
    const auto source = open_model(folder.path());
    EXPECT_THROW(read(*source, spec), BadValues);
    const MendedSource mended(*source);
    for (const TensorSpec& other : expected_tensors(source->config()))
      if (other.name != spec.name) {
        EXPECT_EQ(read(mended, other), values_of(other, 1)) << other.name;
      }
    EXPECT_TRUE(mended.damage().empty());
    for (const std::size_t i : {0U, 2U, 5U, 7U}) values.at(i) = 0;
    EXPECT_EQ(read(mended, spec), values);
    EXPECT_EQ(read(mended, spec), values);
    ASSERT_EQ(mended.damage().size(), 1U);
    EXPECT_EQ(mended.damage().at(spec.name).n_values, 4);
    EXPECT_THAT(mended.damage().at(spec.name).error, AllOf(HasSubstr("model.safetensors"), HasSubstr(spec.name)));
    // What is not there at all is no matter of values.
    EXPECT_THROW(read(mended, {"model.layers.9.mlp.up_proj.weight", {12, 8}}), core::FormatError);
  }
}

TEST(Directory, RowsAreThoseOfTheWhole) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const test::TemporaryFolder folder;
    const Json config = small_config();
    std::vector<FileTensor> tensors = tensors_of(parse_config(config, "c"), dtype);
    const TensorSpec spec{"model.embed_tokens.weight", {10, 8}};
    const auto struck =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == spec.name; });
    std::vector<float> values = values_of(spec, 1);
    values.at(8 * 4 + 3) = values.at(8 * 7) = std::nanf("");
    struck->bytes = test::encode(dtype, values);
    folder.write("config.json", config.dump());
    folder.write("model.safetensors", test::safetensors_bytes(tensors));
    const auto source = open_model(folder.path());
    std::vector<float> rows(3 * 8);
    ASSERT_TRUE(source->read_rows(spec, 1, rows));
    EXPECT_EQ(rows, std::vector<float>(values.begin() + 8, values.begin() + 4 * 8));
    EXPECT_THROW(source->read_rows(spec, 5, rows), BadValues);
    EXPECT_THROW(source->read_rows(spec, 8, rows), core::InternalError);
    EXPECT_THROW(source->read_rows({spec.name, {10, 4}}, 0, rows), core::FormatError);
    // Damage of parts adds up, and a part that is read again counts once.
    const MendedSource mended(*source);
    std::vector<float> part(5 * 8);
    for (int again = 0; again < 2; ++again)
      for (const std::int64_t first : {0, 5}) {
        ASSERT_TRUE(mended.read_rows(spec, first, part));
        EXPECT_EQ(part.at(first == 0 ? 8 * 4 + 3 : 8 * 2), 0);
      }
    EXPECT_EQ(mended.damage().at(spec.name).n_values, 2);
    EXPECT_THAT(mended.damage().at(spec.name).error, HasSubstr("[4, 3]"));
  }
}

TEST(Directory, TakesASingleFileOfAnyName) {
  const test::TemporaryFolder folder;
  write_model(folder, small_config());
  std::filesystem::rename(folder.path() + "/model.safetensors", folder.path() + "/weights.safetensors");
  EXPECT_EQ(refusal_of(folder.path()), "accepted");
  std::filesystem::copy_file(folder.path() + "/weights.safetensors", folder.path() + "/more.safetensors");
  EXPECT_THAT(refusal_of(folder.path()), AllOf(HasSubstr(folder.path()), HasSubstr("model.safetensors.index.json")));
}

TEST(Directory, RefusesWhatItCannotReadWithTheRemedy) {
  const test::TemporaryFolder folder;
  EXPECT_THAT(refusal_of(folder.path()), HasSubstr("config.json"));
  folder.write("config.json", small_config().dump());
  EXPECT_THAT(refusal_of(folder.path()), HasSubstr("model.safetensors"));
  folder.write("pytorch_model.bin", "\x80\x02");
  EXPECT_THAT(refusal_of(folder.path()),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("pickle"), HasSubstr("safetensors")));
  EXPECT_THAT(refusal_of(folder.path() + "/pytorch_model.bin"),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("pickle"), HasSubstr("safetensors")));
  for (const char* name : {"model.pt", "model.pth", "model.ckpt"})
    EXPECT_THAT(refusal_of(folder.write(name, "x")), HasSubstr("pickle"));
  EXPECT_THAT(refusal_of(folder.write("m.safetensors", "x")), HasSubstr("give the directory"));
  EXPECT_THAT(refusal_of(folder.path() + "/config.json"), HasSubstr("give the directory"));
  EXPECT_THAT(refusal_of(folder.write("notes.txt", "x")), HasSubstr("neither"));
  EXPECT_THAT(refusal_of(folder.path() + "/none"), AllOf(HasSubstr("none"), HasSubstr("no such file")));
}

TEST(Directory, RefusesATensorThatIsNotOfAFloatType) {
  const test::TemporaryFolder folder;
  const Json config = small_config();
  std::vector<FileTensor> tensors = tensors_of(parse_config(config, "c"), DType::f32);
  folder.write("config.json", config.dump());
  tensors.back().dtype = "I32";
  folder.write("model.safetensors", test::safetensors_bytes(tensors));
  EXPECT_THAT(refusal_of(folder.path()),
              AllOf(HasSubstr("model.safetensors"), HasSubstr(tensors.back().name), HasSubstr("I32")));
}

TEST(Directory, ClaimsOfManyLayersAreRefusedWithoutListingThem) {
  const test::TemporaryFolder folder;
  Json config = small_config();
  write_model(folder, config);
  config["num_hidden_layers"] = 100'000;
  folder.write("config.json", config.dump());
  EXPECT_THAT(refusal_of(folder.path()),
              AllOf(HasSubstr("100000 layers"), HasSubstr("model.layers.2.input_layernorm.weight")));
}

TEST(Directory, RefusesShardsOutsideItsFolderThoughTheyWouldRead) {
  const test::TemporaryFolder folder, elsewhere;
  write_model(elsewhere, small_config());
  std::filesystem::create_directory(folder.path() + "/sub");
  for (const char* name : {"/here.safetensors", "/sub/there.safetensors"})
    std::filesystem::copy_file(elsewhere.path() + "/model.safetensors", folder.path() + name);
  folder.write("config.json", small_config().dump());
  const auto with_shard = [&](const std::string& shard) {
    Json map = Json::object();
    for (const TensorSpec& spec : expected_tensors(parse_config(small_config(), "c"))) map[spec.name] = shard;
    folder.write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
    return refusal_of(folder.path());
  };
  EXPECT_EQ(with_shard("here.safetensors"), "accepted");
  for (const std::string& shard : {std::string("sub/there.safetensors"), std::string("./here.safetensors"),
                                   elsewhere.path() + "/model.safetensors", std::string("sub/../here.safetensors")})
    EXPECT_THAT(with_shard(shard), AllOf(HasSubstr("model.safetensors.index.json"), HasSubstr("same folder"))) << shard;
}

TEST(Directory, ReadRefusesAnotherShapeAndUnknownNames) {
  const test::TemporaryFolder folder;
  write_model(folder, small_config());
  const auto source = open_model(folder.path());
  std::vector<float> out(80);
  EXPECT_THROW(source->read({"model.embed_tokens.weight", {8, 10}}, out), core::FormatError);
  EXPECT_THROW(source->read({"model.nothing.weight", {8, 10}}, out), core::FormatError);
  EXPECT_THROW(source->read({"model.embed_tokens.weight", {10, 8}}, std::span(out).first(79)), core::InternalError);
}

TEST(Directory, FingerprintDependsOnContentAlone) {
  const test::TemporaryFolder a, b;
  write_model(a, small_config());
  write_model(b, small_config());
  const std::string fingerprint = open_model(a.path())->fingerprint();
  EXPECT_EQ(fingerprint.size(), 64U);
  EXPECT_EQ(open_model(b.path())->fingerprint(), fingerprint);
  Json config = small_config();
  config["rope_theta"] = 5001.0;
  b.write("config.json", config.dump());
  EXPECT_NE(open_model(b.path())->fingerprint(), fingerprint);
  b.write("config.json", small_config().dump());
  std::fstream(b.path() + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-1, std::ios::end)
      .put('\0');
  EXPECT_NE(open_model(b.path())->fingerprint(), fingerprint);
}

TEST(AddSamples, SeesFirstAndLastPageSizeAndName) {
  std::vector<std::byte> file(4096 * 300);
  const auto hash = [&](std::string_view name, std::size_t size) {
    core::Sha256 sha;
    add_samples(sha, name, std::span(file).first(size), std::span(file).first(100));
    return sha.hex();
  };
  const std::string base = hash("a", file.size());
  EXPECT_NE(hash("b", file.size()), base);
  EXPECT_NE(hash("a", file.size() - 1), base);
  for (const std::size_t place : {std::size_t{0}, std::size_t{4095}, file.size() / 64 * 63, file.size() - 1}) {
    file[place] = std::byte{1};
    EXPECT_NE(hash("a", file.size()), base) << place;
    file[place] = std::byte{0};
  }
}

TEST(Directory, ReadsTheRandomModelsWhole) {
  VORONOI_NEEDS_DATA("models/tiny-random");
  for (const char* name : {"llama2", "llama3", "llama-bias-headdim", "llama-tied", "mistral", "mistral-window", "qwen2",
                           "qwen2-window", "qwen2-yarn", "qwen3"}) {
    const auto source = open_model(test::data_path(std::string("models/tiny-random/") + name));
    for (const TensorSpec& spec : expected_tensors(source->config())) {
      double sum = 0;
      for (const float value : read(*source, spec)) sum += std::abs(static_cast<double>(value));
      EXPECT_GT(sum, 0) << name << " " << spec.name;
    }
  }
}

}  // namespace
}  // namespace voronoi::model
