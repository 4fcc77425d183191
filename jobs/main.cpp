// Subcommands, exit codes, and the one place that catches.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <system_error>

#include "comm/agreement.h"
#include "comm/mpi.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/mapped_file.h"
#include "core/output.h"
#include "core/stop.h"
#include "core/version.h"
#include "jobs/commands.h"

namespace {

using namespace voronoi;

std::string overview() {
  std::string text =
      "voronoi: compresses large language models with vector quantization, on one machine or a cluster.\n\n"
      "Usage: voronoi COMMAND [options]      (mpirun -n RANKS voronoi COMMAND for quantize, compare, eval, score and "
      "verify)\n\n";
  for (const jobs::Command& command : jobs::commands())
    text += fmt::format("  {:<10}{}\n", command.name, command.summary);
  return text +
         "\nvoronoi COMMAND --help shows options and examples.\n"
         "Exit codes: 0 done, 2 usage, 3 bad data, 4 finished but some layers failed, 5 system, 74 a fault of the "
         "node (its GPU or the way to disk or network) that another may not have, 75 stopped on request and "
         "resumable.\n";
}

/// The table's entry, or null.
const jobs::Command* find_command(std::string_view name) {
  const auto& table = jobs::commands();
  const auto found = std::find_if(table.begin(), table.end(), [&](const jobs::Command& c) { return c.name == name; });
  return found == table.end() ? nullptr : &*found;
}

/// Others start in a hundredth of the time, and where MPI cannot.
bool needs_mpi(const jobs::Command* command, const jobs::Arguments& arguments) {
  return command != nullptr &&
         (command->ranks == jobs::Ranks::many || (command->ranks == jobs::Ranks::as_launched && comm::is_launched())) &&
         std::find(arguments.begin(), arguments.end(), "--help") == arguments.end();
}

int run_command(const comm::Communicator& world, const jobs::Arguments& arguments) {
  const bool root = world.rank() == 0;
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "help") {
    if (root) fmt::print("{}", overview());
    return arguments.empty() ? static_cast<int>(core::ExitCode::usage) : 0;
  }
  if (arguments[0] == "--version") {
    if (root) fmt::print("voronoi {}\n", core::program_version());
    return 0;
  }
  const jobs::Command* command = find_command(arguments[0]);
  int code = 0;
  comm::together(world, [&] {
    if (command == nullptr)
      throw core::ConfigError("there is no command '" + arguments[0] + "'; voronoi --help lists them");
  });
  const jobs::Arguments rest(arguments.begin() + 1, arguments.end());
  if (command->ranks != jobs::Ranks::one) return command->run(world, rest);
  comm::on_root(world, [&] { code = command->run(world, rest); });
  return code;
}

/// The error as a person should read it; the exit code.
int report_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const core::StopRequested& stop) {
    core::log_info("{}", stop.what());
    return static_cast<int>(stop.exit_code());
  } catch (const core::Error& known) {
    core::log_error("{}", known.what());
    return static_cast<int>(known.exit_code());
  } catch (const std::filesystem::filesystem_error& unknown) {
    const std::filesystem::path& place = unknown.path2().empty() ? unknown.path1() : unknown.path2();
    core::log_error("{}", core::system_error(place, "be used", unknown.code().value()).what());
  } catch (const std::system_error& unknown) {
    // The only one of our own is of printing a result.
    core::log_error("{}",
                    std::ferror(stdout) != 0 ? core::output_error(unknown.code().value()).what() : unknown.what());
  } catch (const std::bad_alloc&) {
    core::log_error("out of memory; use more ranks or a machine with more of it");
  } catch (const std::exception& unknown) {
    core::log_error("unexpected: {}", unknown.what());
  }
  return static_cast<int>(core::ExitCode::system);
}

}  // namespace

int main(int argc, char** argv) {
  int code = 0;
  try {
    // Before MPI starts, which takes its time: a signal must not end one rank and leave the others waiting for it.
    const jobs::Command* command = argc > 1 ? find_command(argv[1]) : nullptr;
    if (command && command->stops_on_request) core::install_stop_handlers();
    std::optional<comm::Environment> environment;
    if (needs_mpi(command, jobs::Arguments(argv + 1, argv + argc)))
      environment.emplace(&argc, &argv);
    else if (comm::launched_rank() != 0)
      return 0;
    const comm::Communicator world = environment ? comm::Communicator::world() : comm::Communicator::alone();
    core::configure_log(world.size() > 1 ? world.rank() : -1, core::LogLevel::info);
    core::report_lost_pages(world.size() > 1 ? world.rank() : -1);
    try {
      code = run_command(world, jobs::Arguments(argv + 1, argv + argc));
      core::flush_output();
    } catch (const comm::FailedElsewhere& elsewhere) {
      code = elsewhere.exit_code;  // the rank that failed has said why
    } catch (const comm::AgreedError& agreed) {
      code = report_error(agreed.error);
    } catch (...) {
      code = report_error(std::current_exception());
      // The other ranks may be waiting for this one.
      if (world.size() > 1) comm::Environment::abort(code);
    }
  } catch (...) {
    code = report_error(std::current_exception());
  }
  return code;
}
