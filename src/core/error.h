// Exceptions of the whole project. Each carries a message that names the thing at fault and, where one exists, the
// remedy.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::core {

/// Process exit codes: the contract with scripts (`voronoi --help` prints them). node: what another node may cure, a
/// lost GPU or a failing disk or network.
enum class ExitCode : int { ok = 0, usage = 2, data = 3, partial = 4, system = 5, node = 74, stopped = 75 };

/// Base of every exception thrown here. `add_context` prefixes what() as the error climbs ("model.layers.3.mlp: ...").
class Error : public std::exception {
 public:
  Error(ExitCode code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  ExitCode exit_code() const noexcept { return code_; }
  void add_context(std::string_view context) { message_ = std::string(context) + ": " + message_; }

 private:
  ExitCode code_;
  std::string message_;
};

/// Command line or config file: all problems at once, one a line.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(ExitCode::usage, message) {}
  explicit ConfigError(const std::vector<std::string>& problems);
};

/// A file whose content is not what its format demands; the message starts with the file's path. Whatever of the file
/// stands in it, it is one printable line of bounded length.
class FormatError : public Error {
 public:
  FormatError(std::string_view file, std::string_view message);
  FormatError(std::string_view file, std::uint64_t offset, std::string_view message);
};

/// Arithmetic that cannot go on: not positive definite, not finite.
class NumericError : public Error {
 public:
  explicit NumericError(const std::string& message) : Error(ExitCode::data, message) {}
};

/// Accelerator, vendor library.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& message) : Error(ExitCode::node, message) {}
};

/// MPI or NCCL.
class CommError : public Error {
 public:
  explicit CommError(const std::string& message) : Error(ExitCode::node, message) {}
};

/// Reading or writing the file system: open, write, sync, rename, lock. Code node when the way to it fails (EIO,
/// ESTALE).
class StoreError : public Error {
 public:
  explicit StoreError(const std::string& message, ExitCode code = ExitCode::system) : Error(code, message) {}
};

/// A stop was asked for (SIGTERM, SIGUSR1); the run is resumable.
class StopRequested : public Error {
 public:
  StopRequested() : Error(ExitCode::stopped, "stopped on request; run the same command again to resume") {}
};

/// The operation exists but this build or machine has no implementation for the device.
class NotCompiled : public Error {
 public:
  explicit NotCompiled(const std::string& message) : Error(ExitCode::system, message) {}
};

/// A broken contract between parts of the program: a bug, not a user's mistake.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message) : Error(ExitCode::system, "internal error: " + message) {}
};

[[noreturn]] void require_failed(const char* condition, const char* file, int line, const std::string& message);

}  // namespace voronoi::core

/// Always on: a caller broke a documented precondition.
#define VORONOI_REQUIRE(condition, message)                                                       \
  do {                                                                                            \
    if (!(condition)) ::voronoi::core::require_failed(#condition, __FILE__, __LINE__, (message)); \
  } while (false)
