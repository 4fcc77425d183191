// Generations of layers and tensors on a real directory, through starts that end at any moment.
#include <gmock/gmock.h>

#include <memory>

#include "core/error.h"
#include "core/hash.h"
#include "run/layer_store.h"
#include "run/run.h"
#include "support/temporary.h"

namespace voronoi::run {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Generations : public testing::Test {
 protected:
  Generations() { store::create_run_directory(paths_); }

  /// What is not journalled by the start before is lost to it.
  void start(const std::string& version = "1.0") {
    run_ = std::make_unique<run::Run>();
    run_->paths = paths_;
    run_->start = store::Start::begin(paths_);
    StartRecord record;
    record.version = version;
    take_up(*run_, record, {});
    settle_files(comm::Communicator::alone(), *run_);
  }

  /// As a stage does: first the file, then the record.
  LayerRecord publish(const std::string& name, const std::string& bytes) const {
    const NextGeneration next = next_layer_generation(run_->state, name);
    run_->start->publish(paths_.layer(name, next.generation), bytes);
    LayerRecord record;
    record.name = name;
    record.sha256 = core::sha256(bytes);
    record.generation = next.generation;
    record.parent = next.parent;
    return record;
  }
  std::string layer(const std::string& name) const {
    return test::read_bytes(paths_.layer(name, run_->state.layers.at(name).generation));
  }

  test::TemporaryFolder folder_;
  store::RunPaths paths_{folder_ / "run"};
  std::unique_ptr<run::Run> run_;
};

TEST_F(Generations, FilesHaveNamesOfTheirOwn) {
  EXPECT_EQ(paths_.layer("a.q_proj"), paths_.layers() / "a.q_proj.h5");
  EXPECT_EQ(paths_.layer("a.q_proj", 3), paths_.layers() / "a.q_proj.g3.h5");
}

TEST_F(Generations, KilledAnywhereNeitherIsLost) {
  start();
  run_->append(publish("a", "first"));
  start();
  EXPECT_EQ(layer("a"), "first");
  // Killed between the file and its record: the earlier one counts, the file goes.
  publish("a", "second");
  start();
  EXPECT_EQ(layer("a"), "first");
  EXPECT_EQ(test::entries(paths_.layers()), 1);
  // Killed behind the record.
  run_->append(publish("a", "second"));
  start();
  EXPECT_EQ(layer("a"), "second");
  EXPECT_EQ(test::read_bytes(paths_.layer("a", 0)), "first");
  ASSERT_EQ(run_->state.earlier_layers.at("a").size(), 1U);
  EXPECT_EQ(run_->state.layers.at("a").parent, run_->state.earlier_layers.at("a")[0].sha256);
  // A third one that never was whole.
  test::write_bytes(run_->start->temporary(paths_.layer("a", 2)), "half");
  start();
  EXPECT_EQ(layer("a"), "second");
  EXPECT_EQ(test::entries(paths_.layers()), 2);
}

TEST_F(Generations, DamagedOneGivesWayToItsParent) {
  start();
  for (const char* bytes : {"first", "second", "third"}) run_->append(publish("a", bytes));
  test::write_bytes(paths_.layer("a", 2), "spoilt");
  start();
  EXPECT_EQ(layer("a"), "second");
  EXPECT_EQ(test::entries(paths_.quarantine()), 1);
  // An earlier one that is lost takes nothing with it.
  fs::remove(paths_.layer("a", 0));
  start();
  EXPECT_EQ(layer("a"), "second");
  EXPECT_FALSE(run_->state.earlier_layers.contains("a"));
  run_->append(publish("a", "third again"));
  fs::remove(paths_.layer("a", 1));
  fs::remove(paths_.layer("a", 2));
  start();
  EXPECT_TRUE(run_->state.layers.empty());
  EXPECT_TRUE(run_->state.earlier_layers.empty());
  run_->append(publish("a", "first"));
  start();
  EXPECT_EQ(layer("a"), "first");
}

TEST_F(Generations, RecordWithoutItsParentIsRefused) {
  start();
  LayerRecord record = publish("a", "first");
  record.generation = 1;
  record.parent = "00";
  EXPECT_THAT(test::message_of<core::FormatError>([&] { apply(run_->state, record, "journal.log"); }),
              HasSubstr("generation 1 of \"a\""));
  run_->append(publish("b", "first"));
  record = publish("b", "second");
  record.parent = core::sha256(std::string("another"));
  EXPECT_THROW(apply(run_->state, record, "journal.log"), core::FormatError);
}

/// A model of ones.
class Ones final : public model::WeightSource {
 public:
  const model::ModelConfig& config() const override { return config_; }
  void read(const model::TensorSpec&, std::span<float> out) const override { std::fill(out.begin(), out.end(), 1.0F); }
  std::string fingerprint() const override { return "ones"; }
  const std::string& path() const override { return path_; }

 private:
  model::ModelConfig config_;
  std::string path_ = "ones";
};

TEST_F(Generations, ReadersTakeTheNewestThatIsJournalled) {
  const model::TensorSpec norm{"model.norm.weight", {2}};
  const Ones original;
  const auto value = [&] {
    std::vector<float> out(2);
    RunSource(original, paths_, published(run_->state)).read(norm, out);
    return out;
  };
  start();
  EXPECT_EQ(value(), (std::vector<float>{1, 1}));
  for (const std::vector<float>& values : {std::vector<float>{2, 3}, std::vector<float>{4, 5}}) {
    const std::vector<float> before = value();
    const NextGeneration next = next_tensor_generation(run_->state, norm.name);
    TensorRecord record{norm.name, write_tensor(*run_->start, norm.name, next.generation, norm.shape, values),
                        next.generation, 1, next.parent};
    EXPECT_EQ(value(), before);
    run_->append(record);
    EXPECT_EQ(value(), values);
  }
  start();
  EXPECT_EQ(value(), (std::vector<float>{4, 5}));
  test::write_bytes(paths_.layer(norm.name, 2), "spoilt");
  start();
  EXPECT_EQ(value(), (std::vector<float>{2, 3}));
  std::vector<float> three(3);
  EXPECT_THAT(test::message_of<core::FormatError>([&] {
                RunSource(original, paths_, published(run_->state)).read({norm.name, {3}}, three);
              }),
              HasSubstr("model.norm.weight.g1.h5"));
}

TEST_F(Generations, LayersOfAnotherVersionAreNamed) {
  start();
  run_->append(publish("a", "first"));
  testing::internal::CaptureStderr();
  start();
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::Not(HasSubstr("version")));
  testing::internal::CaptureStderr();
  start("2.0");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::AllOf(HasSubstr("version 1.0"), HasSubstr("version 2.0")));
}

}  // namespace
}  // namespace voronoi::run
