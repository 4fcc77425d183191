#include "run/records.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "run/resume.h"
#include "run/run_state.h"
#include "support/temporary.h"

namespace voronoi::run {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::vector<core::Json> parse(std::initializer_list<const char*> lines) {
  std::vector<core::Json> records;
  for (const char* line : lines) records.push_back(core::parse_json(line, "test"));
  return records;
}

StartRecord start_record(std::int64_t number, std::int64_t ranks) {
  StartRecord start;
  start.number = number;
  start.ranks = ranks;
  return start;
}

const std::initializer_list<const char*> kJournal{
    R"({"type":"start","number":1,"ranks":2,"host":"h","pid":7,"time":1.5,"model":"/m","version":"1.0"})",
    R"({"type":"set","assignment":"damping=0.02"})",
    R"({"type":"damaged_tensor","tensor":"model.norm.weight","values":3,"error":"element [0] is nan"})",
    R"({"type":"stage","stage":"calibrate","seconds":1.5})",
    R"({"type":"layer","name":"a","sha256":"00","weights":100,"stored_bits":250,"nominal_bits":2.0,"relative_error":0.5,)"
    R"("seconds":0.25,"calibration_tokens":64,"left_out_tokens":1,"pooled_tokens":0,"rank":1,"start":1,"statistics":{"rounds":4.0}})",
    R"({"type":"layer","name":"b","sha256":"01","weights":100,"stored_bits":150,"nominal_bits":1.0,"relative_error":0.5,)"
    R"("seconds":0.25,"rank":0,"start":1,"statistics":{}})",
    R"({"type":"layer_failed","name":"c","task":"block 0 o","error":"not finite"})",
    R"({"type":"task_failed","task":"block 0 qkv","rank":1,"try":1,"error":"lost"})",
    R"({"type":"quarantined","task":"block 0 down","error":"lost"})",
    R"({"type":"quarantined","task":"block 0 qkv","error":"lost"})",
    R"({"type":"task_done","task":"block 0 qkv","rank":0,"width":1,"seconds":0.5,"end":2.5})",
    R"({"type":"scheduling","tasks":4,"task_seconds":2.0,"waiting_seconds":0.5,"coordinator_cpu_seconds":0.25})",
    R"({"type":"stage","stage":"quantize","seconds":2.5})",
    R"({"type":"work","stage":"calibrate","start":1,"counts":{"model_bytes":40.0,"forward_tokens":8.0}})",
    R"({"type":"work","stage":"calibrate","start":2,"counts":{"model_bytes":2.5}})",
    R"({"type":"memory","peak_bytes":1000})",
    R"({"type":"finished","time":3.5})",
    R"({"type":"start","number":2,"ranks":1,"host":"h","pid":8,"time":4.5,"model":"/m2","tokenizer":"/t"})",
    R"({"type":"layer_lost","name":"b"})",
    R"({"type":"stopped","time":5.5})"};

TEST(Records, AddUpToAState) {
  const RunState state = replay(parse(kJournal), "journal.log");
  EXPECT_EQ(state.start, 2);
  ASSERT_TRUE(state.last_start.has_value());
  EXPECT_EQ(state.last_start->model, "/m2");
  EXPECT_EQ(state.last_start->ranks, 1);
  EXPECT_TRUE(state.last_start->options.empty());
  ASSERT_EQ(state.layers.size(), 1U);
  EXPECT_EQ(state.layers.at("a").start, 1);
  EXPECT_EQ(state.layers.at("a").generation, 0);
  EXPECT_EQ(state.layers.at("a").left_out_tokens, 1);
  EXPECT_EQ(true_bits(state), 2.5);
  EXPECT_THAT(state.sets, ElementsAre("damping=0.02"));
  EXPECT_THAT(state.stage_seconds, ElementsAre(Pair("calibrate", 1.5), Pair("quantize", 2.5)));
  EXPECT_EQ(state.scheduling.n_tasks, 4);
  EXPECT_THAT(state.work,
              ElementsAre(Pair("calibrate", ElementsAre(Pair("forward_tokens", 8.0), Pair("model_bytes", 42.5)))));
  EXPECT_EQ(state.peak_memory_bytes, 1000);
  EXPECT_EQ(state.damaged.at("model.norm.weight").values, 3);
  EXPECT_FALSE(state.finished);
  EXPECT_THAT(failures(state), ElementsAre(Pair("block 0 down", "lost"), Pair("c", "not finite"),
                                           Pair("model.norm.weight", "element [0] is nan")));
  EXPECT_THAT(state.versions, ElementsAre("1.0"));
}

TEST(Records, EveryTypeComesBackAsItWas) {
  StartRecord start = start_record(3, 2);
  start.pid = 9;
  start.host = "h";
  start.time = 1.5;
  start.model = "/m";
  start.version = "1.2.3";
  start.packages = {{"mpi", "Open MPI v4"}};
  start.directory = "/d";
  start.machine = {{"device", "cpu"}, {"hosts", {{"h", 2}}}};
  start.command = kCompare;
  start.options = {{"model", "m", true}, {"method", "rtn", false}};
  LayerRecord layer;
  layer.name = "a";
  layer.sha256 = "00";
  layer.generation = 2;
  layer.parent = "11";
  for (const Record& record :
       {Record(start), Record(SetRecord{"a=1"}), Record(layer), Record(LayerLost{"a", 1}),
        Record(LayerFailed{"a", "t", "e"}), Record(TensorRecord{"n", "00", 1, 3, ""}),
        Record(DamagedTensor{"n", 2, "e"}), Record(Quarantined{"t", "e"}), Record(TaskDone{"t", 1, 2, 0.5, 1.5}),
        Record(TaskFailed{"t", "e", 1, 2}), Record(StageTime{"s", 0.5, 1.5}), Record(StageDone{"s", 0.5}),
        Record(StageWork{"s", 2, {{"sent_bytes", 8.0}}}), Record(SchedulingCost{1, 2, 3, 4}), Record(PeakMemory{5}),
        Record(Stopped{1}), Record(Finished{1})}) {
    const core::Json json = to_json(record);
    const Record again = record_from_json(core::parse_json(json.dump(), "test"), "test", 1);
    EXPECT_EQ(again.index(), record.index()) << json;
    EXPECT_EQ(to_json(again), json);
  }
}

TEST(Records, UnknownTypeIsOfAnotherVersion) {
  const auto records = parse({R"({"type":"set","assignment":"a=1"})", R"({"type":"pruned","name":"a"})"});
  EXPECT_THAT(test::message_of<core::FormatError>([&] { replay(records, "RUN/journal.log"); }),
              AllOf(HasSubstr("RUN/journal.log"), HasSubstr("line 2"), HasSubstr("pruned"),
                    HasSubstr("another version"), HasSubstr("use that one")));
}

TEST(Records, AStartOfTheFirstVersionIsOfAnotherVersion) {
  EXPECT_THAT(test::message_of<core::FormatError>(
                  [] { replay(parse({R"({"type":"attempt","number":1,"ranks":2})"}), "RUN/journal.log"); }),
              AllOf(HasSubstr("line 1"), HasSubstr("attempt"), HasSubstr("another version")));
}

TEST(Records, WhatATypeNeedsIsNamed) {
  EXPECT_THAT(
      test::message_of<core::FormatError>([] { replay(parse({R"({"type":"stage","seconds":1})"}), "journal.log"); }),
      AllOf(HasSubstr("line 1"), HasSubstr("lacks"), HasSubstr("stage")));
}

TEST(Records, StagesThatEndedStandUntilSomethingIsTakenBack) {
  RunState state;
  apply(state, StageDone{"quantize", 1}, "journal.log");
  EXPECT_TRUE(state.stages_done.contains("quantize"));
  apply(state, LayerLost{"a", 0}, "journal.log");
  EXPECT_TRUE(state.stages_done.empty());
}

TEST(Resume, PathsAreOfTheDirectoryThatTheyWereGivenIn) {
  const store::RunPaths paths{"/r/it's mine"};
  RunState state;
  EXPECT_THAT(test::message_of<core::ConfigError>([&] { resume_options(paths, state); }),
              AllOf(HasSubstr("/r/it's mine"), HasSubstr("--model")));
  EXPECT_EQ(describe_resume(paths, state), "run the same quantize command again");
  StartRecord start = start_record(1, 3);
  start.directory = "/d/e";
  start.options = {{"model", "../m", true}, {"calibration-text", "/t", true}, {"method", "../rtn", false}};
  apply(state, start, "journal.log");
  const std::vector<GivenOption> options = resume_options(paths, state);
  ASSERT_EQ(options.size(), 3U);
  EXPECT_EQ(options[0].value, "/d/m");
  EXPECT_EQ(options[1].value, "/t");
  EXPECT_EQ(options[2].value, "../rtn");
  EXPECT_EQ(describe_resume(paths, state), R"(mpirun -n 3 voronoi quantize --run '/r/it'\''s mine')");
  start.number = 2;
  start.command = kCompare;
  apply(state, start, "journal.log");
  EXPECT_EQ(describe_resume(paths, state), R"(mpirun -n 3 voronoi compare --out '/r/it'\''s mine')");
}

}  // namespace
}  // namespace voronoi::run
