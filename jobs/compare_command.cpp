// `voronoi compare`: one calibration, all runs on it, one evaluation of all, the table.
#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>

#include "backend/machine.h"
#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/output.h"
#include "core/whereabouts.h"
#include "jobs/commands.h"
#include "jobs/compare_options.h"
#include "jobs/presets.h"
#include "jobs/quantize_options.h"
#include "model/corpus.h"
#include "run/resume.h"
#include "run/run.h"
#include "stages/inputs.h"
#include "stages/stage.h"
#include "stages/work.h"
#include "validation/comparison.h"
#include "validation/qa.h"
#include "validation/quoted.h"
#include "validation/run_report.h"
#include "validation/text_evaluation.h"

namespace voronoi::jobs {
namespace {

constexpr const char *kMarkdown = "compare.md", *kCsv = "compare.csv", *kQuotedCsv = "quoted.csv",
                     *kPicture = "compare.svg";

/// Whether the work, which is collective, ended because of a request to stop; other exceptions go on.
bool stopped_within(const std::function<void()>& work) {
  try {
    work();
    return false;
  } catch (const core::StopRequested&) {
    return true;
  } catch (const comm::FailedElsewhere& elsewhere) {
    if (elsewhere.exit_code != static_cast<int>(core::ExitCode::stopped)) throw;
    return true;
  } catch (const comm::AgreedError& agreed) {
    try {
      std::rethrow_exception(agreed.error);
    } catch (const core::StopRequested&) {
      return true;
    } catch (...) {
    }
    throw;
  }
}

class CompareJob {
 public:
  CompareJob(const comm::Communicator& world, CompareOptions options, std::vector<run::Settings> members)
      : world_(world), o_(std::move(options)), members_(std::move(members)) {
    for (const run::Settings& member : members_) paths_.push_back(store::RunPaths{member.run});
  }

  core::ExitCode run() {
    bool stopped = quantize();
    if (!stopped && (!o_.eval.text.texts.empty() || !o_.eval.tasks.empty())) stopped = evaluate();
    if (!stopped) comm::on_root(world_, [&] { write_table(); });
    run::end_start(world_, job_, stopped);
    if (!stopped) return failed_ ? core::ExitCode::partial : core::ExitCode::ok;
    if (world_.rank() == 0)
      core::log_info("stopped on request; run the same command again to resume, or: {}",
                     run::describe_resume(job_.paths, job_.state));
    return core::ExitCode::stopped;
  }

 private:
  /// All runs to the end of their stages; whether that was stopped.
  bool quantize() {
    std::unique_ptr<backend::Context> context;
    stages::Inputs inputs;
    comm::together(world_, [&] {
      context = backend::make_context(o_.shared.device, o_.shared.threads, world_);
      std::vector<run::Settings*> settings;
      for (run::Settings& member : members_) settings.push_back(&member);
      for (const auto* texts : {&o_.shared.calibration_texts, &o_.eval.text.texts})
        model::require_files(*texts, world_.size());
      inputs = stages::open_inputs(settings, *context);
      validation::check_texts(o_.eval.text, *inputs.tokenizer, *inputs.chat);
      validation::check_tasks(questions_of(o_.eval).questions);
      if (o_.preset == kNoPreset) return;
      view_.brief = true;
      if (find_preset(o_.preset).quoted) view_.quoted = validation::quoted_figures(inputs.model->config());
    });
    const core::Json machine = backend::machine_facts(*context, world_);
    job_ = run::open_run(world_, o_.shared, identity_of(inputs, {{"method", std::string(run::kCompare)}}), machine);
    std::vector<run::Run> runs;
    for (const run::Settings& member : members_)
      runs.push_back(run::open_run(world_, member, identity_of(inputs, run::run_parameters(member).json()), machine));
    run::log_into(job_, world_.rank());
    std::vector<run::Run*> pointers;
    for (run::Run& run : runs) pointers.push_back(&run);
    if (world_.rank() == 0)
      for (const run::Run& run : runs)
        if (run.state.start > 1)
          core::log_info("{}: start {}, {} layers are done already", run.paths.root.string(), run.state.start,
                         run.state.layers.size());

    stages::Work work(world_, *context, o_.shared, inputs, job_, pointers);
    stages::run_stages(work);
    if (world_.rank() == 0) quantized_ = work.heartbeat("quantize", "");
    bool stopped = work.stopped;
    for (std::size_t i = 0; i < runs.size() && !stopped; ++i) {
      run::Settings rest = members_[i];
      rest.stages = rest.tune == "none" ? "report" : "tune,report";
      stages::Work own(world_, *context, rest, inputs, runs[i]);
      stages::run_stages(own);
      stopped = own.stopped;
    }
    for (run::Run& run : runs) failed_ |= run::end_start(world_, run, stopped);
    return stopped;
  }

