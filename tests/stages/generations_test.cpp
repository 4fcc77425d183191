// A run whose later stage published better versions of a linear, a norm and a bias: all who read it take the newest.
#include <gmock/gmock.h>

#include <exception>
#include <limits>
#include <memory>

#include "backend/device.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "run/layer_store.h"
#include "run/run.h"
#include "run/subject.h"
#include "stages/export.h"
#include "stages/stage.h"
#include "validation/verification.h"

namespace voronoi::stages {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char *kLinear = "model.layers.1.mlp.up_proj", *kBias = "model.layers.0.self_attn.q_proj.bias",
                     *kNorm = "model.layers.1.input_layernorm.weight";
constexpr test::LayerKind kKind{4, 256, 0};

std::vector<float> read(const model::WeightSource& source, const model::TensorSpec& spec) {
  std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
  source.read(spec, values);
  return values;
}

class Generations : public testing::Test {
 protected:
  /// Every linear of the model quantized, and the start that did it.
  Generations() {
    test::write_model(folder_ / "model", test::small_config());
    settings_.model = settings_.tokenizer = (folder_ / "model").string();
    settings_.parameters.method = "vptq";
    inputs_.model = model::open_model(settings_.model);
    store::create_run_directory(run_.paths = {folder_ / "run"});
    run_.start = store::Start::begin(run_.paths);
    store::check_or_write_identity(
        *run_.start, {{"format", 1}, {"model", inputs_.model->fingerprint()}, {"quantization", {{"method", "vptq"}}}});
    run::StartRecord start;
    start.model = settings_.model;
    run::take_up(run_, start, {});
    run::settle_files(comm::Communicator::alone(), run_);
    run_.heartbeat = std::make_unique<run::HeartbeatWriter>(*run_.start);
    run_.parameters = quant::RunParameters(settings_.parameters, {});
    for (const model::LinearSpec& linear : model::block_linears(inputs_.model->config())) publish(linear);
    run_.append(run::Finished{});
  }

  /// The next generation of a linear, as random as the one before it.
  void publish(const model::LinearSpec& linear) {
    quant::QuantResult result;
    result.encoding = test::random_encoding(linear, kKind, core::DType::f16, stream_++);
    const run::NextGeneration next = run::next_layer_generation(run_.state, linear.name);
    run::LayerRecord record;
    record.name = linear.name;
    record.sha256 = run::write_layer(*run_.start, linear.name, next.generation, result);
    record.generation = next.generation;
    record.parent = next.parent;
    record.weights = linear.out_features * linear.in_features;
    record.stored_bits = format::stored_bits(result.encoding);
    run_.append(record);
    std::vector<float> weight(static_cast<std::size_t>(record.weights));
    format::decode(result.encoding, weight);
    expected_[linear.name + ".weight"] = std::move(weight);
    encodings_[linear.name] = std::move(result.encoding);
  }
  /// The next generation of a tensor, all of one value, exact in 16 bits.
  void publish(const model::TensorSpec& tensor, float value) {
    const std::vector<float> values(static_cast<std::size_t>(core::element_count(tensor.shape).value()), value);
    const run::NextGeneration next = run::next_tensor_generation(run_.state, tensor.name);
    run::TensorRecord record{tensor.name,
                             run::write_tensor(*run_.start, tensor.name, next.generation, tensor.shape, values),
                             next.generation, run_.state.start, next.parent};
    run_.append(record);
    expected_[tensor.name] = values;
  }
  /// As a stage does that betters a run: two generations of a norm, one of a linear and of a bias.
  void better() {
    for (const model::TensorSpec& spec : model::expected_tensors(inputs_.model->config())) {
      if (spec.name == kNorm) publish(spec, 0.5F), publish(spec, 0.75F);
      if (spec.name == kBias) publish(spec, -0.25F);
    }
    for (const model::LinearSpec& linear : model::block_linears(inputs_.model->config()))
      if (linear.name == kLinear) publish(linear);
  }

  void expect_newest(const model::WeightSource& source) const {
    for (const model::TensorSpec& spec : model::expected_tensors(inputs_.model->config())) {
      const auto found = expected_.find(spec.name);
      EXPECT_EQ(read(source, spec), found == expected_.end() ? read(*inputs_.model, spec) : found->second) << spec.name;
      const std::string linear = spec.name.substr(0, spec.name.rfind('.'));
      const bool quantized = encodings_.contains(linear) && spec.name.ends_with(".weight");
      const model::PackedTensor packed = source.packed(spec);
      ASSERT_EQ(packed != nullptr, quantized) << spec.name;
      if (quantized) {
        EXPECT_EQ(*packed, encodings_.at(linear)) << spec.name;
      }
    }
  }
  /// The stage as a start of the program runs it.
  void run_export() {
    const comm::Communicator alone = comm::Communicator::alone();
    Work work(alone, context_, settings_, inputs_, run_);
    begin_export(work)({0, work.config().n_layers});
  }
  std::string file(const std::string& name, std::int64_t generation) const {
    return run_.paths.layer(name, generation).string();
  }

