#include <gmock/gmock.h>

#include "support/markup.h"
#include "validation/report_figures.h"
#include "validation/report_html.h"
#include "validation/report_run_html.h"

namespace voronoi::validation {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string kHostileName = "<img src=x onerror=alert(1)>\"'&\x01";

core::Json row(const std::string& method, core::Json bits, const std::string& task, const std::string& metric,
               double value, core::Json error, core::Json reference) {
  return {{"model", "/models/" + method},
          {"method", method},
          {"label", method + " label"},
          {"bits_true", bits},
          {"bits_nominal", bits},
          {"task", task},
          {"metric", metric},
          {"value", value},
          {"stderr", error},
          {"n", 1000},
          {"protocol", {{"limit", 100}}},
          {"seconds", 1.5},
          {"reference", reference}};
}

LayerRow layer(const std::string& name, double error) {
  LayerRow row;
  row.name = name;
  row.weights = 1000;
  row.true_bits = 2.5;
  row.relative_error = error;
  row.calibration_tokens = 64;
  row.damping = 0.01;
  return row;
}

RunSection run_section_of(const std::string& name) {
  RunSection run;
  run.label = name;
  run.directory = "/runs/" + name;
  run.method = name;
  run.identity = {{"calibration", {{"sequences", 4}, {"context", 128}, {"mode", name}}},
                  {"quantization", {{"method", name}, {"seed", 7}}}};
  run.true_bits = 2.5;
  run.nominal_bits = 2;
  run.stage_seconds = {{"calibrate", 5}, {name, 10}};
  run.ranks = 2;
  run.starts = 1;
  for (const char* op : {"self_attn.q_proj", "mlp.down_proj"})
    for (const char* block : {"0", "1", "10"})
      run.layers.push_back(layer("model.layers." + std::string(block) + "." + op, 0.01));
  run.layers.push_back(layer(name, 0.5));
  run.layers.back().pooled_tokens = 10;
  run.layers.back().dead_inputs = 3;
  run.failures = {{name, name}};
  run.damaged = {{name, name, 3}};
  StartHistory start;
  start.record.number = 1;
  start.record.ranks = 2;
  start.record.host = name;
  start.record.model = "/models/" + name;
  start.record.version = name;
  start.record.machine = {{"device", "cpu"}, {"hosts", {{name, 2}}}, {"processors", {name}}};
  start.record.options = {{"method", name, false}};
  start.work = {0, 15};
  run.history.starts = {start};
  run.history.tasks = {{"block 0 " + name, 0, 1, {1, 5}}, {"block 1 down", 1, 2, {2, 9}}};
  run.history.stages = {{name, {0, 15}}};
  run.history.mishaps = {{name, name}};
  run.history.seconds = 15;
  run.tuning = core::Json::array(
      {{{"phase", name},
        {"sequences", 8},
        {"points",
         {{{"step", 0}, {"held_out_loss", 2.0}}, {{"step", 4}, {"training_loss", 1.5}, {"held_out_loss", 1.25}}}},
        {"ended", {{{"end", name}, {"best_step", 4}}}}},
       {{"phase", "block"},
        {"points", core::Json::array()},
        {"ended", {{{"block", 0}, {"first_loss", 2.0}, {"best_loss", 1.0}}}}}});
  return run;
}

Report hostile_report() {
  Report report;
  report.runs = {run_section_of(kHostileName)};
  report.rows.push_back(
      {row("unquantized", nullptr, kHostileName, "perplexity", 20, 0.5, nullptr), std::nullopt, std::nullopt});
  report.rows.push_back({row(kHostileName, 2.5, kHostileName, "perplexity", 25, 0.6, 20.0), 60.0, 1e9});
  return report;
}

test::Markup well_formed_page(const std::string& page) {
  const test::Markup markup = test::parse_markup(page);
  EXPECT_EQ(markup.problem, "");
  return markup;
}

TEST(Page, HostileNamesAreText) {
  const std::string page = report_html(hostile_report());
  well_formed_page(page);
  EXPECT_THAT(
      page, AllOf(Not(HasSubstr("<img")), Not(HasSubstr("<script")), HasSubstr("&lt;img src=x onerror=alert(1)&gt;")));
}

TEST(Page, NeedsNothingBesideItself) {
  const std::string page = report_html(hostile_report());
  for (const char* outside : {"http", "url(", "@import", "src=\"", "<link", "<iframe"})
    EXPECT_THAT(page, Not(HasSubstr(outside)));
  for (const test::Element& element : well_formed_page(page).elements)
    EXPECT_TRUE(element.name != "a" || element.attributes.starts_with(" href=\"#")) << element.attributes;
}

TEST(Page, EveryPictureHasItsTable) {
  const std::string page = report_html(hostile_report());
  const test::Markup markup = well_formed_page(page);
  EXPECT_GE(test::count_elements(markup, "svg"), 7U)
      << "perplexity, errors, bits, error by operator, two tunings, time";
  EXPECT_EQ(test::count_elements(markup, "svg"), test::count_elements(markup, "figure"));
  for (std::size_t begin = page.find("<figure"); begin != std::string::npos; begin = page.find("<figure", begin + 1)) {
    const std::string figure = page.substr(begin, page.find("</figure>", begin) - begin);
    ASSERT_NE(figure.find("<svg"), std::string::npos);
    EXPECT_NE(figure.find("<tbody>\n<tr>", figure.find("</svg>")), std::string::npos) << figure.substr(0, 200);
  }
}

TEST(Page, ShowsWhatWentWrong) {
  const std::string page = report_html(hostile_report());
  EXPECT_THAT(page, AllOf(HasSubstr("1 not quantized"), HasSubstr("Damaged tensors"), HasSubstr("Starved experts"),
                          HasSubstr("Numeric fallbacks"), HasSubstr("Overcome on the way")));
  Report clean = hostile_report();
  clean.runs[0].failures.clear();
  clean.runs[0].damaged.clear();
  clean.runs[0].history.mishaps.clear();
  clean.runs[0].layers.pop_back();
  const std::string good = report_html(clean);
  EXPECT_THAT(good, AllOf(HasSubstr("No layer failed."), HasSubstr("No damaged tensors"), HasSubstr("Damping: 0.01 of"),
                          Not(HasSubstr("Numeric fallbacks"))));
}

TEST(Page, FewFiguresAndNoLayersAreNoError) {
  Report empty;
  empty.runs.emplace_back();
  const std::string page = report_html(empty);
  well_formed_page(page);
  EXPECT_THAT(page, AllOf(HasSubstr("Nothing is evaluated yet"), HasSubstr("No layer is quantized yet")));
  empty.runs.clear();
  well_formed_page(report_html(empty));
}

TEST(Page, RunsOfSeveralMethodsBecomeATradeOff) {
  Report report;
  report.runs = {run_section_of("gptq"), run_section_of("vptq")};
  report.rows.push_back(
      {row("unquantized", nullptr, "wiki", "perplexity", 20, nullptr, nullptr), std::nullopt, std::nullopt});
  report.rows.push_back({row("gptq", 2.25, "wiki", "perplexity", 200, 3.0, 20.0), 60.0, 1e9});
  report.rows.push_back({row("vptq", 2.125, "wiki", "perplexity", 30, 0.5, 20.0), 120.0, 2e9});
  report.rows.push_back({row("vptq", 2.125, "arc_easy", "acc", 0.5, 0.01, 0.625), 120.0, 2e9});
  report.rows.push_back({row("vptq", 2.125, "piqa", "acc", 0.75, 0.01, 0.75), 120.0, 2e9});
  const std::string page = report_html(report);
  well_formed_page(page);
  EXPECT_THAT(page, AllOf(HasSubstr("wiki: perplexity over true bits a weight"), HasSubstr("minutes of quantization"),
                          HasSubstr("GiB of memory a rank"), HasSubstr("href=\"#run-2\""), HasSubstr("limit 100")));
  EXPECT_THAT(page, HasSubstr(">62.50<")) << "the mean of the questions";
}

TEST(Figures, ThePictureHasAPlotATextWithPerplexitiesOfSeveralRuns) {
  Report report = hostile_report();
  EXPECT_EQ(perplexity_picture(read_figures(report)), "") << "one run alone";
  report.rows.push_back({row("rtn", 2.25, kHostileName, "perplexity", 5e5, 3.0, 20.0), 60.0, 1e9});
  report.rows.push_back({row("rtn", 2.25, kHostileName, "acc", 0.5, 0.01, 0.625), 60.0, 1e9});
  report.rows.push_back({row("rtn", 2.25, "c4", "perplexity", 30, 1.0, 20.0), 60.0, 1e9});
  report.rows.push_back({row("vptq", 2.5, "c4", "perplexity", 25, 1.0, 20.0), 60.0, 1e9});
  const std::string picture = perplexity_picture(read_figures(report));
  EXPECT_EQ(well_formed_page(picture).problem, "");
  EXPECT_THAT(picture, AllOf(HasSubstr(">c4: perplexity over true bits a weight, less is better</text>"),
                             HasSubstr(">rtn 500\u202f000</text>"), HasSubstr("rtn label: 500\u202f000 at 2.25"),
                             Not(HasSubstr("accuracy")), Not(HasSubstr("<img"))));
}

TEST(Figures, RowsOfEarlierVersionsArePerplexities) {
  Report report;
  core::Json old{{"model", "m"},
                 {"method", "vptq"},
                 {"label", "vptq 2.08 bits"},
                 {"text", "/t/wiki.test.raw"},
                 {"context", 2048},
                 {"tokens", 32752},
                 {"perplexity", 24.5},
                 {"bits_true", 2.08},
                 {"bits_nominal", 2},
                 {"reference_perplexity", 20.5}};
  report.rows.push_back({old, std::nullopt, std::nullopt});
  report.rows.push_back({{{"model", "no figure"}}, std::nullopt, std::nullopt});
  const Figures figures = read_figures(report);
  ASSERT_EQ(figures.all.size(), 1U);
  EXPECT_EQ(figures.all[0].task, "wiki.test.raw");
  EXPECT_EQ(figures.all[0].metric, "perplexity");
  EXPECT_EQ(figures.all[0].n, 32752);
  EXPECT_THAT(figures.protocols, ElementsAre("context 2048, tokens 32752"));
  EXPECT_EQ(figures_sentence(figures),
            "On wiki.test.raw the perplexity is 24.5 beside 20.5 of the unquantized model (+19.5 %).");
}

TEST(Figures, OtherProtocolsAreNotCompared) {
  Report report;
  report.rows.push_back({row("a", 2, "wiki", "perplexity", 30, nullptr, nullptr), std::nullopt, std::nullopt});
  report.rows.push_back({row("b", 3, "wiki", "perplexity", 25, nullptr, nullptr), std::nullopt, std::nullopt});
  report.rows.back().evaluation["protocol"]["limit"] = 200;
  const Figures figures = read_figures(report);
  EXPECT_EQ(grouped(figures).size(), 2U);
}

TEST(History, PutsStartsBehindOneAnother) {
  std::vector<core::Json> records;
  for (const char* line :
       {R"({"type":"start","number":1,"ranks":2,"time":1000,"machine":{"device":"cuda","threads":4}})",
        R"({"type":"stage","stage":"calibrate","seconds":10,"end":1010})",
        R"({"type":"task_done","task":"block 0 qkv","rank":1,"width":1,"seconds":5,"end":1016})",
        R"({"type":"task_failed","task":"block 0 o","rank":0,"try":1,"error":"lost"})",
        R"({"type":"start","number":2,"ranks":1,"time":5000})",
        R"({"type":"task_done","task":"block 0 o","rank":0,"width":1,"seconds":3,"end":5004})",
        R"({"type":"task_done","task":"of an earlier version"})", R"({"type":"finished","time":5010})"})
    records.push_back(core::parse_json(line, "test"));
  const RunHistory history = read_history(records, "journal.log");
  ASSERT_EQ(history.starts.size(), 2U);
  EXPECT_EQ(history.starts[0].ended, "");
  EXPECT_EQ(history.starts[1].ended, "finished");
  EXPECT_DOUBLE_EQ(history.starts[1].work.begin, 16);
  ASSERT_EQ(history.tasks.size(), 2U);
  EXPECT_DOUBLE_EQ(history.tasks[0].work.begin, 11);
  EXPECT_DOUBLE_EQ(history.tasks[1].work.end, 20);
  EXPECT_DOUBLE_EQ(history.stages.at(0).work.end, 10);
  EXPECT_EQ(history.mishaps.size(), 1U);
  EXPECT_DOUBLE_EQ(history.seconds, 26);
  EXPECT_DOUBLE_EQ(history.rank_seconds, 2 * 16 + 10);
  EXPECT_DOUBLE_EQ(history.gpu_seconds, 32);
  EXPECT_DOUBLE_EQ(history.core_seconds, 4 * 32);
  EXPECT_THAT(read_history({}, "journal.log").starts, IsEmpty());
}

}  // namespace
}  // namespace voronoi::validation
