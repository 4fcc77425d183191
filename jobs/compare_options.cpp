#include "jobs/compare_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <utility>

#include "core/option.h"
#include "core/words.h"
#include "jobs/presets.h"
#include "jobs/quantize_options.h"
#include "quant/method.h"
#include "quant/parameters.h"
#include "run/run_state.h"
#include "stages/stage.h"
#include "store/run_directory.h"

namespace voronoi::jobs {
namespace {

using Names = std::set<std::string, std::less<>>;

/// Of quantize, with a meaning for a single run only; and of the job as a whole: a run that goes on by itself makes
/// Hessians of its own.
const Names kOfOneRun{"run",
                      "method",
                      "bits",
                      "allocate",
                      "calibration",
                      "target",
                      "set",
                      "stages",
                      "export-format",
                      "export-profile",
                      "validate-text",
                      "validate-join",
                      "validate-context",
                      "validate-windows",
                      "validate-tasks",
                      "task-data",
                      "validate-limit",
                      "validate-shots"};
constexpr std::string_view kGuidedMetric = "guided-metric";
const Names kOfTheJob{"hessians-from", "keep-hessians"};
/// Of eval, which quantize has too, or which have no meaning for runs.
const Names kNotOfEval{"model", "tokenizer", "device", "dtype", "threads", "json", "reference"};

/// "2" of "2.0"; what is no number stays, and is told by the option's own check.
std::string shortest(const std::string& bits) {
  double value = 0;
  const auto [rest, error] = std::from_chars(bits.data(), bits.data() + bits.size(), value);
  return error == std::errc() && rest == bits.data() + bits.size() ? fmt::format("{:g}", value) : bits;
}

/// One run: its name, and what makes it differ from the others.
struct MemberSpec {
  std::string name;
  std::vector<std::string> arguments;
  std::string file;  ///< the config file of --member
};

bool is_of_the_job(const std::string& name) {
  const store::RunPaths job{"."};
  for (const std::filesystem::path& path : {job.staging(), job.layers(), job.hessians(), job.tuning(), job.quarantine(),
                                            job.evaluations(), job.exported(), job.report(), job.logs()})
    if (path.filename() == name) return true;
  return false;
}

MemberSpec method_spec(const std::string& method, const std::string& bits) {
  return {fmt::format("{}-{}bit", method, shortest(bits)), {"--method=" + method, "--bits=" + bits}, ""};
}

/// Whether a list that was not given, or names it, lets a word pass.
bool passes(const std::string& list, const std::string& word) {
  const std::vector<std::string> words = core::words_of_list(list);
  return words.empty() || std::any_of(words.begin(), words.end(), [&](const std::string& one) {
           return one == word || shortest(one) == shortest(word);
         });
}

/// Those of a preset; what is given for all takes the place of its settings.
void add_preset(const CompareOptions& o, const Names& given, std::vector<MemberSpec>& specs,
                std::vector<std::string>& problems) {
  for (const PresetMethod& method : find_preset(o.preset).methods)
    for (const std::string& bits : method.bits) {
      if (!passes(o.methods, method.method) || !passes(o.bits, bits)) continue;
      MemberSpec& spec = specs.emplace_back(method_spec(method.method, bits));
      for (const auto& [name, value] : method.settings)
        if (!given.contains(name)) spec.arguments.push_back(fmt::format("--{}={}", name, value));
    }
  if (specs.empty())
    problems.push_back(fmt::format("--preset: {} has none of --methods {} at --bits {}; --preset {} takes any",
                                   o.preset, o.methods.empty() ? "(all)" : o.methods, o.bits.empty() ? "(all)" : o.bits,
                                   kNoPreset));
}

/// given: names of the options that are for all.
std::vector<MemberSpec> member_specs(const CompareOptions& o, const Names& given, std::vector<std::string>& problems) {
  std::vector<MemberSpec> specs;
  const bool preset = o.preset != kNoPreset;
  if (preset)
    add_preset(o, given, specs, problems);
  else if (!o.methods.empty() && !o.bits.empty())
    for (const std::string& method : core::words_of_list(o.methods))
      for (const std::string& bits : core::words_of_list(o.bits)) specs.push_back(method_spec(method, bits));
  for (const std::string& file : o.members)
    specs.push_back({std::filesystem::path(file).stem().string(), {"--config=" + file}, file});
  if (!preset && o.methods.empty() != o.bits.empty())
    problems.emplace_back(o.bits.empty()
                              ? "--bits: is missing; --methods are compared at these bits, 2,3 for instance"
                              : "--methods: is missing; give the methods to compare, rtn,voronoi for instance");
  else if (!preset && specs.empty())
    problems.emplace_back("--methods: is missing; give --methods and --bits, --preset, or --member");
  std::set<std::string> names;
  for (const MemberSpec& spec : specs) {
    if (!names.insert(spec.name).second) problems.push_back(spec.name + ": is compared with itself; name it once");
    if (is_of_the_job(spec.name))
      problems.push_back(spec.name + ": is a directory of the comparison itself; give the config file another name");
  }
  return specs;
}

/// Whether quantize by itself would take guided Hessians for this method.
bool takes_guided(const std::string& method, const std::string& effort) {
  for (const auto& [option, value] : effort_options(effort, method))
    if (option == "hessian") return value == "guided";
  return false;
}

/// Calibration makes guided Hessians where one of the methods takes them; the others look at the plain ones beside
/// them. Each member then is what quantize by itself would make of it, unless the job's directory has begun
/// otherwise. metric_given: the job's own options say which ones they look at.
void choose_hessians(const run::Settings& job, std::vector<MemberSpec>& specs, bool metric_given,
                     std::vector<std::string>& of_all) {
  bool some = false;
  std::vector<MemberSpec*> plain;
  for (MemberSpec& spec : specs) {
    run::Settings settings;
    const ParseResult parsed = parse(quantize_command(settings), spec.arguments, true);
    const bool guided = takes_guided(settings.parameters.method, job.effort);
    some = some || guided;
    if (!guided && std::none_of(parsed.given.begin(), parsed.given.end(),
                                [](const run::GivenOption& option) { return option.name == kGuidedMetric; }))
      plain.push_back(&spec);
  }
  for (const auto& [option, value] : calibration_options(job.run))
    if (option == "hessian") some = value == "guided";
  of_all.emplace_back(some ? "--hessian=guided" : "--hessian=plain");
  if (some && !metric_given)
    for (MemberSpec* spec : plain) spec->arguments.push_back(fmt::format("--{}=false", kGuidedMetric));
}

/// Of a config file, what would make its run another calibration's.
std::vector<std::string> strange_options(const MemberSpec& spec, const std::vector<run::GivenOption>& given,
                                         const Names& shared, run::Settings& settings) {
  std::vector<std::string> problems;
  if (spec.file.empty()) return problems;
  Names own{"method", "bits", "run", "stages", kRuleOption};
  for (const core::OptionSpec& option : quant::parameter_options(settings.parameters)) own.insert(option.name);
  for (const run::GivenOption& option : given)
    if (option.name == "allocate")
      problems.push_back(spec.file +
                         ": allocate divides the bits of a single run; its allocation.cfg can be a --member");
    else if (!own.contains(option.name) && !shared.contains(option.name))
      problems.push_back(fmt::format("{}: {} is the same for all runs; give it to compare", spec.file, option.name));
  return problems;
}

/// "--name=value" of those that a command knows, `but` some.
std::vector<std::string> arguments_of(const CommandSpec& command, const std::vector<run::GivenOption>& given,
                                      const Names& but) {
  std::vector<std::string> arguments;
  for (const run::GivenOption& option : given) {
    const auto spec = std::find_if(command.options.begin(), command.options.end(),
                                   [&](const core::OptionSpec& known) { return known.name == option.name; });
    if (spec != command.options.end() && !but.contains(option.name))
      arguments.push_back("--" + option.name + (spec->argument.empty() ? "" : "=" + option.value));
  }
  return arguments;
}

}  // namespace

CommandSpec compare_command(CompareOptions& o) {
  CommandSpec command;
  command.name = "compare";
  command.summary =
      "Quantizes a model with several methods at several bits as one job, on one calibration, and evaluates the runs "
      "beside each other. Each is a run directory of its own; --out alone goes on with the options of the last start.";
  command.usage =
      "[mpirun -n RANKS] voronoi compare --model MODEL --out DIR --methods LIST --bits LIST --calibration-text FILE "
      "[--text FILE] [options]";
  std::vector<std::string> presets = preset_names();
  presets.insert(presets.begin(), kNoPreset);
  command.options = {
      core::text_option("out", "DIR", "directory of the runs, of the table and the report", o.shared.run),
      core::text_option("methods", "LIST", "methods to compare, separated by commas", o.methods),
      core::text_option("bits", "LIST", "bits to compare them at, separated by commas: --bits of quantize", o.bits),
      core::as_path(core::list_option("member", "FILE",
                                      "one more run, called by the file's name: a config file with its method and "
                                      "settings",
                                      o.members)),
      core::choice_option("preset",
                          "methods at bits that a table of all of them has, with what is measured of them; --methods "
                          "and --bits choose among them",
                          o.preset, presets),
  };
  for (core::OptionSpec& option : eval_command(o.eval).options)
    if (!kNotOfEval.contains(option.name)) command.options.push_back(std::move(option));
  for (core::OptionSpec& option : quantize_command(o.shared).options)
    if (!kOfOneRun.contains(option.name)) command.options.push_back(std::move(option));
  command.examples =
      "  mpirun -n 2 voronoi compare --model SmolLM2-135M --out comparison --methods rtn,gptq,vptq,voronoi --bits 2,3 "
      "--calibration-text wiki.txt --text wiki.test.raw --join wikitext --windows 16\n"
      "  # all methods of the field at 2, 3 and 4 bits, two texts, questions\n"
      "  mpirun -n 2 voronoi compare --preset paper --model SmolLM2-135M --out table --calibration-text c4.jsonl "
      "--text wiki.test.raw --text c4.val.jsonl --text-names W2,C4 --join wikitext,jsonl "
      "--task-data qa\n"
      "  # after any interruption\n"
      "  mpirun -n 2 voronoi compare --out comparison\n"
      "The runs are comparison/METHOD-BITSbit, for status, export, eval, generate and quantize --run alike; the table "
      "is comparison/compare.md and compare.csv, the picture of perplexity over bits compare.svg.\n"
      "Exit codes: those of quantize; 4 where some run has failures.\n";
  return command;
}

std::vector<run::Settings> member_settings(const CompareOptions& o, const std::vector<run::GivenOption>& given,
                                           std::vector<std::string>& problems) {
  run::Settings scratch;
  Names not_shared = kOfOneRun, shared;
  not_shared.insert(kOfTheJob.begin(), kOfTheJob.end());
  std::vector<std::string> of_all = arguments_of(quantize_command(scratch), given, not_shared);
  for (const run::GivenOption& option : given) shared.insert(option.name);
  if (o.shared.effort == "best")
    problems.emplace_back(
        "--effort: best divides the bits of a run by Hessians of all its blocks, and runs are compared block by "
        "block; compare at normal, or give the allocation.cfg that a run made as a --member");
  std::vector<MemberSpec> specs = member_specs(o, shared, problems);
  for (const auto& [option, value] : calibration_options(o.shared.run))
    if (option == "calibration-duplicates" && shared.insert(option).second)
      of_all.push_back(fmt::format("--{}={}", option, value));
  if (shared.insert("hessian").second) choose_hessians(o.shared, specs, shared.contains(kGuidedMetric), of_all);
  std::vector<std::pair<std::string, std::vector<std::string>>> found;  // problem -> names of the runs that have it
  const auto add = [&](const std::string& name, const std::string& problem) {
    const auto known =
        std::find_if(found.begin(), found.end(), [&](const auto& other) { return other.first == problem; });
    if (known == found.end())
      found.push_back({problem, {name}});
    else
      known->second.push_back(name);
  };
  std::vector<run::Settings> members(specs.size());  // options keep their addresses
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const MemberSpec& spec = specs[i];
    run::Settings& settings = members[i];
    std::vector<std::string> arguments = of_all;
    arguments.insert(arguments.end(), spec.arguments.begin(), spec.arguments.end());
    arguments.push_back("--run=" + (std::filesystem::path(o.shared.run) / spec.name).string());
    arguments.emplace_back(o.shared.tune == "none" ? "--stages=calibrate,quantize,report"
                                                   : "--stages=calibrate,quantize,tune,report");
    const ParseResult parsed = parse(quantize_command(settings), arguments, true);
    for (const run::GivenOption& option : parsed.given)
      if (option.name != "run") settings.given.push_back(option);
    complete(parsed.given, settings);
    std::vector<std::string> own = parsed.problems;
    for (const auto& more :
         {strange_options(spec, parsed.given, shared, settings), run::check(settings), stages::check_stages(settings)})
      own.insert(own.end(), more.begin(), more.end());
    for (const std::string& problem : own) add(spec.name, problem);
  }
  for (const auto& [problem, names] : found) {
    const bool of_every_run = names.size() == specs.size() && specs.size() > 1;
    const std::string text = of_every_run ? problem : fmt::format("{}: {}", fmt::join(names, ", "), problem);
    if (std::find(problems.begin(), problems.end(), text) == problems.end()) problems.push_back(text);
  }
  return members;
}

std::vector<run::GivenOption> preset_options(const CompareOptions& now, const std::vector<run::GivenOption>& given) {
  CompareOptions all = now;
  Names known;
  for (const run::GivenOption& option : given) {
    known.insert(option.name);
    if (option.name == "preset" && now.preset == kNoPreset) all.preset = option.value;
    if (option.name == "task-data") all.eval.task_data = option.value;
  }
  std::vector<run::GivenOption> options = given;
  if (all.preset == kNoPreset) return options;
  const Preset preset = find_preset(all.preset);
  OptionValues values = preset.options;
  if (!all.eval.task_data.empty() && !preset.tasks.empty()) values.emplace_back("tasks", preset.tasks);
  for (const auto& [name, value] : values)
    if (!known.contains(name)) options.push_back({name, value, false});
  return options;
}

std::vector<std::string> eval_arguments(const std::vector<run::GivenOption>& given,
                                        const std::vector<run::Settings>& members) {
  EvalOptions scratch;
  std::vector<std::string> arguments = arguments_of(eval_command(scratch), given, {"model"});
  for (const run::Settings& member : members) arguments.push_back("--model=" + member.run);
  return arguments;
}

}  // namespace voronoi::jobs
