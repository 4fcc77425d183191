// Shards compared, and the layer that one holds.
#pragma once

#include <algorithm>
#include <vector>

#include "core/file.h"
#include "format/encoding.h"
#include "fuzz/fuzz.h"
#include "store/shard.h"

namespace voronoi::fuzz {

/// Weights of a layer that are decoded at most: the seconds of a large one are those of thousands of small ones.
inline constexpr std::int64_t kMostDecoded = std::int64_t{1} << 14;

inline bool same(const store::Shard& a, const store::Shard& b) {
  return a.attributes == b.attributes && std::equal(a.arrays.begin(), a.arrays.end(), b.arrays.begin(), b.arrays.end(),
                                                    [](const store::ShardArray& x, const store::ShardArray& y) {
                                                      return x.name == y.name && x.dtype == y.dtype &&
                                                             x.shape == y.shape && x.bytes == y.bytes;
                                                    });
}

inline std::string_view text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// As a run reads a layer; an accepted one is decoded and stored again as the same.
inline void use_layer(const store::Shard& shard) {
  std::vector<format::NamedArray> arrays;
  for (const store::ShardArray& array : shard.arrays)
    arrays.push_back({array.name, array.dtype, array.shape, array.bytes});
  accepts([&] {
    const format::Encoding encoding = format::from_arrays(shard.attributes, arrays, "layer.h5");
    const core::Shape shape{encoding.out_features, encoding.in_features};
    if (const auto count = core::element_count(shape); count && *count <= kMostDecoded) {
      std::vector<float> weight(static_cast<std::size_t>(shape[0] * shape[1]));
      format::decode(encoding, weight);
    }
    const format::Encoding again = format::from_arrays(format::to_attributes(encoding), encoding.arrays, "layer.h5");
    require(again == encoding, "an encoding stored and read is another one");
    require(format::stored_bits(again) > 0, "a layer of no bits");
  });
}

}  // namespace voronoi::fuzz
