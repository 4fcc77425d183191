#include "calib/hessian_tree.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace voronoi::calib {
namespace {

struct NodeHeader {
  std::int64_t first_chunk, level, n_tokens;
};

std::size_t packed_values(std::int64_t n) { return static_cast<std::size_t>(HessianTree::packed_size(n)); }

}  // namespace

HessianTree::HessianTree(std::int64_t n) : n_(n) {}

void HessianTree::add_chunk(std::int64_t chunk, std::span<const double> sum, std::int64_t n_tokens) {
  VORONOI_REQUIRE(sum.size() == static_cast<std::size_t>(n_ * n_), "a full matrix is wanted");
  Node node{n_tokens, {}};
  node.lower.reserve(packed_values(n_));
  for (std::int64_t row = 0; row < n_; ++row) {
    const auto first = sum.begin() + row * n_;
    node.lower.insert(node.lower.end(), first, first + row + 1);
  }
  insert(0, chunk, std::move(node));
}

void HessianTree::insert(std::int64_t level, std::int64_t index, Node node) {
  for (;;) {
    const std::int64_t sibling = index ^ 1;
    const auto found = nodes_.find({sibling << level, level});
    if (found == nodes_.end()) break;
    // Addition commutes exactly, so left + right and right + left give the same bits.
    for (std::size_t i = 0; i < node.lower.size(); ++i) node.lower[i] += found->second.lower[i];
    node.n_tokens += found->second.n_tokens;
    nodes_.erase(found);
    index >>= 1;
    ++level;
  }
  const bool fresh = nodes_.emplace(Key{index << level, level}, std::move(node)).second;
  VORONOI_REQUIRE(fresh, "a chunk was added twice");
}

std::vector<std::byte> HessianTree::serialize() const {
  const std::size_t node_bytes = sizeof(NodeHeader) + packed_values(n_) * sizeof(double);
  std::vector<std::byte> bytes(nodes_.size() * node_bytes);
  std::byte* target = bytes.data();
  for (const auto& [key, node] : nodes_) {
    const NodeHeader header{key.first, key.second, node.n_tokens};
    std::memcpy(target, &header, sizeof header);
    std::memcpy(target + sizeof header, node.lower.data(), packed_values(n_) * sizeof(double));
    target += node_bytes;
  }
  return bytes;
}

void HessianTree::absorb(std::span<const std::byte> bytes) {
  const std::size_t node_bytes = sizeof(NodeHeader) + packed_values(n_) * sizeof(double);
  VORONOI_REQUIRE(bytes.size() % node_bytes == 0, "not a whole number of tree nodes");
  for (std::size_t offset = 0; offset < bytes.size(); offset += node_bytes) {
    NodeHeader header;
    std::memcpy(&header, bytes.data() + offset, sizeof header);
    VORONOI_REQUIRE(header.level >= 0 && header.level < 62 && header.first_chunk >= 0, "a damaged tree node");
    Node node{header.n_tokens, std::vector<double>(packed_values(n_))};
    std::memcpy(node.lower.data(), bytes.data() + offset + sizeof header, packed_values(n_) * sizeof(double));
    insert(header.level, header.first_chunk >> header.level, std::move(node));
  }
}

std::int64_t HessianTree::n_tokens() const {
  std::int64_t total = 0;
  for (const auto& [key, node] : nodes_) total += node.n_tokens;
  return total;
}

std::vector<float> HessianTree::mean() const {
  std::vector<double> total(packed_values(n_), 0.0);
  for (const auto& [key, node] : nodes_)
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += node.lower[i];
  const auto tokens = static_cast<double>(std::max<std::int64_t>(n_tokens(), 1));
  std::vector<float> mean(total.size());
  for (std::size_t i = 0; i < total.size(); ++i) mean[i] = static_cast<float>(total[i] / tokens);
  return mean;
}

}  // namespace voronoi::calib
