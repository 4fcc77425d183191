// One HDF5 file of named arrays and text attributes. The only room that knows HDF5; it knows no quantizer.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/types.h"

namespace voronoi::store {

struct ShardArray {
  std::string name;
  core::DType dtype = core::DType::u8;
  core::Shape shape;
  std::vector<std::byte> bytes;  ///< little-endian, row-major
};

struct Shard {
  std::map<std::string, std::string> attributes;
  std::vector<ShardArray> arrays;
};

/// The file's bytes, built in memory; the same content always gives the same bytes (no times inside). Every dataset
/// carries the SHA-256 of its bytes as an attribute, the root one over all of attributes and dataset checksums.
std::vector<std::byte> serialize(const Shard& shard);
/// Reads and verifies all checksums; throws FormatError naming file and dataset. Sizes are checked before allocation.
Shard read_shard(const std::filesystem::path& path);
/// Version of the HDF5 library in use, "1.10.8".
std::string library_version();

}  // namespace voronoi::store
