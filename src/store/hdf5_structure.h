// HDF5's own structures, judged before HDF5 reads them: its parser crashes or leaks on crafted metadata (seen
// with 1.10.8).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace voronoi::store::hdf5 {

/// H5Fget_file_image clears the "open for writing" mark of a version 2 superblock, but leaves the checksum that was
/// made with the mark in it (seen with 1.10.8): HDF5 cannot open its own image. Makes the checksum right; `image`
/// begins with the superblock.
void repair_superblock(std::span<std::byte> image);

/// Walks superblock, root group and datasets of an image whose addresses count from its first byte (`base` in the
/// file). Passes the subset that shards use: version 2 superblock and headers, links and attributes inside the headers,
/// right checksums, numbers and texts of fixed length, every message taken apart to its last byte. What shapes, sizes
/// and contents say is not judged. Throws std::runtime_error.
void check_structure(std::span<const std::byte> image, std::uint64_t base);

}  // namespace voronoi::store::hdf5
