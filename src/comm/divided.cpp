#include "comm/divided.h"

#include <cstdint>
#include <span>

#include "comm/agreement.h"
#include "core/bytes.h"
#include "core/error.h"

namespace voronoi::comm {

std::vector<std::string> divided(const Communicator& world, std::size_t n,
                                 const std::function<std::string(std::size_t)>& work) {
  const auto rank = static_cast<std::size_t>(world.rank()), n_ranks = static_cast<std::size_t>(world.size());
  std::vector<std::byte> mine;
  // One by one in turn: neighbours are of like size, and the large ones are not all one rank's.
  together(world, [&] {
    for (std::size_t i = rank; i < n; i += n_ranks) {
      const std::string said = work(i);
      const std::uint64_t size = said.size();
      core::append_bytes<std::uint64_t>(std::span(&size, 1), mine);
      core::append_bytes<char>(said, mine);
    }
  });
  std::vector<std::string> all(n);
  const std::vector<std::vector<std::byte>> parts = world.all_gather(mine);
  for (std::size_t r = 0; r < n_ranks; ++r) {
    std::span<const std::byte> rest = parts[r];
    for (std::size_t i = r; i < n; i += n_ranks) {
      std::vector<std::uint64_t> size;
      core::take_values(rest, 1, size);
      std::vector<char> said;
      core::take_values(rest, size.front(), said);
      all[i].assign(said.begin(), said.end());
    }
    VORONOI_REQUIRE(rest.empty(), "ranks divide the same things");
  }
  return all;
}

}  // namespace voronoi::comm
