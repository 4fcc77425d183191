#include "calib/hessian_tree.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace voronoi::calib {
namespace {

struct NodeHeader {
  std::int64_t first_chunk, level, n_tokens;
};

}  // namespace

HessianTree::HessianTree(backend::Context& context, std::int64_t n) : context_(&context), n_(n) {}

void HessianTree::add_chunk(std::int64_t chunk, const backend::Array<double>& sum, std::int64_t n_tokens) {
  VORONOI_REQUIRE(sum.size() == n_ * n_, "a full matrix is wanted");
  Node node{n_tokens, backend::Array<double>(*context_, packed_size(n_))};
  context_->linalg().pack_lower_f64(context_->exec(), n_, sum.data(), node.lower.data());
  insert(0, chunk, std::move(node));
}

void HessianTree::insert(std::int64_t level, std::int64_t index, Node node) {
  for (;;) {
    const std::int64_t sibling = index ^ 1;
    const auto found = nodes_.find({sibling << level, level});
    if (found == nodes_.end()) break;
    // Addition commutes exactly, so left + right and right + left give the same bits.
    context_->linalg().add_f64(context_->exec(), node.lower.size(), found->second.lower.data(), node.lower.data());
    node.n_tokens += found->second.n_tokens;
    nodes_.erase(found);
    index >>= 1;
    ++level;
  }
  const bool fresh = nodes_.emplace(Key{index << level, level}, std::move(node)).second;
  VORONOI_REQUIRE(fresh, "a chunk was added twice");
}

std::vector<std::byte> HessianTree::pop_node() {
  VORONOI_REQUIRE(!nodes_.empty(), "no node is left");
  const auto& [key, node] = *nodes_.begin();
  const NodeHeader header{key.first, key.second, node.n_tokens};
  const std::int64_t size_bytes = node.lower.size() * static_cast<std::int64_t>(sizeof(double));
  std::vector<std::byte> bytes(sizeof header + static_cast<std::size_t>(size_bytes));
  std::memcpy(bytes.data(), &header, sizeof header);
  context_->memory().copy_to_host(context_->exec(), node.lower.data(), size_bytes, bytes.data() + sizeof header);
  nodes_.erase(nodes_.begin());
  return bytes;
}

void HessianTree::absorb(std::span<const std::byte> bytes) {
  const std::int64_t size_bytes = packed_size(n_) * static_cast<std::int64_t>(sizeof(double));
  VORONOI_REQUIRE(bytes.size() == sizeof(NodeHeader) + static_cast<std::size_t>(size_bytes), "not a tree node");
  NodeHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  VORONOI_REQUIRE(header.level >= 0 && header.level < 62 && header.first_chunk >= 0, "a damaged tree node");
  Node node{header.n_tokens, backend::Array<double>(*context_, packed_size(n_))};
  context_->memory().copy_from_host(context_->exec(), bytes.data() + sizeof header, size_bytes, node.lower.data());
  insert(header.level, header.first_chunk >> header.level, std::move(node));
}

std::int64_t HessianTree::n_tokens() const {
  std::int64_t total = 0;
  for (const auto& [key, node] : nodes_) total += node.n_tokens;
  return total;
}

std::vector<float> HessianTree::mean() const {
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