  test::TemporaryFolder folder_;
  backend::Context context_{backend::Device::cpu, 1};
  run::Settings settings_;
  Inputs inputs_;
  run::Run run_;
  std::uint64_t stream_ = 0;
  std::map<std::string, std::vector<float>> expected_;  ///< tensors that are not the model's own
  std::map<std::string, format::Encoding> encodings_;
};

TEST_F(Generations, EvaluationAndGenerationReadTheNewest) {
  const auto before = run::open_subject(run_.paths.root);
  expect_newest(*before.quantized);
  better();
  const auto after = run::open_subject(run_.paths.root);
  expect_newest(*after.quantized);
  EXPECT_NE(after.content, before.content) << "evaluations of the earlier ones would pass for theirs";
}

TEST_F(Generations, TheExportIsMadeAgainOfTheNewest) {
  run_export();
  const auto first = exporting::read_manifest(run_.paths.exported());
  expect_newest(exporting::Checkpoint(run_.paths.exported()));
  better();
  run_export();
  const auto second = exporting::read_manifest(run_.paths.exported());
  expect_newest(exporting::Checkpoint(run_.paths.exported()));
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->layers, second->layers);
  EXPECT_EQ(second->layers, run::published_sums(run_.state));
  // Nothing new: it stays.
  const std::filesystem::path config = run_.paths.exported() / "config.json";
  const auto made = std::filesystem::last_write_time(config);
  run_export();
  EXPECT_EQ(std::filesystem::last_write_time(config), made);
}

TEST_F(Generations, VerificationComparesAnExportWithWhatItWasMadeOf) {
  const std::string early = run_.paths.root / "early";
  better();
  run_export();
  std::filesystem::copy(run_.paths.exported(), early);
  better();  // three of a linear, five of a norm: the copy is of earlier ones
  EXPECT_THAT(validation::verify_run(comm::Communicator::alone(), run_.paths.root).problems, IsEmpty());
  EXPECT_THAT(validation::verify_checkpoint(comm::Communicator::alone(), early).problems, IsEmpty());
  // A checkpoint that is whole, but not of this norm.
  auto tensors = test::TensorSet::read(std::filesystem::path(early) / "model.safetensors");
  tensors.tensors.at(kNorm).bytes[1] = 0;
  tensors.write(std::filesystem::path(early) / "model.safetensors");
  exporting::write_manifest(early, *exporting::read_manifest(early));
  EXPECT_THAT(validation::verify_checkpoint(comm::Communicator::alone(), early).problems,
              testing::Contains(HasSubstr(file(kNorm, 2))));
}

TEST_F(Generations, AnExportTakesNoOtherFileThanTheJournalled) {
  better();
  std::filesystem::copy_file(file(kNorm, 1), file(kNorm, 2), std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(test::message_of<core::FormatError>([&] {
                try {
                  export_run(comm::Communicator::alone(),
                             {run_.paths, run_.state, *inputs_.model, settings_.tokenizer, "vptq"}, exporting::Target{},
                             exporting::UnfinishedExport(folder_ / "making"), nullptr);
                } catch (const comm::AgreedError& agreed) {
                  std::rethrow_exception(agreed.error);
                }
              }),
              HasSubstr(file(kNorm, 2)));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "making"));
  EXPECT_THAT(validation::verify_run(comm::Communicator::alone(), run_.paths.root).problems,
              ElementsAre(HasSubstr(file(kNorm, 2))));
}

TEST_F(Generations, ValuesThatNoCheckpointCanHoldAreNotPublished) {
  const model::TensorSpec norm{kNorm, {2}};
  for (const float bad : {70000.0F, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THAT(test::message_of<core::NumericError>([&] {
                  run::write_tensor(*run_.start, kNorm, 1, norm.shape, std::vector<float>{1, bad});
                }),
                HasSubstr(kNorm));
    EXPECT_FALSE(std::filesystem::exists(file(kNorm, 1)));
  }
}

}  // namespace
}  // namespace voronoi::stages
