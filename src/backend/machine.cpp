#include "backend/machine.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/whereabouts.h"

namespace voronoi::backend {
namespace {

/// Of the first line that holds `key`, what follows it; empty where there is none.
std::string behind(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    if (const std::size_t at = line.find(key); at != std::string::npos) {
      const std::size_t begin = line.find_first_not_of(" \t:", at + key.size());
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "";
}

/// "570.86.10" of "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  ...".
std::string driver_version() {
  const std::string text = behind("/proc/driver/nvidia/version", "Kernel Module");
  const std::size_t digit = text.find_first_of("0123456789");
  return digit == std::string::npos ? "" : text.substr(digit, text.find(' ', digit) - digit);
}

core::Json facts_of_this_rank(const Context& context) {
  core::Json facts{{"host", core::host_name()},
                   {"processor", behind("/proc/cpuinfo", "model name")},
                   {"gpu", ""},
                   {"driver", ""},
                   {"threads", context.n_threads()}};
  if (context.on_host()) return facts;
  facts["gpu"] = context.memory().facts(context.exec()).name;
  facts["driver"] = driver_version();
  return facts;
}

}  // namespace

core::Json machine_facts(const Context& context, const comm::Communicator& world) {
  const std::string mine = facts_of_this_rank(context).dump(-1, ' ', false, core::Json::error_handler_t::replace);
  std::map<std::string, std::int64_t> hosts;
  std::map<std::string, std::set<std::string>> kinds{{"processor", {}}, {"gpu", {}}, {"driver", {}}};
  std::int64_t threads = 0;
  for (const std::vector<std::byte>& bytes : world.all_gather(std::as_bytes(std::span(mine)))) {
    const std::string other(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const core::Json facts = core::parse_json(other, "another rank's machine");
    ++hosts[facts.at("host").get<std::string>()];
    threads = std::max(threads, core::whole_number(facts.at("threads")));
    for (auto& [kind, names] : kinds)
      if (const auto name = facts.at(kind).get<std::string>(); !name.empty()) names.insert(name);
  }
  core::Json machine{{"device", device_name(context.device())}, {"threads", threads}, {"hosts", hosts}};
  for (const auto& [kind, names] : kinds)
    if (!names.empty()) machine[kind + "s"] = names;
  return machine;
}

}  // namespace voronoi::backend
