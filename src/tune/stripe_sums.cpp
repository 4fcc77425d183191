#include "tune/stripe_sums.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "core/bytes.h"
#include "core/error.h"

namespace voronoi::tune {
namespace {

constexpr int kSumsTag = 43;

using NodeHeader = std::array<std::int64_t, 2>;  // level and index; a negative level ends the sums

/// left += right.
void add_to(std::vector<float>& left, std::vector<float> right) {
  if (right.empty()) return;
  if (left.empty()) {
    left = std::move(right);
    return;
  }
  VORONOI_REQUIRE(left.size() == right.size(), "sums of one size are wanted");
  for (std::size_t i = 0; i < left.size(); ++i) left[i] += right[i];
}

}  // namespace

void StripeSums::insert(std::int64_t level, std::int64_t index, std::vector<float> values) {
  for (;;) {
    const auto key = [](std::int64_t of_level, std::int64_t of_index) {
      return std::pair(of_index << of_level, of_level);
    };
    const auto sibling = nodes_.find(key(level, index ^ 1));
    if (sibling == nodes_.end()) {
      const bool is_new = nodes_.emplace(key(level, index), std::move(values)).second;
      VORONOI_REQUIRE(is_new, "a stripe was added twice");
      return;
    }
    // The earlier stripes first, whichever came first.
    std::vector<float> other = std::move(sibling->second);
    nodes_.erase(sibling);
    if (index % 2 == 0) {
      add_to(values, std::move(other));
    } else {
      add_to(other, std::move(values));
      values = std::move(other);
    }
    ++level;
    index /= 2;
  }
}

void StripeSums::send(const comm::Communicator& world, int to) {
  while (!nodes_.empty()) {
    const auto first = nodes_.begin();
    const auto [stripe, level] = first->first;
    const NodeHeader header{level, stripe >> level};
    world.send(std::as_bytes(std::span(header)), to, kSumsTag);
    world.send(std::as_bytes(std::span(first->second)), to, kSumsTag);
    nodes_.erase(first);
  }
  const NodeHeader end{-1, 0};
  world.send(std::as_bytes(std::span(end)), to, kSumsTag);
}

void StripeSums::receive(const comm::Communicator& world, int from) {
  for (;;) {
    const std::vector<std::byte> bytes = world.receive(from, kSumsTag);
    NodeHeader header{};
    VORONOI_REQUIRE(bytes.size() == sizeof header, "the header of a sum is wanted");
    std::memcpy(header.data(), bytes.data(), sizeof header);
    if (header[0] < 0) return;
    insert(header[0], header[1], core::values_of<float>(world.receive(from, kSumsTag)));
  }
}

std::vector<float> StripeSums::total() {
  std::vector<float> sum;
  for (auto& [key, values] : nodes_) add_to(sum, std::move(values));
  nodes_.clear();
  return sum;
}

}  // namespace voronoi::tune
