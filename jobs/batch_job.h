// A batch job for Slurm: the script of a run, made from slurm/quantize.sbatch, and its submission.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::jobs {

/// Options of sbatch as the user gave them, words.
class SbatchWords {
 public:
  explicit SbatchWords(std::vector<std::string> words) : words_(std::move(words)) {}
  /// The last value of an option, "--nodes=2", "--nodes 2", "-N 2" or "-N2"; `letter` '\0': it has no short form.
  std::optional<std::string> value(std::string_view name, char letter = '\0') const;
  bool has(std::string_view name, char letter = '\0') const { return value(name, letter).has_value(); }
  /// The number at the beginning of the value ("2-4"), or at the end of the last part of it behind a colon
  /// ("gpu:h100:8"); 0: none.
  int number(std::string_view name, char letter = '\0') const;
  const std::vector<std::string>& words() const { return words_; }

 private:
  std::vector<std::string> words_;
};

/// Where slurm/quantize.sbatch lies.
struct BatchScripts {
  std::filesystem::path root;    ///< of the project, or prefix of an installation: VORONOI_ROOT for the job
  std::filesystem::path folder;  ///< root/slurm or root/share/voronoi/slurm
};
/// VORONOI_ROOT's, or else those beside this program. Throws ConfigError naming where it looked.
BatchScripts find_batch_scripts();
/// This program's file; empty where the system does not tell.
std::filesystem::path program_file();

struct BatchJob {
  std::string note;                  ///< a line of comment
  std::vector<std::string> planned;  ///< options of sbatch
  std::vector<std::string> given;    ///< the same by the user, which win
  std::vector<std::string> words;    ///< arguments of slurm/quantize.sbatch
  std::string root, program;         ///< VORONOI_ROOT and VORONOI of the job; program empty: the job finds its own
};
/// The script, made of the text of slurm/quantize.sbatch: its #SBATCH lines, then those of the job, then the rest with
/// the arguments set. Throws ConfigError for an option that cannot stand in a line.
std::string batch_script(const std::string& original, const BatchJob& job);

/// Submits a script file by the sbatch on PATH; the job's number. Throws Error (system) when there is no sbatch, or
/// when it refuses, which it has then told on stderr.
std::string submit_script(const std::filesystem::path& script);

}  // namespace voronoi::jobs
