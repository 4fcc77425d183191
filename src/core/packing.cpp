#include "core/packing.h"

#include <string>

#include "core/error.h"

namespace voronoi::core {
namespace {

void check_extents(std::size_t n_values, int bits, std::size_t n_words) {
  VORONOI_REQUIRE(bits >= 1 && bits <= kMaxPackedBits, "a packed value has 1..32 bits, not " + std::to_string(bits));
  const auto needed = packed_words(static_cast<std::int64_t>(n_values), bits);
  VORONOI_REQUIRE(static_cast<std::int64_t>(n_words) >= needed,
                  std::to_string(n_values) + " values of " + std::to_string(bits) + " bits need " +
                      std::to_string(needed) + " words, not " + std::to_string(n_words));
}

}  // namespace

void pack_row(std::span<const std::uint32_t> values, int bits, std::span<std::uint32_t> words) {
  check_extents(values.size(), bits, words.size());
  std::uint64_t pending = 0;  // bits not yet written, the first one lowest; fewer than 32 between two values
  int n_pending = 0;
  std::size_t word = 0;
  std::uint32_t seen = 0;
  for (const std::uint32_t value : values) {
    seen |= value;
    pending |= static_cast<std::uint64_t>(value) << n_pending;
    n_pending += bits;
    if (n_pending >= 32) {
      words[word++] = static_cast<std::uint32_t>(pending);
      pending >>= 32;
      n_pending -= 32;
    }
  }
  VORONOI_REQUIRE((static_cast<std::uint64_t>(seen) >> bits) == 0,
                  "a value does not fit its " + std::to_string(bits) + " bits");
  if (n_pending > 0) words[word++] = static_cast<std::uint32_t>(pending);
  while (word < words.size()) words[word++] = 0;
}

void unpack_row(std::span<const std::uint32_t> words, int bits, std::span<std::uint32_t> values) {
  check_extents(values.size(), bits, words.size());
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  std::uint64_t pending = 0;
  int n_pending = 0;
  const std::uint32_t* word = words.data();
  for (std::uint32_t& value : values) {
    if (n_pending < bits) {
      pending |= static_cast<std::uint64_t>(*word++) << n_pending;
      n_pending += 32;
    }
    value = static_cast<std::uint32_t>(pending & mask);
    pending >>= bits;
    n_pending -= bits;
  }
}

}  // namespace voronoi::core
