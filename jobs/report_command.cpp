#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "core/option.h"
#include "jobs/commands.h"
#include "validation/evaluation.h"
#include "validation/run_report.h"

namespace voronoi::jobs {

int report_main(const comm::Communicator& world, const Arguments& arguments) {
  std::vector<std::string> runs;
  std::string out;
  CommandSpec command;
  command.name = "report";
  command.summary = "Figures, pictures and tables of one or many runs: report.html, report.md and report.json.";
  command.usage = "voronoi report RUN [RUN ...] [--out DIR|FILE.html]";
  command.positional = "run";
  command.options = {
      core::list_option("run", "DIR", "run directory", runs),
      core::text_option("out", "DIR",
                        "where to write, a directory or the page's own name (FILE.html, with FILE.md and FILE.json "
                        "beside it); the first run's report directory unless given, if it can be written",
                        out)};
  command.examples = "  voronoi report runs/rtn runs/gptq runs/vptq runs/voronoi --out comparison\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  if (runs.empty()) throw core::ConfigError("report: which runs? give their directories");
  std::vector<store::RunPaths> paths;
  for (const std::string& run : runs) paths.push_back(store::RunPaths{run});
  const validation::RunReport report = validation::make_run_report(paths);
  fmt::print("{}", report.markdown);
  if (out.empty() && validation::is_read_only(paths.front())) {
    core::log_info("{}: is read-only, so the report is printed but not kept there; --out keeps it elsewhere",
                   paths.front().root.string());
    return 0;
  }
  const std::filesystem::path place = out.empty() ? paths.front().report() : std::filesystem::path(out);
  const bool names_page = place.extension() == ".html";
  const std::filesystem::path page =
      names_page ? validation::write_run_report(report, place.has_parent_path() ? place.parent_path() : ".",
                                                place.stem().string())
                 : validation::write_run_report(report, place);
  fmt::print("written: {}, with Markdown and JSON beside it\n", page.string());
  return 0;
}

}  // namespace voronoi::jobs
