// status.json: what `status` shows of a live run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/json.h"
#include "store/attempt.h"

namespace voronoi::run {

struct Heartbeat {
  std::int64_t attempt = 0;
  std::string stage;
  double updated = 0;  ///< unix_time()
  std::int64_t layers = 0;
  double eta_seconds = 0;                    ///< 0: unknown
  core::Json workers = core::Json::array();  ///< rank, task, since_seconds, busy_seconds each
};

/// Publishes heartbeats. The file is auxiliary: a disk that does not take it is warned of once and the run goes on.
/// What belongs to the run itself tells of the same disk soon enough.
class HeartbeatWriter {
 public:
  explicit HeartbeatWriter(const store::Attempt& attempt) : attempt_(attempt) {}
  /// Throws Superseded only.
  void write(const Heartbeat& heartbeat);

 private:
  const store::Attempt& attempt_;
  bool warned_ = false;
};

/// Nothing when there is none, or when it is damaged, of which a warning tells. Throws StoreError when it cannot be
/// read.
std::optional<Heartbeat> read_heartbeat(const store::RunPaths& paths);

}  // namespace voronoi::run
