#include "backend/cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

namespace voronoi::backend {
namespace {

namespace fs = std::filesystem;

std::vector<int> cores_of(pid_t process) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  std::vector<int> cores;
  if (::sched_getaffinity(process, sizeof mask, &mask) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(static_cast<unsigned>(core), &mask)) cores.push_back(core);
  return cores;
}

/// One core's hardware threads at most.
bool is_one_core(const std::vector<int>& cores) {
  const auto place = [](int core) {
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(core) + "/topology/";
    int package = -1, id = -1 - core;  // unknown: a core of its own
    std::ifstream(topology + "physical_package_id") >> package;
    if (int read = 0; std::ifstream(topology + "core_id") >> read) id = read;
    return std::pair(package, id);
  };
  return !cores.empty() &&
         std::all_of(cores.begin(), cores.end(), [&](int core) { return place(core) == place(cores.front()); });
}

/// 0 when it cannot be told.
pid_t parent_of(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("PPid:")) return static_cast<pid_t>(std::stol(line.substr(5)));
  return 0;
}

/// Started as a rank by Open MPI, which tells in the environment; it has none of that itself.
bool is_a_rank(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/environ");
  for (std::string variable; std::getline(file, variable, '\0');)
    if (variable.starts_with("OMPI_COMM_WORLD_RANK=")) return true;
  return false;
}

/// Cores that the group alone may use; 0: any.
double quota_of(const fs::path& group) {
  double quota = 0, period = 0;
  if (std::ifstream v2(group / "cpu.max"); v2 >> quota >> period)  // "max 100000" is no number
    return quota > 0 && period > 0 ? quota / period : 0;
  std::ifstream v1(group / "cpu.cfs_quota_us"), v1_period(group / "cpu.cfs_period_us");
  if (v1 >> quota && v1_period >> period) return quota > 0 && period > 0 ? quota / period : 0;
  return 0;
}

}  // namespace

int fair_threads(const std::vector<CoreClaim>& claims, std::size_t rank) {
  const CoreClaim& mine = claims.at(rank);
  double share = 0;
  for (const int core : mine.cores) {
    const auto n_sharing = std::count_if(claims.begin(), claims.end(), [&](const CoreClaim& claim) {
      return claim.host == mine.host && std::binary_search(claim.cores.begin(), claim.cores.end(), core);
    });
    share += 1.0 / static_cast<double>(n_sharing);
  }
  if (mine.quota > 0) {
    const auto n_sharing = std::count_if(claims.begin(), claims.end(), [&](const CoreClaim& claim) {
      return claim.host == mine.host && claim.group == mine.group;
    });
    share = std::min(share, mine.quota / static_cast<double>(n_sharing));
  }
  return std::max(1, static_cast<int>(share + 1e-6));  // 64 times 1/64
}

void read_quota(const fs::path& mount, const std::string& group, CoreClaim& claim) {
  for (fs::path at = group; !at.empty(); at = at.parent_path()) {
    const double quota = quota_of(mount / at.relative_path());
    if (quota > 0 && (claim.quota == 0 || quota < claim.quota)) {
      claim.quota = quota;
      claim.group = at.string();
    }
    if (at == at.root_path()) break;
  }
}

CoreClaim claim_of_this_process() {
  CoreClaim claim;
  claim.cores = cores_of(0);
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // NUMBER:CONTROLLERS:GROUP
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string group = line.substr(second + 1);
    std::istringstream controllers(line.substr(first + 1, second - first - 1));
    if (first + 1 == second) read_quota("/sys/fs/cgroup", group, claim);
    for (std::string controller; std::getline(controllers, controller, ',');)
      if (controller == "cpu") read_quota("/sys/fs/cgroup/cpu", group, claim);
  }
  return claim;
}

void widen_default_binding() {
  const std::vector<int> mine = cores_of(0);
  if (!is_one_core(mine)) return;
  pid_t launcher = ::getppid();
  while (launcher > 1 && is_a_rank(launcher)) launcher = parent_of(launcher);  // a script around this process
  const std::vector<int> cores = launcher > 1 ? cores_of(launcher) : std::vector<int>();
  if (cores.size() <= mine.size()) return;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (const int core : cores) CPU_SET(static_cast<unsigned>(core), &mask);
  ::sched_setaffinity(0, sizeof mask, &mask);
}

}  // namespace voronoi::backend
