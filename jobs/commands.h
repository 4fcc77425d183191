// The subcommands. Each parses its own arguments (without program and command name) and returns the exit code; errors
// are thrown.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "comm/mpi.h"
#include "jobs/command_line.h"

namespace voronoi::jobs {

using Arguments = std::vector<std::string>;

/// one: others may be started under mpirun too, but only rank 0 does anything. as_launched: as many as mpirun or srun
/// started; by itself it does not start MPI, which takes its time. many: always by MPI.
enum class Ranks { one, as_launched, many };

struct Command {
  std::string_view name, summary;
  Ranks ranks = Ranks::one;
  int (*run)(const comm::Communicator& world, const Arguments& arguments);
  /// Whether SIGTERM and SIGUSR1 ask it to stop in order (exit code 75); others end at once.
  bool stops_on_request = false;
};

const std::vector<Command>& commands();

int quantize_main(const comm::Communicator& world, const Arguments& arguments);
int compare_main(const comm::Communicator& world, const Arguments& arguments);
int submit_main(const comm::Communicator& world, const Arguments& arguments);
int eval_main(const comm::Communicator& world, const Arguments& arguments);
int score_main(const comm::Communicator& world, const Arguments& arguments);
int generate_main(const comm::Communicator& world, const Arguments& arguments);
int status_main(const comm::Communicator& world, const Arguments& arguments);
int inspect_main(const comm::Communicator& world, const Arguments& arguments);
int export_main(const comm::Communicator& world, const Arguments& arguments);
int verify_main(const comm::Communicator& world, const Arguments& arguments);
int plan_main(const comm::Communicator& world, const Arguments& arguments);
int report_main(const comm::Communicator& world, const Arguments& arguments);

/// Throws ConfigError with every problem; returns true when --help was asked for and printed (on rank 0).
bool help_or_problems(const comm::Communicator& world, const CommandSpec& command, const ParseResult& result,
                      bool with_config_file, const std::vector<std::string>& further_problems = {});
/// The same of arguments.
bool parse_or_help(const comm::Communicator& world, const CommandSpec& command, const Arguments& arguments,
                   bool with_config_file, const std::vector<std::string>& further_problems = {});

}  // namespace voronoi::jobs
