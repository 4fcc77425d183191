// What is written, read back; and the bytes themselves.
#include "export/writer.h"

#include <gmock/gmock.h>

#include <map>
#include <memory>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "support/skip.h"
#include "support/typed_encoding.h"

namespace voronoi::exporting {
namespace {

using test::LayerKind;
using test::SmallExport;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::vector<LayerKind> kSafeKinds{{4, 256, 0}, {8, 256, 16}, {6, 4096, 0}, {12, 4096, 4096}, {16, 256, 256}};
const std::vector<LayerKind> kFullKinds{{8, 256, 256, 2, 4}, {4, 256, 0, 1, 3}, {12, 4096, 0, 4, 0}};

std::vector<float> read(const model::WeightSource& source, const model::TensorSpec& spec) {
  std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
  source.read(spec, values);
  return values;
}

/// Everything that went in comes out.
void expect_round_trip(const SmallExport& small, const std::filesystem::path& out) {
  const Checkpoint written(out.string());
  EXPECT_EQ(written.linears().size(), small.encodings.size());
  for (const auto& [name, encoding] : small.encodings) EXPECT_EQ(written.encoding(name), encoding) << name;
  for (const model::TensorSpec& spec : model::expected_tensors(small.source->config())) {
    if (small.encodings.contains(spec.name.substr(0, spec.name.rfind('.'))) && spec.name.ends_with(".weight")) continue;
    EXPECT_EQ(read(written, spec), read(*small.source, spec)) << spec.name;
  }
}

TEST(Writer, LayersAndTensorsComeBack) {
  SmallExport small(kSafeKinds);
  expect_round_trip(small, small.write());
}

TEST(Writer, SoDoGroupsOutliersAndBfloat16) {
  SmallExport small(kFullKinds, test::small_config("bfloat16"));
  small.request.origin.profile = Profile::full;
  const auto out = small.write();
  expect_round_trip(small, out);
  EXPECT_EQ(core::read_json_file((out / "config.json").string()).at("torch_dtype"), "bfloat16");
}

TEST(Writer, ConfigSaysWhatTheClientAsks) {
  SmallExport small({{8, 256, 16}});
  const auto out = small.write();
  const core::Json config = core::read_json_file((out / "config.json").string());
  EXPECT_EQ(config.at("model_type"), "llama");
  EXPECT_EQ(config.at("torch_dtype"), "float16");
  const core::Json& quantization = config.at("quantization_config");
  EXPECT_EQ(quantization.at("quant_method"), "vptq");
  EXPECT_EQ(quantization.at("config_for_layers").size(), small.encodings.size());
  const core::Json expected = core::Json::parse(
      R"({"in_features": 44, "out_features": 24, "bias": false, "vector_lens": [-1, 8], "num_centroids": [-1, 256],
          "num_res_centroids": [-1, 16], "group_num": 1, "group_size": 44, "outlier_size": 0, "indices_as_float": false,
          "enable_norm": true, "enable_perm": false, "is_indice_packed": true})");
  EXPECT_EQ(quantization.at("config_for_layers").at("model.layers.1.mlp.down_proj"), expected);
  EXPECT_EQ(quantization.at("config_for_layers").at("model.layers.0.self_attn.q_proj").at("bias"), true);
  const auto tensors = test::TensorSet::read(out / "model.safetensors").tensors;
  EXPECT_EQ(tensors.at("model.layers.1.mlp.down_proj.indices").dtype, "I32");
  EXPECT_EQ(tensors.at("model.layers.1.mlp.down_proj.indices").shape, (core::Shape{1, 3, 17}));
  EXPECT_EQ(tensors.at("model.layers.1.mlp.down_proj.centroids.weight").shape, (core::Shape{1, 2048}));
  EXPECT_EQ(tensors.at("lm_head.weight").bytes, tensors.at("model.embed_tokens.weight").bytes) << "stored, though tied";
  EXPECT_TRUE(std::filesystem::exists(out / "tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(out / "generation_config.json"));
}

TEST(Writer, ALimitDividesTheFile) {
  SmallExport small(kSafeKinds);
  small.request.max_file_bytes = 100000;
  const auto out = small.write();
  expect_round_trip(small, out);
  const core::Json index = core::read_json_file((out / "model.safetensors.index.json").string());
  std::set<std::string> files;
  for (const auto& [name, file] : index.at("weight_map").items()) files.insert(file.get<std::string>());
  ASSERT_GT(files.size(), 2U);
  std::int64_t total = 0;
  for (const std::string& file : files) {
    std::int64_t bytes = 0, tensors = 0;
    for (const auto& [name, tensor] : test::TensorSet::read(out / file).tensors) {
      bytes += static_cast<std::int64_t>(tensor.bytes.size());
      ++tensors;
    }
    EXPECT_TRUE(bytes <= 100000 || tensors == 1) << file;
    total += bytes;
  }
  EXPECT_EQ(index.at("metadata").at("total_size"), total);
  EXPECT_FALSE(std::filesystem::exists(out / "model.safetensors"));
}

TEST(Writer, Float32IsRoundedToTheModelsType) {
  core::Json config = test::small_config();
  SmallExport small(kSafeKinds, config);
  auto set = test::TensorSet::read(small.folder("model") / "model.safetensors");
  auto& norm = set.tensors.at("model.norm.weight");
  std::vector<float> values(24, 1.0F / 3);
  norm.dtype = "F32";
  norm.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  set.write(small.folder("model") / "model.safetensors");
  small.source = model::open_model(small.folder("model").string());
  small.request.original = small.source.get();
  const Checkpoint written(small.write().string());
  EXPECT_EQ(read(written, {"model.norm.weight", {24}}),
            std::vector<float>(24, core::round_to(core::DType::f16, 1.0F / 3)));
}

TEST(Writer, NothingIsLeftBehindWhenItFails) {
  SmallExport small(kSafeKinds);
  small.request.progress = [](const std::string& stage, std::size_t done, std::size_t) {
    if (stage == "writing" && done == 3) throw core::StopRequested();
  };
  const int before = test::entries(small.folder(""));
  EXPECT_THROW(small.write(), core::StopRequested);
  EXPECT_EQ(test::entries(small.folder("")), before);
  small.request.progress = nullptr;
  small.write();
  const auto refused = test::message_of<core::ConfigError>([&] { small.write(); });
  EXPECT_THAT(refused, HasSubstr("is there already"));
}

/// Whatever is in a directory: name -> content.
std::map<std::string, std::string> contents(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory))
    if (entry.is_regular_file())
      files[entry.path().lexically_relative(directory).string()] = test::read_bytes(entry.path());
  return files;
}

TEST(Writer, AnyDivisionOfTheWorkGivesTheSameBytes) {
  SmallExport small(kSafeKinds);
  small.request.max_file_bytes = 100000;
  const auto expected = contents(small.write());
  const UnfinishedExport place(small.folder("shared"));
  // As two ranks would: each looks at every other layer, the files go to the other one.
  std::vector<std::unique_ptr<CheckpointWriter>> ranks;
  for (int rank = 0; rank < 2; ++rank) ranks.push_back(std::make_unique<CheckpointWriter>(small.request, place));
  std::vector<std::string> looks, written;
  while (looks.size() < ranks[0]->n_layers()) looks.push_back(ranks[looks.size() % 2]->look_at(looks.size()));
  for (const auto& rank : ranks) rank->plan(looks);
  ASSERT_GT(ranks[0]->n_files(), 2U);
  ranks[0]->begin();
  while (written.size() < ranks[0]->n_files())
    written.push_back(ranks[(written.size() + 1) % 2]->write_file(written.size()));
  EXPECT_FALSE(std::filesystem::exists(place.directory() / "config.json")) << "visibly unfinished";
  ranks[0]->finish(written);
  EXPECT_EQ(contents(place.directory()), expected);
}

TEST(Writer, WholeFilesOfAKilledProcessAreNotWrittenAgain) {
  SmallExport small(kSafeKinds);
  small.request.max_file_bytes = 100000;
  const auto expected = contents(small.write());
  const UnfinishedExport place(small.folder("out2.making"));
  std::size_t n_files = 0;
  const auto killed = [&] {  // with two files whole, and a third begun
    CheckpointWriter writer(small.request, place);
    std::vector<std::string> looks;
    while (looks.size() < writer.n_layers()) looks.push_back(writer.look_at(looks.size()));
    writer.plan(looks);
    n_files = writer.n_files();
    writer.begin();
    writer.write_file(0);
    writer.write_file(1);
    test::write_bytes(place.directory() / "model-00003.part", "x");
  };
  const auto file = [&](int number) {
    return place.directory() /
           ("model-0000" + std::to_string(number) + "-of-0000" + std::to_string(n_files) + ".safetensors");
  };
  std::size_t n = 0, n_read = 0;
  small.request.progress = [&](const std::string& stage, std::size_t, std::size_t) {
    n += stage == "writing" ? 1U : 0U;
  };
  small.request.encoding = [&](const std::string& name) {
    ++n_read;
    return small.encodings.at(name);
  };
  const auto layers_written = [&] {
    n = n_read = 0;
    small.write("out2");
    EXPECT_EQ(n, small.encodings.size()) << "told of every layer, whoever wrote it";
    EXPECT_EQ(contents(small.folder("out2")), expected);
    EXPECT_FALSE(std::filesystem::exists(place.directory()));
    std::filesystem::remove_all(small.folder("out2"));
    return n_read - small.encodings.size();  // each was looked at once
  };
  const std::size_t all = layers_written();
  killed();
  ASSERT_LT(n_files, 10U);
  const std::size_t rest = layers_written();
  EXPECT_LT(rest, all);
  // One of them is damaged, one is of other layers.
  killed();
  std::string bytes = test::read_bytes(file(1));
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  test::write_bytes(file(1), bytes);
  const std::size_t with_first = layers_written();
  EXPECT_GT(with_first, rest);
  EXPECT_LT(with_first, all);
  killed();
  small.request.origin.layers.begin()->second = std::string(64, 'b');
  const auto other = contents(small.write("other"));
  small.write("out2");
  EXPECT_EQ(contents(small.folder("out2")), other);
}

TEST(Writer, OneProcessAtATimeMakesAnExport) {
  const test::TemporaryFolder folder;
  const DirectoryLock lock(folder / "making");
  EXPECT_THAT(test::message_of<core::StoreError>([&] { const DirectoryLock other(folder / "making"); }),
              HasSubstr("another process"));
}

TEST(Writer, AFullDiskLeavesNothing) {
  const test::SmallDisk disk("size=64k");
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  const SmallExport small(kSafeKinds);
  EXPECT_THAT(
      test::message_of<core::StoreError>([&] { write_checkpoint(small.request, disk / "out", disk / "making"); }),
      AllOf(HasSubstr("model.safetensors"), HasSubstr("free some space")));
  EXPECT_EQ(test::entries(disk.path()), 0);
}

TEST(Writer, WhatTheFormatCannotHoldIsRefusedAllAtOnce) {
  SmallExport small({{4, 256, 0}, {5, 256, 0}, {4, 512, 0}});
  const auto message = test::message_of<core::ConfigError>([&] { small.write(); });
  EXPECT_THAT(message,
              AllOf(HasSubstr("--vector-length 5"), HasSubstr("--centroids 512"), HasSubstr("5 of 14 layers")));
  EXPECT_FALSE(std::filesystem::exists(small.folder("out")));

  SmallExport other({{4, 256, 0}});
  format::Encoding& first = other.encodings.begin()->second;
  format::VqEncoding narrow = test::vq_of(first);
  narrow.dtype = core::DType::bf16;
  first = format::to_encoding(narrow);
  EXPECT_THAT(test::message_of<core::ConfigError>([&] { other.write(); }), HasSubstr("BF16 in a model of type F16"));
  first = format::to_encoding(format::UniformEncoding{{24, 24, 2, 8, core::DType::f16}, {}, {}, {}, {}, {}});
  EXPECT_THAT(test::message_of<core::ConfigError>([&] { other.write(); }), HasSubstr("--method"));
}

TEST(Writer, TheManifestFindsEveryChange) {
  SmallExport small(kSafeKinds);
  const auto out = small.write();
  const auto manifest = read_manifest(out);
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->run, "/nowhere/run");
  EXPECT_EQ(manifest->layers, small.request.origin.layers);
  EXPECT_EQ(manifest->files.size() + 1, static_cast<std::size_t>(test::entries(out)));
  EXPECT_THAT(check_files(out, *manifest), IsEmpty());
  for (const Manifest::File& file : manifest->files) {
    const std::string whole = test::read_bytes(out / file.name);
    std::string changed = whole;
    changed[changed.size() / 2] = static_cast<char>(changed[changed.size() / 2] ^ 1);
    test::write_bytes(out / file.name, changed);
    EXPECT_THAT(check_files(out, *manifest), ElementsAre(HasSubstr(file.name))) << file.name;
    test::write_bytes(out / file.name, whole);
  }
  std::string text = test::read_bytes(out / kManifestName);
  text[text.find("/nowhere")] = '_';
  test::write_bytes(out / kManifestName, text);
  EXPECT_THAT(test::message_of<core::FormatError>([&] { read_manifest(out); }), HasSubstr("damaged"));
}

TEST(Writer, TheBytesAreThoseOfTheGoldenFile) {
  std::ostringstream sums;
  const auto add = [&](SmallExport& small, const std::string& name) {
    const auto out = small.write(name);
    const Manifest manifest = read_manifest(out).value();
    for (const Manifest::File& file : manifest.files) sums << file.sha256 << "  " << name << "/" << file.name << "\n";
    sums << core::sha256(test::read_bytes(out / kManifestName)) << "  " << name << "/" << kManifestName << "\n";
  };
  SmallExport safe(kSafeKinds);
  add(safe, "safe");
  SmallExport full(kFullKinds, test::small_config("bfloat16"));
  full.request.origin.profile = Profile::full;
  add(full, "full");
  EXPECT_EQ(sums.str(), test::read_bytes(VORONOI_GOLDEN_SUMS)) << "a change of the format's bytes: is it meant?";
}

}  // namespace
}  // namespace voronoi::exporting
