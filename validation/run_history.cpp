#include "validation/run_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "core/log.h"

namespace voronoi::validation {
namespace {

/// One record after another; times are put on one axis as they come.
class HistoryReader {
 public:
  RunHistory take() {
    close_start();
    return std::move(history_);
  }

  void operator()(const run::StartRecord& start) {
    close_start();
    history_.starts.push_back({start, {history_.seconds, history_.seconds}, ""});
  }
  void operator()(const run::TaskDone& done) {
    if (done.end <= 0 || history_.starts.empty()) return;
    history_.tasks.push_back(
        {done.task, done.rank, std::max<std::int64_t>(1, done.width), until(done.end, done.seconds)});
  }
  void operator()(const run::StageTime& stage) {
    if (stage.end <= 0 || history_.starts.empty()) return;
    history_.stages.push_back({stage.stage, until(stage.end, stage.seconds)});
  }
  void operator()(const run::StageDone& done) { seen(done.time); }
  void operator()(const run::Stopped& stopped) { ended("stopped", stopped.time); }
  void operator()(const run::Finished& finished) { ended("finished", finished.time); }
  void operator()(const run::TaskFailed& failed) {
    mishap(fmt::format("{}: failed on rank {}, try {}", failed.task, failed.rank, failed.number), failed.error);
  }
  void operator()(const run::TaskOverdue& overdue) {
    mishap(fmt::format("{}: overdue", overdue.task),
           fmt::format("had taken rank {} {}, rank {} ran it too", overdue.rank, core::format_duration(overdue.seconds),
                       overdue.other));
  }
  void operator()(const run::RankLeftOut& left_out) {
    mishap(fmt::format("rank {}: left out of a window", left_out.rank), left_out.error);
  }
  void operator()(const run::LayerLost& lost) {
    mishap(fmt::format("{}: generation {} was lost", lost.name, lost.generation),
           "its file was missing or damaged when the run went on");
  }
  template <class Other>
  void operator()(const Other&) {}

 private:
  /// A time of the clock on the axis of work; the start at work lasts at least until then.
  double seen(double time) {
    if (history_.starts.empty()) return 0;
    StartHistory& start = history_.starts.back();
    if (time <= 0 || start.record.time <= 0) return start.work.end;
    const double at = start.work.begin + std::max(0.0, time - start.record.time);
    start.work.end = std::max(start.work.end, at);
    return at;
  }
  Interval until(double time, double seconds) {
    const double end = seen(time);
    return {std::max(history_.starts.back().work.begin, end - seconds), end};
  }
  void ended(const char* how, double time) {
    if (history_.starts.empty()) return;
    seen(time);
    history_.starts.back().ended = how;
  }
  void mishap(std::string what, const std::string& error) { history_.mishaps.push_back({std::move(what), error}); }

  void close_start() {
    if (history_.starts.empty()) return;
    const StartHistory& start = history_.starts.back();
    const double rank_seconds = (start.work.end - start.work.begin) * static_cast<double>(start.record.ranks);
    history_.seconds = start.work.end;
    history_.rank_seconds += rank_seconds;
    const core::Json& machine = start.record.machine;
    if (!machine.is_object()) return;
    const auto threads = machine.find("threads"), device = machine.find("device");
    if (threads != machine.end() && threads->is_number())
      history_.core_seconds += rank_seconds * threads->get<double>();
    if (device != machine.end() && *device == "cuda") history_.gpu_seconds += rank_seconds;
  }

  RunHistory history_;
};

}  // namespace

RunHistory read_history(const std::vector<core::Json>& records, const std::string& file) {
  HistoryReader reader;
  for (std::size_t i = 0; i < records.size(); ++i) std::visit(reader, run::record_from_json(records[i], file, i + 1));
  return reader.take();
}

}  // namespace voronoi::validation