  static core::Json identity_of(const stages::Inputs& inputs, core::Json quantization) {
    core::Json identity = inputs.identity;
    identity["quantization"] = std::move(quantization);
    return identity;
  }

  bool evaluate() {
    if (world_.rank() == 0) {
      core::show_progress("evaluating", true);
      quantized_.stage = "evaluate";
      quantized_.doing = "";
      job_.heartbeat->update(quantized_);
    }
    return stopped_within([&] { eval_main(world_, eval_arguments(o_.shared.given, members_)); });
  }

  void write_table() const {
    job_.start->require_current();
    const validation::Comparison comparison = validation::make_comparison(paths_, view_);
    core::write_file_shared(job_.paths.root / kMarkdown, comparison.markdown);
    core::write_file_shared(job_.paths.root / kCsv, comparison.csv);
    if (!comparison.quoted_csv.empty()) core::write_file_shared(job_.paths.root / kQuotedCsv, comparison.quoted_csv);
    const validation::RunReport report = validation::make_run_report(paths_, view_.quoted);
    if (!report.picture.empty()) core::write_file_shared(job_.paths.root / kPicture, report.picture);
    const std::filesystem::path page = validation::write_run_report(report, job_.paths.report());
    fmt::print("{}", comparison.text);
    core::flush_output();
    core::log_info("table: {} and {}; {}report: {}", (job_.paths.root / kMarkdown).string(), kCsv,
                   report.picture.empty() ? "" : fmt::format("picture: {}; ", kPicture), page.string());
  }

  const comm::Communicator& world_;
  CompareOptions o_;
  std::vector<run::Settings> members_;
  std::vector<store::RunPaths> paths_;  // of the members
  run::Run job_;
  run::Heartbeat quantized_;  // behind the quantization; rank 0
  bool failed_ = false;       // something of a member
  validation::ComparisonView view_;
};

}  // namespace

int compare_main(const comm::Communicator& world, const Arguments& arguments) {
  CompareOptions options;
  std::vector<run::Settings> members;
  bool help = false;
  comm::together(world, [&] {
    const CommandSpec command = compare_command(options);
    CompareOptions before;
    const bool asks = parse(compare_command(before), arguments, true).help;
    const bool whole = !before.shared.model.empty() && names_texts(before.shared);
    std::vector<run::GivenOption> earlier;
    if (!asks && !whole) earlier = options_of_start(before.shared.run, run::kCompare);
    const ParseResult parsed = parse(command, arguments, true, asks ? earlier : preset_options(before, earlier));
    if (asks) {
      help = help_or_problems(world, command, parsed, true);
      return;
    }
    for (const run::GivenOption& option : parsed.given)
      if (option.name != "out") options.shared.given.push_back(option);
    std::vector<std::string> problems;
    if (options.shared.run.empty()) problems.emplace_back("--out: is missing; give the directory to write to");
    for (std::string& problem : evaluation_problems(options.eval)) problems.push_back(std::move(problem));
    members = member_settings(options, parsed.given, problems);
    help_or_problems(world, command, parsed, true, problems);
  });
  if (help) return 0;
  options.shared.command = run::kCompare;
  options.shared.hessian = members.front().hessian;  // of all
  options.shared.stages = "calibrate,quantize";
  options.shared.parameters = {};  // the members have them
  options.shared.rules = {};
  core::configure_log(world.size() > 1 ? world.rank() : -1, log_level(options.shared.log_level));
  return static_cast<int>(CompareJob(world, std::move(options), std::move(members)).run());
}

}  // namespace voronoi::jobs
