#include "calib/hessian_tree.h"

#include <algorithm>
#include <span>
#include <utility>

#include "core/error.h"

namespace voronoi::calib {
HessianTree::HessianTree(backend::Context& context, std::int64_t n) : context_(&context), n_(n) {}

void HessianTree::add_chunk(std::int64_t chunk, const backend::Array<double>& sum, std::int64_t n_tokens,
                            std::int64_t n_left_out) {
  VORONOI_REQUIRE(sum.size() == n_ * n_, "a full matrix is wanted");
  Node node{n_tokens, n_left_out, {}};
  if (spares_.empty()) {
    node.lower = backend::Array<double>(*context_, packed_size(n_));
  } else {
    node.lower = std::move(spares_.back());
    spares_.pop_back();
  }
  context_->linalg().pack_lower_f64(context_->exec(), n_, sum.data(), node.lower.data());
  insert(0, chunk, std::move(node), &spares_);
}

void HessianTree::insert(std::int64_t level, std::int64_t index, Node node,
                         std::vector<backend::Array<double>>* spares) {
  for (;;) {
    const std::int64_t sibling = index ^ 1;
    const auto found = nodes_.find({sibling << level, level});
    if (found == nodes_.end()) break;
    // Addition commutes exactly, so left + right and right + left give the same bits.
    context_->linalg().add_f64(context_->exec(), node.lower.size(), found->second.lower.data(), node.lower.data());
    node.n_tokens += found->second.n_tokens;
    node.n_left_out += found->second.n_left_out;
    if (spares != nullptr) spares->push_back(std::move(found->second.lower));
    nodes_.erase(found);
    index >>= 1;
    ++level;
  }
  const bool fresh = nodes_.emplace(Key{index << level, level}, std::move(node)).second;
  VORONOI_REQUIRE(fresh, "a chunk was added twice");
}

HessianNode HessianTree::pop_node() {
  spares_.clear();
  VORONOI_REQUIRE(!nodes_.empty(), "no node is left");
  const auto lowest = nodes_.begin();
  HessianNode node{lowest->first.first, lowest->first.second, lowest->second.n_tokens, lowest->second.n_left_out,
                   std::move(lowest->second.lower)};
  nodes_.erase(lowest);
  return node;
}

void HessianTree::absorb(HessianNode node) {
  spares_.clear();
  VORONOI_REQUIRE(node.lower.size() == packed_size(n_) && node.level >= 0 && node.level < 62 && node.first_chunk >= 0,
                  "a damaged tree node");
  insert(node.level, node.first_chunk >> node.level, {node.n_tokens, node.n_left_out, std::move(node.lower)}, nullptr);
}

std::int64_t HessianTree::n_tokens() const {
  std::int64_t total = 0;
  for (const auto& [key, node] : nodes_) total += node.n_tokens;
  return total;
}

std::int64_t HessianTree::n_left_out() const {
  std::int64_t total = 0;
  for (const auto& [key, node] : nodes_) total += node.n_left_out;
  return total;
}

std::vector<float> HessianTree::mean() {
  spares_.clear();
  backend::Array<double> total(*context_, packed_size(n_));
  total.zero();
  for (const auto& [key, node] : nodes_)
    context_->linalg().add_f64(context_->exec(), total.size(), node.lower.data(), total.data());
  std::vector<double> copy;
  if (!context_->on_host()) copy = total.to_host();
  const std::span<const double> sum = context_->on_host() ? std::as_const(total).span() : std::span<const double>(copy);
  const auto tokens = static_cast<double>(std::max<std::int64_t>(n_tokens(), 1));
  std::vector<float> mean(sum.size());
  std::transform(sum.begin(), sum.end(), mean.begin(),
                 [tokens](double value) { return static_cast<float>(value / tokens); });
  return mean;
}

}  // namespace voronoi::calib
