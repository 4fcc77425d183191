// The run directory's layout and identity.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"

namespace voronoi::store {

/// Paths only; creates nothing.
struct RunPaths {
  std::filesystem::path root;
  std::filesystem::path identity() const { return root / "run.json"; }
  std::filesystem::path journal() const { return root / "journal.log"; }
  std::filesystem::path lock() const { return root / "lock.json"; }
  std::filesystem::path status() const { return root / "status.json"; }
  std::filesystem::path metrics() const { return root / "metrics.prom"; }
  std::filesystem::path staging() const { return root / "staging"; }
  std::filesystem::path layers() const { return root / "layers"; }
  /// layers/<name>.h5, from generation 1 on layers/<name>.g<generation>.h5; a name with a slash is refused.
  std::filesystem::path layer(const std::string& name, std::int64_t generation = 0) const;
  std::filesystem::path hessians() const { return root / "hessians"; }
  std::filesystem::path hessian(std::int64_t block, const std::string& site)
      const;  ///< hessians/block_007.down.h5, block_007.expert.3.down.h5; no slash
  /// hessians/tokens_0007.h5: what the tokens of a chunk count.
  std::filesystem::path token_weights(std::int64_t chunk) const;
  std::filesystem::path tuning() const { return root / "tuning"; }
  /// tuning/<phase>.h5: what a phase of tuning goes on from.
  std::filesystem::path tuning_state(const std::string& phase) const { return tuning() / (phase + ".h5"); }
  /// tuning/codes.block_<3 digits>.step_<step>.h5: what moves the codes of a block, as of a step.
  std::filesystem::path tuning_buffers(std::int64_t block, std::int64_t step) const;
  std::filesystem::path quarantine() const { return root / "quarantine"; }
  std::filesystem::path evaluations() const { return root / "evaluations"; }
  std::filesystem::path allocation() const { return root / "allocation.cfg"; }
  std::filesystem::path exported() const { return root / "export"; }
  /// What will be `exported()`.
  std::filesystem::path unfinished_export() const { return root / "export.unfinished"; }
  std::filesystem::path report() const { return root / "report"; }
  std::filesystem::path logs() const { return root / "logs"; }
};

/// Creates root and sub-directories; throws StoreError with the remedy when it cannot be written, and ConfigError when
/// `root` exists, is not empty and is not a run directory.
void create_run_directory(const RunPaths& paths);

/// The same checks without writing anything: what would keep a run from being made or continued there, empty when
/// nothing is known to.
std::vector<std::string> run_directory_problems(const RunPaths& paths);

class Start;

/// First start: writes run.json = identity (with its checksum). Later: compares; throws ConfigError listing every
/// difference as "key: was A, is B" with the remedy (another --run, or the old settings).
void check_or_write_identity(const Start& start, const core::Json& identity);
core::Json read_identity(const RunPaths& paths);
/// The problems that check_or_write_identity would throw of a run that is there; empty when it is the same. Throws
/// FormatError, StoreError.
std::vector<std::string> identity_problems(const RunPaths& paths, const core::Json& identity);

}  // namespace voronoi::store
