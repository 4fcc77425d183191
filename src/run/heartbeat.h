// What a live run tells of itself: status.json for `status`, metrics.prom for Prometheus.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/json.h"
#include "run/run_state.h"
#include "store/start.h"

namespace voronoi::run {

struct Heartbeat {
  std::int64_t start = 0;
  std::string stage;
  std::string doing;   ///< for people: "block 3/32"
  double updated = 0;  ///< unix_time(), set when it is written
  std::int64_t layers = 0, layers_done = 0;
  std::int64_t tasks_done = 0, tasks_failed = 0;  ///< of this start
  std::int64_t ranks = 0;                         ///< that take part; 0 once it has ended
  double tokens_per_second = 0;                   ///< through one block; 0 outside of calibration
  std::map<std::string, double> stages;           ///< predicted seconds left of each
  std::map<std::string, double> spent;            ///< seconds that this start has spent in each
  core::Json workers = core::Json::array();       ///< rank, task, since_seconds, busy_seconds each
  std::int64_t peak_memory_bytes = 0;             ///< of this process, set when it is written
  std::string ended;                              ///< "finished", "stopped" or "failed" once the start is over

  double eta_seconds() const;  ///< 0: unknown
};

/// Largest resident set of this process so far.
std::int64_t peak_memory_bytes();

/// Prometheus' text format; `run` becomes a label, so that the files of many runs can lie in one collector.
std::string metrics_text(const Heartbeat& heartbeat, const std::string& run);

/// Publishes heartbeats from a thread of its own, at the first update and then every second: a block of minutes is
/// no silence. The files are auxiliary: a disk that does not take one is warned of once and the run goes on. What
/// belongs to the run itself tells of the same disk soon enough.
class HeartbeatWriter {
 public:
  explicit HeartbeatWriter(const store::Start& start) : start_(start) {}
  /// Without an end() before, the start has failed.
  ~HeartbeatWriter();
  HeartbeatWriter(const HeartbeatWriter&) = delete;
  HeartbeatWriter& operator=(const HeartbeatWriter&) = delete;

  /// What is to be told from now on. Throws Superseded once the thread has found that.
  void update(Heartbeat heartbeat);
  /// The last one, written when this returns. `how`: as Heartbeat::ended.
  void end(const std::string& how);

 private:
  void beat();
  /// Throws Superseded only.
  void write(Heartbeat heartbeat, double age);
  void publish(const std::filesystem::path& file, const std::string& text, bool& warned) const;

  const store::Start& start_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Heartbeat> current_;
  double since_ = 0;
  bool leaving_ = false, superseded_ = false;
  bool warned_of_status_ = false, warned_of_metrics_ = false;
  std::thread thread_;  // from the first update on
};

/// A live run renews its status file every second, whatever it does; one that is this old is taken for dead.
constexpr double kHeartbeatSeconds = 30;
/// Whether a heartbeat is of the last start, which has not ended, and recent.
bool is_alive(const Heartbeat& heartbeat, const RunState& state);

/// Nothing when there is none, or when it is damaged, of which a warning tells. Throws StoreError when it cannot be
/// read.
std::optional<Heartbeat> read_heartbeat(const store::RunPaths& paths);

}  // namespace voronoi::run
