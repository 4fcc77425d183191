#include "model/tensor_names.h"

#include <algorithm>
#include <array>
#include <map>

namespace voronoi::model {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kHeadName = "lm_head.weight", kBasePrefix = "model.", kLanguageModel = "language_model.";
/// torch.compile, DistributedDataParallel, FullyShardedDataParallel, activation checkpointing.
constexpr std::array kWrappers{"_orig_mod."sv, "module."sv, "_fsdp_wrapped_module."sv, "_checkpoint_wrapped_module."sv};

std::string without_wrappers(std::string_view name) {
  std::string out;
  while (!name.empty()) {
    const std::size_t end = std::min(name.find('.'), name.size() - 1) + 1;
    const std::string_view part = name.substr(0, end);
    bool wrapper = false;
    for (const std::string_view known : kWrappers) wrapper = wrapper || part == known;
    if (!wrapper) out += part;
    name.remove_prefix(end);
  }
  return out;
}

}  // namespace

TensorNames::TensorNames(const std::vector<std::string_view>& stored, const std::string& norm) {
  const std::string anchor = "layers.0." + norm + ".weight";
  std::map<std::string, std::string> prefixes;  // and what was found
  for (const std::string_view name : stored) {
    std::string prefix = without_wrappers(name);
    if (!prefix.ends_with(anchor)) continue;
    prefix.resize(prefix.size() - anchor.size());
    if (prefix.empty() || prefix.back() == '.') prefixes[prefix] = name;
  }
  if (const auto base = prefixes.find(std::string(kBasePrefix)); base != prefixes.end()) {
    prefixes = {*base};
  } else if (prefixes.size() > 1) {  // other parts of a wrapper have layers too
    std::erase_if(prefixes, [](const auto& entry) { return entry.first.find(kLanguageModel) == std::string::npos; });
  }
  if (!prefixes.empty()) found_ = prefixes.begin()->second;
  if (prefixes.size() == 1) base_ = prefixes.begin()->first;
  if (base_ != kBasePrefix && base_.ends_with(kBasePrefix)) head_ = base_.substr(0, base_.size() - kBasePrefix.size());
  for (const std::string_view name : stored) differ_ = differ_ || standard(name) != name;
}

std::string TensorNames::standard(std::string_view stored) const {
  std::string name = without_wrappers(stored);
  if (name == head_ + std::string(kHeadName)) return std::string(kHeadName);
  const bool standard_already = base_ == kBasePrefix || (base_.empty() && name.starts_with(kBasePrefix));
  if (!standard_already && name.starts_with(base_)) return std::string(kBasePrefix) + name.substr(base_.size());
  return name;
}

}  // namespace voronoi::model
