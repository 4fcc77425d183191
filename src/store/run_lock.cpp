#include "store/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <sstream>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/whereabouts.h"

namespace voronoi::store {
namespace {

namespace fs = std::filesystem;
using core::Json;
using core::StoreError;

constexpr std::string_view kReplacement = ".tmp-";  ///< behind the lock's name: a new one in the making

constexpr int kRecordTries = 50;
constexpr std::chrono::milliseconds kRecordPause{20};

/// What lock.json says of a holder.
struct Holder {
  std::string host, boot, namespace_id, cluster, job, start;
  std::int64_t pid = 0, restart = 0;
};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string now_utc() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

/// Empty where the system does not tell; then nothing is concluded from it.
std::string boot_id() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/sys/kernel/random/boot_id", "re"),
                                                             std::fclose);
  std::array<char, 64> text{};
  if (!file || !std::fgets(text.data(), static_cast<int>(text.size()), file.get())) return "";
  std::string id = text.data();
  id.erase(std::remove(id.begin(), id.end(), '\n'), id.end());
  return id;
}

std::string process_namespace() {
  std::array<char, 64> text{};
  const ssize_t n = ::readlink("/proc/self/ns/pid", text.data(), text.size());
  return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(n, 0))};
}

Holder this_process() {
  Holder self{core::host_name(),           boot_id(), process_namespace(), environment("SLURM_CLUSTER_NAME"),
              environment("SLURM_JOB_ID"), now_utc(), ::getpid(),          0};
  const std::string restart = environment("SLURM_RESTART_COUNT");  // unset in a job's first run
  std::from_chars(restart.data(), restart.data() + restart.size(), self.restart);
  return self;
}

