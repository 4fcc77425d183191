// Counter-based random numbers: the value depends on (seed, stream, counter) alone, so any thread or rank may draw any
// of them.
#pragma once

#include <cstdint>

namespace voronoi::core {

class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, std::uint64_t stream) : key_(mix(seed ^ mix(stream + 0x9E3779B97F4A7C15ULL))) {}

  /// 64 uniform bits of the given counter.
  std::uint64_t bits(std::uint64_t counter) const { return mix(key_ + 0x9E3779B97F4A7C15ULL * (counter + 1)); }
  /// Uniform in [0, 1).
  double uniform(std::uint64_t counter) const { return static_cast<double>(bits(counter) >> 11) * 0x1.0p-53; }
  /// Uniform in [0, n).
  std::uint64_t below(std::uint64_t counter, std::uint64_t n) const {
    return static_cast<std::uint64_t>((static_cast<Wide>(bits(counter)) * n) >> 64);
  }

 private:
  __extension__ using Wide = unsigned __int128;
  /// Finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  std::uint64_t key_;
};

}  // namespace voronoi::core
