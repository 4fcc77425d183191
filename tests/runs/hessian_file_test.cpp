// A site's Hessian as a file: what is written is what is read, and what is none of a Hessian's is refused.
#include <gmock/gmock.h>

#include <functional>
#include <numeric>

#include "core/error.h"
#include "core/file.h"
#include "run/hessian_writer.h"
#include "run/layer_store.h"
#include "store/shard.h"
#include "support/temporary.h"

namespace voronoi::run {
namespace {

using testing::HasSubstr;

class HessianFile : public testing::Test {
 protected:
  HessianFile() {
    store::create_run_directory(paths_);
    start_ = store::Start::begin(paths_);
  }

  static std::vector<float> counting(std::size_t n, float first) {
    std::vector<float> values(n);
    std::iota(values.begin(), values.end(), first);
    return values;
  }
  static calib::SiteHessian some() {
    calib::SiteHessian site;
    site.site = "o";
    site.n = 3;
    site.n_tokens = 70;
    site.held_out_tokens = 10;
    site.lower = counting(6, 1);
    site.held_out = counting(6, 10);
    site.cross = counting(9, 20);
    site.held_out_cross = counting(9, 30);
    site.guided.push_back(
        {"model.layers.2.self_attn.o_proj", counting(6, 40), counting(6, 50), 12.5, counting(9, 60), counting(9, 70)});
    return site;
  }
  void write(const calib::SiteHessian& site) const { write_hessian(*start_, 2, site, "calibration"); }
  calib::SiteHessian read(std::int64_t n = 3) const { return read_hessian(paths_, 2, "o", n, "calibration"); }
  /// The file with its arrays changed, checksums put right.
  void change(const std::function<void(std::vector<store::ShardArray>&)>& edit) const {
    store::Shard shard = store::read_shard(paths_.hessian(2, "o"));
    edit(shard.arrays);
    start_->publish(paths_.hessian(2, "o"), store::serialize(shard));
  }
  std::string refusal() const {
    try {
      read();
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "none";
  }

  test::TemporaryFolder folder_;
  store::RunPaths paths_{folder_ / "run"};
  std::unique_ptr<store::Start> start_;
};

TEST_F(HessianFile, IsTheSameWrittenBehindTheComputation) {
  calib::SiteHessian other = some();
  other.site = "down";
  write(some());
  const std::string before = core::read_text_file(paths_.hessian(2, "o"));
  {
    HessianWriter writer(*start_);
    writer.write(2, some(), "calibration");
    writer.write(2, other, "calibration");
    writer.finish();
    writer.finish();
  }
  EXPECT_EQ(core::read_text_file(paths_.hessian(2, "o")), before);
  EXPECT_EQ(read_hessian(paths_, 2, "down", 3, "calibration").lower, other.lower);
}

TEST_F(HessianFile, AnErrorBehindTheComputationIsToldAtTheNextCall) {
  std::filesystem::remove_all(paths_.hessian(2, "o").parent_path());
  HessianWriter writer(*start_);
  writer.write(2, some(), "calibration");
  EXPECT_THROW(writer.finish(), core::StoreError);
  EXPECT_THROW(writer.write(2, some(), "calibration"), core::StoreError);
}

TEST_F(HessianFile, IsReadAsItWasWritten) {
  const calib::SiteHessian site = some();
  write(site);
  const calib::SiteHessian back = read();
  EXPECT_EQ(back.n_tokens, site.n_tokens);
  EXPECT_EQ(back.lower, site.lower);
  EXPECT_EQ(back.held_out, site.held_out);
  EXPECT_EQ(back.cross, site.cross);
  EXPECT_EQ(back.held_out_cross, site.held_out_cross);
  ASSERT_EQ(back.guided.size(), 1U);
  EXPECT_EQ(back.guided[0].linear, site.guided[0].linear);
  EXPECT_EQ(back.guided[0].lower, site.guided[0].lower);
  EXPECT_EQ(back.guided[0].held_out, site.guided[0].held_out);
  EXPECT_EQ(back.guided[0].cross, site.guided[0].cross);
  EXPECT_EQ(back.guided[0].held_out_cross, site.guided[0].held_out_cross);
  EXPECT_EQ(back.guided[0].effective_tokens, 12.5);
}

TEST_F(HessianFile, HasAllGroupsOfALinear) {
  calib::SiteHessian site = some();
  for (std::int64_t group = 1; group < 12; ++group) {
    site.guided.push_back({site.guided[0].linear, counting(6, static_cast<float>(group)), {}, 1.0, {}, {}});
    site.guided.back().group = group;
  }
  site.guided[3].lower.clear();  // nobody feels it
  site.guided.push_back({"model.layers.2.self_attn.z_proj", counting(6, 90), {}, 3.0, {}, {}});
  write(site);
  const calib::SiteHessian back = read();
  const auto groups = back.guided_for(site.guided[0].linear);
  ASSERT_EQ(groups.size(), 12U);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    EXPECT_EQ(groups[g].group, static_cast<std::int64_t>(g));
    EXPECT_EQ(groups[g].lower, site.guided[g].lower) << g;
  }
  EXPECT_EQ(back.guided_for("model.layers.2.self_attn.z_proj").size(), 1U);
  EXPECT_TRUE(back.guided_for("model.layers.2.self_attn.q_proj").empty());
}

TEST_F(HessianFile, ArraysOfAnotherShapeOrNameAreRefused) {
  write(some());
  change([](std::vector<store::ShardArray>& arrays) {
    for (store::ShardArray& array : arrays)
      if (array.name == "held_out.cross") array.shape = {9, 1};
  });
  EXPECT_THAT(refusal(), HasSubstr("held_out.cross is not an F32 matrix of order 3"));
  write(some());
  change([](std::vector<store::ShardArray>& arrays) {
    for (store::ShardArray& array : arrays)
      if (array.name == "cross") array.name = "other.cross";
  });
  EXPECT_THAT(refusal(), HasSubstr("none of a Hessian's: other.cross"));
  write(some());
  change([](std::vector<store::ShardArray>& arrays) {
    for (store::ShardArray& array : arrays)
      if (array.name == "lower") array.shape = {2, 3};
  });
  EXPECT_THAT(refusal(), HasSubstr("lower is not an F32 triangle of order 3"));
  write(some());
  EXPECT_THROW(read(4), core::FormatError);
}

}  // namespace
}  // namespace voronoi::run
