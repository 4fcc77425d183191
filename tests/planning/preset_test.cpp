#include "planning/preset.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "support/temporary.h"

namespace voronoi::planning {
namespace {

using testing::HasSubstr;

class Preset : public ::testing::Test {
 protected:
  run::Settings taken(const std::string& name, const std::string& data = "") const {
    run::Settings settings;
    settings.calibration_preset = name;
    settings.calibration_data = data;
    take_preset(settings);
    return settings;
  }
  std::string place(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name) << content;
    return place(name);
  }
  test::TemporaryFolder folder_;
};

TEST_F(Preset, NothingIsTakenWithoutOne) { EXPECT_TRUE(taken("").calibration_texts.empty()); }

TEST_F(Preset, TextsLieInTheFolderThatIsNamedOrBesideTheList) {
  const std::string list =
      write("mine.json", R"({"texts": [{"file": "a.txt", "weight": 2.5}, {"file": "b.txt", "get": "ask for it"}]})");
  write("a.txt", "a");
  const run::Settings beside = taken(list);
  EXPECT_EQ(beside.calibration_texts, (std::vector<std::string>{place("a.txt"), place("b.txt")}));
  EXPECT_EQ(beside.calibration_weights, (std::vector<std::int64_t>{2500, 1000}));
  ASSERT_EQ(beside.missing_texts.size(), 1U);
  EXPECT_THAT(beside.missing_texts[0], HasSubstr(place("b.txt") + " is not there: ask for it"));
  std::filesystem::create_directory(place("data"));
  write("data/b.txt", "b");
  const run::Settings named = taken(list, place("data"));
  EXPECT_EQ(named.calibration_texts, (std::vector<std::string>{place("a.txt"), place("data/b.txt")}));
  EXPECT_TRUE(named.missing_texts.empty());
}

TEST_F(Preset, ListsOfTheProgramAreWhole) {
  ASSERT_FALSE(known_presets().empty());
  for (const KnownPreset& known : known_presets()) {
    const run::Settings settings = taken(std::string(known.name), place(""));
    EXPECT_FALSE(settings.calibration_texts.empty()) << known.name;
    const core::Json list = core::parse_json(known.json, known.name);
    for (const core::Json& text : list.at("texts"))
      EXPECT_TRUE(text.contains("get")) << known.name << ": how to get " << text.at("file");
  }
}

TEST_F(Preset, WhatIsNoListIsRefused) {
  EXPECT_THROW(taken("nothing"), core::ConfigError);
  EXPECT_THROW(taken(place("absent.json")), core::ConfigError);
  for (const char* content :
       {"{}", R"({"texts": []})", R"({"texts": [{"weight": 1}]})", R"({"texts": [{"file": 3}]})",
        R"({"texts": [{"file": "a", "weight": 0}]})", R"({"texts": [{"file": "a", "weight": "2"}]})"})
    EXPECT_THROW(taken(write("bad.json", content)), core::FormatError) << content;
  run::Settings both;
  both.calibration_preset = "debian";
  both.calibration_texts = {"a.txt"};
  EXPECT_THROW(take_preset(both), core::ConfigError);
}

}  // namespace
}  // namespace voronoi::planning
