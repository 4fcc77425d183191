// One HDF5 file of named arrays and text attributes. The only room that knows HDF5; it knows no quantizer.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/types.h"

namespace voronoi::store {

struct ShardArray {
  std::string name;
  core::DType dtype = core::DType::u8;
  core::Shape shape;
  std::vector<std::byte> bytes;  ///< little-endian, row-major
};

/// values: of the type that `dtype` says, as many as the shape holds.
template <class T>
ShardArray make_array(std::string name, core::DType dtype, core::Shape shape, std::span<const T> values) {
  const std::span<const std::byte> bytes = std::as_bytes(values);
  return {std::move(name), dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}
/// A vector.
template <class T>
ShardArray make_array(std::string name, core::DType dtype, std::span<const T> values) {
  return make_array(std::move(name), dtype, {std::ssize(values)}, values);
}

struct Shard {
  std::map<std::string, std::string> attributes;
  std::vector<ShardArray> arrays;
};

/// What of a shard is summed as it is written or read. file: the digest in its header, which is over all the rest of
/// it; all: those of its datasets too, which tell what of it is damaged, at the price of a second pass.
enum class Sums { file, all };
/// The file's bytes, built in memory; the same content always gives the same bytes (no times inside). all: every
/// dataset carries the SHA-256 of its bytes as an attribute, the root one over all of attributes and dataset checksums.
std::vector<std::byte> serialize(const Shard& shard, Sums sums = Sums::all);
/// Reads and verifies what was summed; throws FormatError naming file and dataset. Sizes are checked before allocation.
Shard read_shard(const std::filesystem::path& path, Sums sums = Sums::all);
/// The same of a file whose digest is known to be this one, which is all that is summed then; nothing where it is
/// another.
std::optional<Shard> read_shard_if(const std::filesystem::path& path, std::string_view sha256);
/// Version of the HDF5 library in use, "1.10.8".
std::string library_version();

}  // namespace voronoi::store
