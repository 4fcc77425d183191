#include "jobs/compare_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <utility>

#include "core/option.h"
#include "jobs/quantize_options.h"
#include "quant/parameters.h"
#include "run/run_state.h"
#include "stages/stage.h"

namespace voronoi::jobs {
namespace {

const std::set<std::string, std::less<>> kOfEachRun{"run", "method", "bits"};
/// Of quantize, with a meaning for a single run only.
const std::set<std::string, std::less<>> kOfOneRun{"run", "method", "bits",          "calibration",
                                                   "set", "stages", "export-profile"};
/// Of the job as a whole: a run that goes on by itself makes Hessians of its own.
const std::set<std::string, std::less<>> kOfTheJob{"hessians-from", "keep-hessians"};

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    words.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

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

std::vector<MemberSpec> member_specs(const CompareOptions& o, std::vector<std::string>& problems) {
  std::vector<MemberSpec> specs;
  if (!o.methods.empty() && !o.bits.empty())
    for (const std::string& method : split(o.methods))
      for (const std::string& bits : split(o.bits))
        specs.push_back(
            {fmt::format("{}-{}bit", method, shortest(bits)), {"--method=" + method, "--bits=" + bits}, ""});
  for (const std::string& file : o.members)
    specs.push_back({std::filesystem::path(file).stem().string(), {"--config=" + file}, file});
  if (o.methods.empty() != o.bits.empty())
    problems.emplace_back(o.bits.empty()
                              ? "--bits: is missing; --methods are compared at these bits, 2,3 for instance"
                              : "--methods: is missing; give the methods to compare, rtn,voronoi for instance");
  else if (specs.empty())
    problems.emplace_back("--methods: is missing; give --methods and --bits, or --member");
  std::set<std::string> names;
  for (const MemberSpec& spec : specs)
    if (!names.insert(spec.name).second) problems.push_back(spec.name + ": is compared with itself; name it once");
  return specs;
}

/// Of a config file, what would make its run another calibration's.
std::vector<std::string> strange_options(const MemberSpec& spec, const std::vector<run::GivenOption>& given,
                                         const std::set<std::string>& shared, run::Settings& settings) {
  std::vector<std::string> problems;
  if (spec.file.empty()) return problems;
  std::set<std::string> own{"method", "bits", "run", "stages"};
  for (const core::OptionSpec& option : quant::parameter_options(settings.parameters)) own.insert(option.name);
  for (const run::GivenOption& option : given)
    if (!own.contains(option.name) && !shared.contains(option.name))
      problems.push_back(fmt::format("{}: {} is the same for all runs; give it to compare", spec.file, option.name));
  return problems;
}

/// "--name=value" of what all runs share.
std::vector<std::string> shared_arguments(const CommandSpec& quantize, const std::vector<run::GivenOption>& given,
                                          std::set<std::string>& names) {
  std::vector<std::string> arguments;
  for (const run::GivenOption& option : given) {
    const auto spec = std::find_if(quantize.options.begin(), quantize.options.end(),
                                   [&](const core::OptionSpec& known) { return known.name == option.name; });
    if (spec == quantize.options.end() || kOfOneRun.contains(option.name) || kOfTheJob.contains(option.name)) continue;
    arguments.push_back("--" + option.name + (spec->argument.empty() ? "" : "=" + option.value));
    names.insert(option.name);
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
  command.options = {
      core::text_option("out", "DIR", "directory of the runs, of the table and the report", o.shared.run),
      core::text_option("methods", "LIST", "methods to compare, separated by commas", o.methods),
      core::text_option("bits", "LIST", "bits to compare them at, separated by commas: --bits of quantize", o.bits),
      core::as_path(core::list_option("member", "FILE",
                                      "one more run, called by the file's name: a config file with its method and "
                                      "settings",
                                      o.members)),
      core::as_path(core::list_option("text", "FILE", "evaluation text; without one nothing is evaluated", o.texts)),
      core::choice_option("join", "how an evaluation text becomes one; auto: jsonl by name, else raw", o.join,
                          {"auto", "raw", "wikitext", "jsonl"}),
      core::integer_option("context", "tokens a window of evaluation", o.context, 2, 1 << 24),
      core::integer_option("windows", "at most so many windows from the start; 0 for all", o.windows, 0,
                           std::int64_t{1} << 40),
      core::integer_option("batch-windows", "windows a rank takes through the blocks at a time; 0: as fit 512 MiB",
                           o.batch, 0, 1 << 20),
      core::choice_option("bos", "BOS before an evaluation text; auto: the tokenizer's own rule", o.bos,
                          {"auto", "always", "never"}),
  };
  for (core::OptionSpec& option : quantize_command(o.shared).options)
    if (!kOfOneRun.contains(option.name)) command.options.push_back(std::move(option));
  command.examples =
      "  mpirun -n 2 voronoi compare --model SmolLM2-135M --out comparison --methods rtn,gptq,vptq,voronoi --bits 2,3 "
      "--calibration-text wiki.txt --text wiki.test.raw --join wikitext --windows 16\n"
      "  # after any interruption\n"
      "  mpirun -n 2 voronoi compare --out comparison\n"
      "The runs are comparison/METHOD-BITSbit, for status, export, eval, generate and quantize --run alike; the table "
      "is comparison/compare.md and compare.csv.\n"
      "Exit codes: those of quantize; 4 where some run has failures.\n";
  return command;
}

std::vector<run::Settings> member_settings(const CompareOptions& o, const std::vector<run::GivenOption>& given,
                                           std::vector<std::string>& problems) {
  const std::vector<MemberSpec> specs = member_specs(o, problems);
  run::Settings scratch;
  std::set<std::string> shared;
  const std::vector<std::string> of_all = shared_arguments(quantize_command(scratch), given, shared);
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

std::vector<std::string> eval_arguments(const CompareOptions& o, const std::vector<run::Settings>& members) {
  std::vector<std::string> arguments;
  for (const run::Settings& member : members) arguments.push_back("--model=" + member.run);
  for (const std::string& text : o.texts) arguments.push_back("--text=" + text);
  arguments.push_back("--join=" + o.join);
  arguments.push_back("--bos=" + o.bos);
  arguments.push_back(fmt::format("--context={}", o.context));
  arguments.push_back(fmt::format("--windows={}", o.windows));
  arguments.push_back(fmt::format("--batch-windows={}", o.batch));
  arguments.push_back("--device=" + o.shared.device);
  arguments.push_back("--dtype=" + o.shared.dtype);
  arguments.push_back(fmt::format("--threads={}", o.shared.threads));
  if (!o.shared.tokenizer.empty()) arguments.push_back("--tokenizer=" + o.shared.tokenizer);
  return arguments;
}

}  // namespace voronoi::jobs