std::string to_text(const Holder& holder) {
  const Json json{{"host", holder.host},       {"pid", holder.pid},
                  {"boot", holder.boot},       {"pid_namespace", holder.namespace_id},
                  {"cluster", holder.cluster}, {"job", holder.job},
                  {"restart", holder.restart}, {"start", holder.start}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string read_descriptor(int descriptor) {
  std::array<char, 4096> buffer{};
  const ssize_t n = ::pread(descriptor, buffer.data(), buffer.size(), 0);
  return {buffer.data(), static_cast<std::size_t>(n > 0 ? n : 0)};
}

std::optional<Holder> read_holder(const std::string& record, const fs::path& file) {
  try {
    const Json json = core::parse_json(record, file.string(), 4);
    Holder holder;
    holder.host = json.at("host").get<std::string>();
    holder.pid = core::whole_number(json.at("pid"));
    holder.boot = json.at("boot").get<std::string>();
    holder.namespace_id = json.at("pid_namespace").get<std::string>();
    holder.cluster = json.at("cluster").get<std::string>();
    holder.job = json.at("job").get<std::string>();
    holder.restart = core::whole_number(json.at("restart"));
    holder.start = json.at("start").get<std::string>();
    return holder;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

/// "process 12 on node3 (Slurm job 77), started 2026-01-02T03:04:05Z"
std::string describe(const std::optional<Holder>& holder) {
  if (!holder) return "a process that left an unreadable record";
  std::string job;
  if (!holder->job.empty())
    job = fmt::format(" (Slurm job {}{})", holder->job,
                      holder->restart > 0 ? fmt::format(", restart {}", holder->restart) : "");
  return core::printable(fmt::format("process {} on {}{}, started {}", holder->pid, holder->host, job, holder->start),
                         500);
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 20 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Whether Slurm says that no process of the job is left. False when Slurm cannot be asked.
bool slurm_job_is_over(const std::string& job) {
  // In a state of this list a job has no process; in any other it has, or may have.
  static constexpr std::array<std::string_view, 10> kOver{"BOOT_FAIL", "CANCELLED",    "COMPLETED", "DEADLINE",
                                                          "FAILED",    "NODE_FAIL",    "PENDING",   "PREEMPTED",
                                                          "TIMEOUT",   "OUT_OF_MEMORY"};
  const std::string command = "timeout -k 5 30 squeue --noheader --states=all --format=%T --jobs=" + job + " 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return false;
  std::string answer;
  std::array<char, 512> buffer{};
  while (answer.size() < 4096 && std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe))
    answer += buffer.data();
  const int status = ::pclose(pipe);
  if (!WIFEXITED(status)) return false;
  // Slurm forgets a job some minutes after its end.
  if (WEXITSTATUS(status) != 0) return answer.find("Invalid job id specified") != std::string::npos;
  std::istringstream states(answer);
  for (std::string state; states >> state;)
    if (std::find(kOver.begin(), kOver.end(), state) == kOver.end()) return false;
  return true;
}

/// Whether the process of this host runs no code any more. One that nobody has waited for yet still has its number.
bool has_ended(pid_t process) {
  if (::kill(process, 0) != 0 && errno == ESRCH) return true;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen(fmt::format("/proc/{}/stat", process).c_str(), "re"), std::fclose);
  std::array<char, 512> text{};
  if (!file || !std::fgets(text.data(), static_cast<int>(text.size()), file.get())) return false;
  const char* name_end = std::strrchr(text.data(), ')');
  return name_end != nullptr && (std::strncmp(name_end, ") Z", 3) == 0 || std::strncmp(name_end, ") X", 3) == 0);
}

/// Why the process cannot be alive any more, or nothing.
std::optional<std::string> proof_of_end(const Holder& holder) {
  const Holder self = this_process();
  if (!holder.boot.empty() && holder.boot == self.boot && !holder.namespace_id.empty() &&
      holder.namespace_id == self.namespace_id && holder.pid > 0 && std::in_range<pid_t>(holder.pid) &&
      has_ended(static_cast<pid_t>(holder.pid)))
    return "that process has ended";
  const bool same_cluster = !self.cluster.empty() && holder.cluster == self.cluster && is_number(holder.job);
  if (!same_cluster) return std::nullopt;
  if (holder.job == self.job && holder.restart < self.restart) return "Slurm has requeued that job since";
  if (holder.job != self.job && slurm_job_is_over(holder.job)) return "that job has ended, as Slurm says";
  return std::nullopt;
}

std::string refusal(const RunPaths& paths, const std::optional<Holder>& holder) {
  std::string check = "if it does not exist any more";
  if (holder) {
    check = fmt::format("if its host is dead or `ps -p {}` there does not show it any more", holder->pid);
    if (is_number(holder->job)) check += fmt::format(" (`squeue -j {}` tells of its job)", holder->job);
  }
  return fmt::format(
      "{}: is held by {}; wait until it ends, stop it, or choose another place with --run; {}, remove {} and run the "
      "same command again",
      paths.root.string(), describe(holder), check, paths.lock().string());
}

int open_lock(const fs::path& path, int flags) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0644);
  if (descriptor < 0) throw core::system_error(path, "open", errno);
  return descriptor;
}

/// False when somebody else has it.
bool try_lock(int descriptor, const fs::path& path) {
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return true;
  if (errno == EWOULDBLOCK) return false;
  throw StoreError(
      fmt::format("{}: cannot be locked: {}; a run directory needs a file system with locks (Lustre: mount option "
                  "flock)",
                  path.string(), std::strerror(errno)));
}

/// Between opening and locking the file may have been replaced.
bool is_still(int descriptor, const fs::path& path) {
  struct stat mine {
  }, there{};
  return ::fstat(descriptor, &mine) == 0 && ::stat(path.c_str(), &there) == 0 && mine.st_ino == there.st_ino &&
         mine.st_dev == there.st_dev;
}

/// Replacements whose makers were killed: one that can be locked has no owner.
void remove_abandoned_replacements(const fs::path& path) {
  const std::string prefix = path.filename().string().append(kReplacement);
  std::error_code error;
  for (auto entry = fs::directory_iterator(path.parent_path(), error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (!entry->path().filename().string().starts_with(prefix)) continue;
    const int descriptor = ::open(entry->path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(entry->path().c_str());
    ::close(descriptor);
  }
}

}  // namespace

RunLock::RunLock(const RunPaths& paths) {
  const fs::path path = paths.lock();
  try {
    for (int tries = 0;; ++tries) {
      descriptor_ = open_lock(path, 0);
      if (!try_lock(descriptor_, path)) {
        // Without a record its holder has just come or is about to leave.
        if (tries < kRecordTries && read_descriptor(descriptor_).empty()) {
          ::close(std::exchange(descriptor_, -1));
          std::this_thread::sleep_for(kRecordPause);
          continue;
        }
        take_over(paths);
        remove_abandoned_replacements(path);
        return;
      }
      if (is_still(descriptor_, path)) break;
      ::close(std::exchange(descriptor_, -1));
    }
    // A holder that ends as it should leaves an empty file.
    if (const std::string record = read_descriptor(descriptor_); !record.empty())
      stale_holder_ = describe(read_holder(record, path)) + ": it has ended without releasing it";
    write_record(path);
    remove_abandoned_replacements(path);
  } catch (...) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw;
  }
}

void RunLock::take_over(const RunPaths& paths) {
  const fs::path path = paths.lock();
  const std::optional<Holder> holder = read_holder(read_descriptor(descriptor_), path);
  const std::optional<std::string> proof = holder ? proof_of_end(*holder) : std::nullopt;
  if (!proof) throw StoreError(refusal(paths, holder));
  ::close(std::exchange(descriptor_, -1));
  const fs::path mine = fmt::format("{}{}{}-{}", path.string(), kReplacement, core::host_name(), ::getpid());
  descriptor_ = open_lock(mine, 0);
  if (!try_lock(descriptor_, mine)) throw StoreError(mine.string() + ": is in use; run the same command again");
  write_record(mine);
  if (::rename(mine.c_str(), path.c_str()) != 0) throw core::system_error(path, "replace", errno);
  core::sync_directory(paths.root);
  stale_holder_ = describe(holder) + ": " + *proof;
}

void RunLock::write_record(const fs::path& path) const {
  const std::string text = to_text(this_process());
  int error = ::ftruncate(descriptor_, 0) != 0 ? errno : 0;
  if (error == 0) error = core::write_fully(descriptor_, std::as_bytes(std::span(text)), 0);
  if (error == 0) error = core::sync_fully(descriptor_);
  if (error != 0) throw core::system_error(path, "write", error);
}

RunLock::~RunLock() {
  if (::ftruncate(descriptor_, 0) != 0) {
    // The next start reports a stale holder: harmless.
  }
  ::close(descriptor_);
}

}  // namespace voronoi::store
