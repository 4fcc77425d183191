// How many threads a rank may run so that those of one host share its cores without two on one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace voronoi::backend {

/// What a rank is allowed.
struct CoreClaim {
  std::string host;
  std::vector<int> cores;  ///< its affinity mask, rising
  std::string group{};     ///< the control group that limits its time most; empty: none does
  double quota = 0;        ///< that group's limit, in cores
};

/// A core counts for each of the host's ranks whose mask has it by an equal part; the quota of a group is divided by
/// its ranks on the host. At least 1. claims: of all ranks.
int fair_threads(const std::vector<CoreClaim>& claims, std::size_t rank);

/// This process; its host is left empty. With cpu.max (control groups of version 2) or cpu.cfs_quota_us (version 1) of
/// its group and those above it.
CoreClaim claim_of_this_process();
/// The tightest limit from `group` ("/a/b") up to the root of the hierarchy mounted at `mount`; none: quota 0.
void read_quota(const std::filesystem::path& mount, const std::string& group, CoreClaim& claim);

/// mpirun binds each of up to two ranks to a core by default: a process that is bound to a single one (with its
/// hardware threads) takes the cores of the process that started it. Any other binding was asked for.
void widen_default_binding();

}  // namespace voronoi::backend
