#include "run/heartbeat.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/whereabouts.h"

namespace voronoi::run {
namespace {

/// A label's value: backslash, quote and line break are escaped.
std::string label_text(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\n') {
      escaped += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

core::Json to_json(const Heartbeat& h) {
  return {{"start", h.start},
          {"stage", h.stage},
          {"doing", h.doing},
          {"updated", h.updated},
          {"layers", h.layers},
          {"layers_done", h.layers_done},
          {"tasks_done", h.tasks_done},
          {"tasks_failed", h.tasks_failed},
          {"ranks", h.ranks},
          {"tokens_per_second", h.tokens_per_second},
          {"eta_seconds", h.eta_seconds()},
          {"stages", h.stages},
          {"spent", h.spent},
          {"peak_memory_bytes", h.peak_memory_bytes},
          {"ended", h.ended},
          {"workers", h.workers}};
}

}  // namespace

double Heartbeat::eta_seconds() const {
  double sum = 0;
  for (const auto& left : stages) sum += left.second;
  return sum;
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::string metrics_text(const Heartbeat& h, const std::string& run) {
  const std::string labels = "run=\"" + label_text(run) + "\"";
  std::string text;
  const auto family = [&](std::string_view name, std::string_view help) {
    text += fmt::format("# HELP voronoi_{0} {1}\n# TYPE voronoi_{0} gauge\n", name, help);
  };
  const auto gauge = [&](std::string_view name, std::string_view help, double value) {
    family(name, help);
    text += fmt::format("voronoi_{}{{{}}} {}\n", name, labels, value);
  };
  gauge("layers", "Linears of the model.", static_cast<double>(h.layers));
  gauge("layers_done", "Linears that are quantized.", static_cast<double>(h.layers_done));
  gauge("tasks_done", "Tasks done by this start.", static_cast<double>(h.tasks_done));
  gauge("tasks_failed", "Tasks given up.", static_cast<double>(h.tasks_failed));
  gauge("tokens_per_second", "Calibration tokens a second through one block; 0 outside of calibration.",
        h.tokens_per_second);
  gauge("eta_seconds", "Predicted seconds left.", h.eta_seconds());
  family("stage_eta_seconds", "Predicted seconds left of a stage.");
  for (const auto& [stage, seconds] : h.stages)
    text += fmt::format("voronoi_stage_eta_seconds{{{},stage=\"{}\"}} {}\n", labels, label_text(stage), seconds);
  gauge("ranks_alive", "Ranks that take part; 0 once the start is over.", static_cast<double>(h.ranks));
  family("stage", "The stage at work, 1 for it.");
  text += fmt::format("voronoi_stage{{{},stage=\"{}\"}} 1\n", labels, label_text(h.ended.empty() ? h.stage : h.ended));
  gauge("last_update_timestamp_seconds", "When this was written, seconds since 1970.", h.updated);
  gauge("peak_memory_bytes", "Largest resident set of rank 0.", static_cast<double>(h.peak_memory_bytes));
  return text;
}

HeartbeatWriter::~HeartbeatWriter() {
  if (thread_.joinable()) end("failed");
}

void HeartbeatWriter::update(Heartbeat heartbeat) {
  {
    const std::lock_guard lock(mutex_);
    if (superseded_) throw store::Superseded(start_.paths());
    current_ = std::move(heartbeat);
    since_ = core::unix_time();
  }
  if (!thread_.joinable()) thread_ = std::thread([this] { beat(); });
}

void HeartbeatWriter::end(const std::string& how) {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (superseded_) return;
  current_->ended = how;
  current_->ranks = 0;
  current_->tokens_per_second = 0;
  current_->stages.clear();
  current_->workers = core::Json::array();
  try {
    write(*current_, 0);
  } catch (const store::Superseded&) {
    // Whoever took over tells what is.
  }
}

void HeartbeatWriter::beat() {
  std::unique_lock lock(mutex_);
  while (!leaving_) {
    const Heartbeat heartbeat = *current_;
    const double age = core::unix_time() - since_;
    lock.unlock();
    bool superseded = false;
    try {
      write(heartbeat, age);
    } catch (const store::Superseded&) {
      superseded = true;
    }
    lock.lock();
    superseded_ = superseded;
    if (superseded) return;
    changed_.wait_for(lock, std::chrono::seconds(1), [this] { return leaving_; });
  }
}

void HeartbeatWriter::write(Heartbeat heartbeat, double age) {
  heartbeat.updated = core::unix_time();
  heartbeat.peak_memory_bytes = peak_memory_bytes();
  // What was told to be left then is less by now, and what was spent more.
  if (const auto stage = heartbeat.stages.find(heartbeat.stage); stage != heartbeat.stages.end())
    stage->second = std::max(0.0, stage->second - std::max(0.0, age));
  if (const auto stage = heartbeat.spent.find(heartbeat.stage); stage != heartbeat.spent.end())
    stage->second += std::max(0.0, age);
  const store::RunPaths& paths = start_.paths();
  publish(paths.status(), core::seal_json(to_json(heartbeat)).dump() + "\n", warned_of_status_);
  publish(paths.metrics(), metrics_text(heartbeat, std::filesystem::absolute(paths.root).lexically_normal().string()),
          warned_of_metrics_);
}

void HeartbeatWriter::publish(const std::filesystem::path& file, const std::string& text, bool& warned) const {
  try {
    start_.publish(file, text);
  } catch (const store::Superseded&) {
    throw;
  } catch (const std::exception& error) {
    if (!std::exchange(warned, true))
      core::log_warning("{}; the run goes on, what it does now will not be seen there", error.what());
  }
}

bool is_alive(const Heartbeat& heartbeat, const RunState& state) {
  return !state.finished && heartbeat.start == state.start && heartbeat.ended.empty() &&
         core::unix_time() - heartbeat.updated <= kHeartbeatSeconds;
}

std::optional<Heartbeat> read_heartbeat(const store::RunPaths& paths) {
  const std::string file = paths.status().string();
  if (!std::filesystem::exists(file)) return std::nullopt;
  try {
    const core::Json json = core::read_sealed_json(file, "a live run writes it anew");
    Heartbeat heartbeat;
    heartbeat.start = core::whole_number(json.at("start"));
    heartbeat.stage = json.at("stage").get<std::string>();
    heartbeat.doing = json.at("doing").get<std::string>();
    heartbeat.updated = json.at("updated").get<double>();
    heartbeat.layers = core::whole_number(json.at("layers"));
    heartbeat.layers_done = core::whole_number(json.at("layers_done"));
    heartbeat.tasks_done = core::whole_number(json.at("tasks_done"));
    heartbeat.tasks_failed = core::whole_number(json.at("tasks_failed"));
    heartbeat.ranks = core::whole_number(json.at("ranks"));
    heartbeat.tokens_per_second = json.at("tokens_per_second").get<double>();
    for (const auto& [stage, seconds] : json.at("stages").items()) heartbeat.stages[stage] = seconds.get<double>();
    heartbeat.spent = json.value("spent", heartbeat.spent);  // earlier versions did not tell
    heartbeat.peak_memory_bytes = core::whole_number(json.at("peak_memory_bytes"));
    heartbeat.ended = json.at("ended").get<std::string>();
    heartbeat.workers = json.at("workers");
    return heartbeat;
  } catch (const core::FormatError& error) {
    core::log_warning("{}", error.what());
  } catch (const core::Json::exception& error) {
    core::log_warning("{}: is of another version: {}", file, error.what());
  }
  return std::nullopt;
}

}  // namespace voronoi::run
