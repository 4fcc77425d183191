#include "store/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <optional>
#include <set>
#include <span>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "store/hdf5_handle.h"
#include "store/hdf5_structure.h"

namespace voronoi::store {
namespace {

using core::DType;
using core::FormatError;
using core::StoreError;
using hdf5::check;
using hdf5::Handle;

/// HDF5's user block: the first bytes, which the library never looks at. The digest in it covers all the rest, so
/// damage is found before a byte of the file reaches HDF5's parser.
constexpr std::size_t kUserBlock = 512;
constexpr std::string_view kMagic = "voronoi shard 1\n";
constexpr const char* kFormatAttribute = "shard_format";
constexpr const char* kDigestAttribute = "shard_sha256";
constexpr const char* kArrayDigest = "sha256";
constexpr std::string_view kFormat = "1";
constexpr int kMaxRank = 32;
constexpr unsigned kMaxLinks = 65535;
/// A single attribute message of an HDF5 object header is bounded by 64 KiB.
constexpr std::size_t kMaxAttribute = 60000;

bool is_valid_name(std::string_view name) {
  return !name.empty() && name != "." && name.size() <= 1024 && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

bool is_reserved(std::string_view name) { return name == kFormatAttribute || name == kDigestAttribute; }

void require_valid(const Shard& shard) {
  VORONOI_REQUIRE(shard.arrays.size() < kMaxLinks && shard.attributes.size() < kMaxLinks - 2,
                  "a shard holds fewer than 65535 arrays");
  for (const auto& [name, value] : shard.attributes) {
    VORONOI_REQUIRE(is_valid_name(name) && !is_reserved(name), "attribute name \"" + name + "\" cannot be stored");
    VORONOI_REQUIRE(value.size() <= kMaxAttribute,
                    "attribute \"" + name + "\" is longer than 60000 bytes: store it as an array");
  }
  std::set<std::string_view> names;
  for (const ShardArray& array : shard.arrays) {
    VORONOI_REQUIRE(is_valid_name(array.name), "array name \"" + array.name + "\" cannot be stored");
    VORONOI_REQUIRE(names.insert(array.name).second, "array \"" + array.name + "\" stands twice");
    VORONOI_REQUIRE(array.shape.size() <= kMaxRank, "array \"" + array.name + "\" has more than 32 dimensions");
    const auto count = core::element_count(array.shape);
    const auto size = count ? core::checked_multiply(*count, core::dtype_size(array.dtype)) : std::nullopt;
    VORONOI_REQUIRE(size && static_cast<std::uint64_t>(*size) == array.bytes.size(),
                    "array \"" + array.name + "\" of shape " + core::to_string(array.shape) + " has " +
                        std::to_string(array.bytes.size()) + " bytes");
  }
}

/// Of each array; none where only the file is summed.
std::vector<std::string> digests_of(const Shard& shard, Sums sums) {
  std::vector<std::string> digests;
  if (sums == Sums::file) return digests;
  for (const ShardArray& array : shard.arrays) digests.push_back(core::sha256(array.bytes));
  return digests;
}

/// Digest over everything the shard says; lengths stand before texts, so no two contents give the same bytes.
std::string root_digest(const Shard& shard, const std::vector<std::string>& digests) {
  core::Sha256 hash;
  const auto text = [&hash](std::string_view value) { hash.update(fmt::format(" {} ", value.size())).update(value); };
  for (const auto& [name, value] : shard.attributes) {
    hash.update("attribute");
    text(name);
    text(value);
    hash.update("\n");
  }
  for (std::size_t i = 0; i < shard.arrays.size(); ++i) {
    const ShardArray& array = shard.arrays[i];
    hash.update("array");
    text(array.name);
    hash.update(fmt::format(" {} {} {}\n", core::dtype_name(array.dtype), core::to_string(array.shape), digests[i]));
  }
  return hash.hex();
}

std::string user_block(std::string_view digest, std::size_t file_size) {
  std::string block =
      std::string(kMagic) + "sha256 " + std::string(digest) + "\nbytes " + std::to_string(file_size) + "\n";
  block.resize(kUserBlock, '\0');
  return block;
}

/// IEEE half has no predefined HDF5 type; bfloat16 is stored as its 16 bits, because readers in other languages reject
/// foreign float layouts (the attribute `dtype` tells it from U16).
Handle storage_type(DType dtype) {
  const auto copy = [](hid_t type) { return Handle(H5Tcopy(type), H5Tclose, "H5Tcopy"); };
  switch (dtype) {
    case DType::f64:
      return copy(H5T_IEEE_F64LE);
    case DType::f32:
      return copy(H5T_IEEE_F32LE);
    case DType::u8:
      return copy(H5T_STD_U8LE);
    case DType::bf16:
    case DType::u16:
      return copy(H5T_STD_U16LE);
    case DType::u32:
      return copy(H5T_STD_U32LE);
    case DType::i32:
      return copy(H5T_STD_I32LE);
    case DType::i64:
      return copy(H5T_STD_I64LE);
    case DType::f16:
      break;
  }
  Handle half = copy(H5T_IEEE_F32LE);
  check(H5Tset_fields(half.get(), 15, 10, 5, 0, 10), "H5Tset_fields");
  check(H5Tset_size(half.get(), 2), "H5Tset_size");
  check(H5Tset_ebias(half.get(), 15), "H5Tset_ebias");
  return half;
}

Handle text_type(std::size_t size) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose, "H5Tcopy");
  check(H5Tset_size(type.get(), std::max<std::size_t>(size, 1)), "H5Tset_size");
  check(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "H5Tset_strpad");
  check(H5Tset_cset(type.get(), H5T_CSET_UTF8), "H5Tset_cset");
  return type;
}

void write_attribute(hid_t object, const std::string& name, std::string_view value) {
  const Handle type = text_type(value.size());
  const Handle space(H5Screate(value.empty() ? H5S_NULL : H5S_SCALAR), H5Sclose, "H5Screate");
  const Handle attribute(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                         "H5Acreate2");
  if (!value.empty()) check(H5Awrite(attribute.get(), type.get(), value.data()), "H5Awrite");
}

void write_array(hid_t file, const ShardArray& array, const std::string& digest) {
  std::vector<hsize_t> extents(array.shape.begin(), array.shape.end());
  const Handle space(extents.empty() ? H5Screate(H5S_SCALAR)
                                     : H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
                     H5Sclose, "H5Screate");
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate");
  check(H5Pset_obj_track_times(creation.get(), false), "H5Pset_obj_track_times");
  check(H5Pset_layout(creation.get(), H5D_CONTIGUOUS), "H5Pset_layout");
  check(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time");
  check(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time");
  const Handle type = storage_type(array.dtype);
  const Handle dataset(
      H5Dcreate2(file, array.name.c_str(), type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Dclose,
      "H5Dcreate2");
  if (!array.bytes.empty())
    check(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, array.bytes.data()), "H5Dwrite");
  write_attribute(dataset.get(), "dtype", core::dtype_name(array.dtype));
  if (!digest.empty()) write_attribute(dataset.get(), kArrayDigest, digest);
}

/// User block (zeros) and image.
std::vector<std::byte> build_file(const Shard& shard, Sums sums) {
  const std::vector<std::string> digests = digests_of(shard, sums);
  std::size_t total = std::size_t{1} << 16;
  for (const ShardArray& array : shard.arrays) total += array.bytes.size();
  const hdf5::Session session;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "H5Pcreate");
  check(H5Pset_fapl_core(access.get(), total, false), "H5Pset_fapl_core");
  check(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "H5Pset_fclose_degree");
  // The 1.8 format: checksummed metadata, and none of the "open for writing" marks of later ones.
  check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18), "H5Pset_libver_bounds");
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "H5Pcreate");
  check(H5Pset_userblock(creation.get(), kUserBlock), "H5Pset_userblock");
  check(H5Pset_obj_track_times(creation.get(), false), "H5Pset_obj_track_times");
  check(H5Pset_link_creation_order(creation.get(), H5P_CRT_ORDER_TRACKED), "H5Pset_link_creation_order");
  // Links and attributes stay in the header of `/`: no heaps, no trees.
  check(H5Pset_link_phase_change(creation.get(), kMaxLinks, 0), "H5Pset_link_phase_change");
  check(H5Pset_attr_phase_change(creation.get(), kMaxLinks, 0), "H5Pset_attr_phase_change");
  const Handle file(H5Fcreate("shard", H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose, "H5Fcreate");
  for (const auto& [name, value] : shard.attributes) write_attribute(file.get(), name, value);
  for (std::size_t i = 0; i < shard.arrays.size(); ++i)
    write_array(file.get(), shard.arrays[i], sums == Sums::all ? digests[i] : "");
  write_attribute(file.get(), kFormatAttribute, kFormat);
  if (sums == Sums::all) write_attribute(file.get(), kDigestAttribute, root_digest(shard, digests));
  check(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), "H5Fflush");
  const ssize_t size = check(H5Fget_file_image(file.get(), nullptr, 0), "H5Fget_file_image");
  std::vector<std::byte> bytes(kUserBlock + static_cast<std::size_t>(size));
  check(H5Fget_file_image(file.get(), bytes.data() + kUserBlock, static_cast<std::size_t>(size)), "H5Fget_file_image");
  hdf5::repair_superblock(std::span(bytes).subspan(kUserBlock));
  return bytes;
}

// Reading.

/// Lends `bytes` to the core driver without the two copies it makes by default; HDF5 only reads it.
class LentImage {
 public:
  explicit LentImage(std::span<std::byte> bytes) : bytes_(bytes) {}
  void attach(hid_t access) {
    H5FD_file_image_callbacks_t calls{};
    calls.image_malloc = [](std::size_t, H5FD_file_image_op_t, void* self) -> void* {
      return static_cast<LentImage*>(self)->bytes_.data();
    };
    calls.image_memcpy = [](void* to, const void*, std::size_t, H5FD_file_image_op_t, void*) { return to; };
    calls.image_realloc = [](void*, std::size_t, H5FD_file_image_op_t, void*) -> void* { return nullptr; };
    calls.image_free = [](void*, H5FD_file_image_op_t, void*) -> herr_t { return 0; };
    calls.udata_copy = [](void* self) { return self; };
    calls.udata_free = [](void*) -> herr_t { return 0; };
    calls.udata = this;
    check(H5Pset_file_image_callbacks(access, &calls), "H5Pset_file_image_callbacks");
    check(H5Pset_file_image(access, bytes_.data(), bytes_.size()), "H5Pset_file_image");
  }

 private:
  std::span<std::byte> bytes_;
};

/// Fixed-length text, as write_attribute makes it.
std::string read_text(const Handle& attribute, std::size_t limit) {
  const Handle type(H5Aget_type(attribute.get()), H5Tclose, "H5Aget_type");
  const Handle space(H5Aget_space(attribute.get()), H5Sclose, "H5Aget_space");
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0)
    throw std::runtime_error("is not a text of fixed length");
  const H5S_class_t form = H5Sget_simple_extent_type(space.get());
  if (form == H5S_NULL) return {};
  if (form != H5S_SCALAR) throw std::runtime_error("is not a single text");
  const std::size_t size = H5Tget_size(type.get());
  if (size == 0 || size > limit) throw std::runtime_error("claims more bytes than the file has");
  std::string text(size, '\0');
  check(H5Aread(attribute.get(), type.get(), text.data()), "H5Aread");
  return text;
}

/// Runs `body`; what goes wrong inside is reported with `place` before it.
template <class Body>
auto at(const std::string& place, Body body) {
  try {
    return body();
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(place + ": " + error.what());
  }
}

class Reader {
 public:
  Reader(std::span<std::byte> bytes, bool sums_arrays) : bytes_(bytes), sums_arrays_(sums_arrays), image_(bytes) {}

  Shard read() {
    hdf5::check_structure(bytes_.subspan(kUserBlock), kUserBlock);
    const hdf5::Session session;
    const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "H5Pcreate");
    check(H5Pset_fapl_core(access.get(), std::size_t{1} << 16, false), "H5Pset_fapl_core");
    check(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "H5Pset_fclose_degree");
    image_.attach(access.get());
    const Handle file(H5Fopen("shard", H5F_ACC_RDONLY, access.get()), H5Fclose, "H5Fopen");
    read_attributes(file.get());
    H5G_info_t group{};
    check(H5Gget_info(file.get(), &group), "H5Gget_info");
    if (group.nlinks > kMaxLinks) throw std::runtime_error("claims " + std::to_string(group.nlinks) + " arrays");
    for (hsize_t i = 0; i < group.nlinks; ++i) read_link(file.get(), i);
    const auto digest = own_.find(kDigestAttribute);
    const auto format = own_.find(kFormatAttribute);
    if ((digest == own_.end() && !digests_.empty()) || format == own_.end())
      throw std::runtime_error("is not a shard: its own attributes are missing");
    if (format->second != kFormat)
      throw std::runtime_error("shard format " + format->second + ": this version reads format 1");
    // Without digests of its own what the file holds is known by the one in its header alone.
    if (digest == own_.end()) return std::move(shard_);
    if (digests_.size() != shard_.arrays.size() || root_digest(shard_, digests_) != digest->second)
      throw std::runtime_error("checksum of attributes and arrays does not match");
    return std::move(shard_);
  }

 private:
  static herr_t collect_name(hid_t, const char* name, const H5A_info_t*, void* names) noexcept {
    try {
      static_cast<std::vector<std::string>*>(names)->emplace_back(name);
      return 0;
    } catch (const std::exception&) {
      return -1;
    }
  }

  void read_attributes(hid_t file) {
    std::vector<std::string> names;
    check(H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_name, &names), "H5Aiterate2");
    for (const std::string& name : names) {
      std::string value = at("attribute \"" + name + "\"", [&] {
        return read_text(Handle(H5Aopen(file, name.c_str(), H5P_DEFAULT), H5Aclose, "H5Aopen"), bytes_.size());
      });
      (is_reserved(name) ? own_ : shard_.attributes)[name] = std::move(value);
    }
  }

  void read_link(hid_t file, hsize_t index) {
    const auto name_at = [&](char* buffer, std::size_t size) {
      return check(H5Lget_name_by_idx(file, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, index, buffer, size, H5P_DEFAULT),
                   "H5Lget_name_by_idx");
    };
    std::array<char, 1026> buffer{};
    const ssize_t length = name_at(buffer.data(), buffer.size());
    const std::string name(buffer.data());
    if (static_cast<std::size_t>(length) != name.size() || !is_valid_name(name))
      throw std::runtime_error("array name \"" + name + "\" is not allowed");
    at("array \"" + name + "\"", [&] {
      H5L_info_t link{};
      check(H5Lget_info(file, name.c_str(), &link, H5P_DEFAULT), "H5Lget_info");
      // Soft and external links lead elsewhere, even to other files.
      if (link.type != H5L_TYPE_HARD) throw std::runtime_error("is a link, not an array");
      const Handle object(H5Oopen(file, name.c_str(), H5P_DEFAULT), H5Oclose, "H5Oopen");
      if (H5Iget_type(object.get()) != H5I_DATASET) throw std::runtime_error("is not an array");
      read_array(object.get(), name);
    });
  }

  /// The bytes are taken from the file's own image once HDF5 has told where they are: nothing is converted, no driver
  /// runs.
  void read_array(hid_t dataset, const std::string& name) {
    ShardArray array;
    array.name = name;
    const auto text = [dataset](const char* attribute) {
      return at(std::string("attribute \"") + attribute + "\"",
                [&] { return read_text(Handle(H5Aopen(dataset, attribute, H5P_DEFAULT), H5Aclose, "H5Aopen"), 64); });
    };
    const std::string type_name = text("dtype");
    const auto dtype = core::dtype_from_name(type_name);
    if (!dtype) throw std::runtime_error("unknown element type \"" + type_name + "\"");
    array.dtype = *dtype;
    const Handle type(H5Dget_type(dataset), H5Tclose, "H5Dget_type");
    if (check(H5Tequal(type.get(), storage_type(*dtype).get()), "H5Tequal") == 0)
      throw std::runtime_error("is not stored as its element type " + type_name);

    const Handle creation(H5Dget_create_plist(dataset), H5Pclose, "H5Dget_create_plist");
    if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS || H5Pget_external_count(creation.get()) != 0)
      throw std::runtime_error("is not stored in one piece inside the file");
    const Handle space(H5Dget_space(dataset), H5Sclose, "H5Dget_space");
    if (check(H5Sis_simple(space.get()), "H5Sis_simple") == 0 || H5Sget_simple_extent_type(space.get()) == H5S_NULL)
      throw std::runtime_error("has no shape");
    const int rank = check(H5Sget_simple_extent_ndims(space.get()), "H5Sget_simple_extent_ndims");
    if (rank > kMaxRank) throw std::runtime_error("has more than 32 dimensions");
    std::array<hsize_t, kMaxRank> extents{};
    check(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), "H5Sget_simple_extent_dims");
    for (int i = 0; i < rank; ++i) {
      const hsize_t extent = extents[static_cast<std::size_t>(i)];
      if (extent > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max()))
        throw std::runtime_error("a dimension overflows");
      array.shape.push_back(static_cast<std::int64_t>(extent));
    }
    const auto count = core::element_count(array.shape);
    const auto size = count ? core::checked_multiply(*count, core::dtype_size(*dtype)) : std::nullopt;
    if (!size || static_cast<std::uint64_t>(*size) > bytes_.size() - total_)
      throw std::runtime_error("shape " + core::to_string(array.shape) + " needs more bytes than the file has");
    if (*size > 0) {
      const haddr_t offset = H5Dget_offset(dataset);
      if (offset == HADDR_UNDEF || offset > bytes_.size() ||
          static_cast<std::uint64_t>(*size) > bytes_.size() - offset ||
          H5Dget_storage_size(dataset) != static_cast<hsize_t>(*size))
        throw std::runtime_error("its bytes lie outside the file");
      const std::span<std::byte> bytes =
          bytes_.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(*size));
      array.bytes.assign(bytes.begin(), bytes.end());
    }
    total_ += static_cast<std::size_t>(*size);
    if (check(H5Aexists(dataset, kArrayDigest), "H5Aexists") != 0) {
      digests_.push_back(text(kArrayDigest));
      if (sums_arrays_ && digests_.back() != core::sha256(array.bytes))
        throw std::runtime_error("checksum does not match");
    }
    shard_.arrays.push_back(std::move(array));
  }

  std::span<std::byte> bytes_;
  bool sums_arrays_;
  LentImage image_;
  Shard shard_;
  std::vector<std::string> digests_;
  std::map<std::string, std::string> own_;
  std::size_t total_ = 0;
};

void check_user_block(const std::string& file, std::span<const std::byte> bytes, bool is_known) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), kUserBlock));
  if (!head.starts_with(kMagic)) {
    constexpr std::string_view kHdf5 = "\x89HDF\r\n\x1a\n";
    throw FormatError(file, head.empty() ? "is empty, not a shard"
                            : head.starts_with(kHdf5)
                                ? "is an HDF5 file, but not a shard (no \"voronoi shard 1\" before it)"
                                : "is not a shard: it does not begin with \"voronoi shard 1\"");
  }
  if (bytes.size() < kUserBlock) throw FormatError(file, bytes.size(), "is cut off inside its header");
  if (!is_known && head != user_block(core::sha256(bytes.subspan(kUserBlock)), bytes.size()))
    throw FormatError(file,
                      "is damaged: length or SHA-256 is not the one in its header; a resumed run that needs it sets it "
                      "aside and makes it again");
}

/// is_known: its bytes are known to be those that were written.
Shard shard_of(const std::string& file, std::span<std::byte> bytes, bool is_known, Sums sums) {
  check_user_block(file, bytes, is_known);
  try {
    return Reader(bytes, sums == Sums::all).read();
  } catch (const std::runtime_error& error) {
    throw FormatError(file, error.what());
  }
}

}  // namespace

std::vector<std::byte> serialize(const Shard& shard, Sums sums) {
  require_valid(shard);
  std::vector<std::byte> bytes;
  try {
    bytes = build_file(shard, sums);
  } catch (const hdf5::Failure& error) {
    throw StoreError(std::string("cannot build a shard in memory: ") + error.what());
  }
  const std::string block = user_block(core::sha256(std::span(bytes).subspan(kUserBlock)), bytes.size());
  std::memcpy(bytes.data(), block.data(), block.size());
  return bytes;
}

Shard read_shard(const std::filesystem::path& path, Sums sums) {
  std::vector<std::byte> bytes = core::read_file(path);
  return shard_of(path.string(), bytes, false, sums);
}

std::optional<Shard> read_shard_if(const std::filesystem::path& path, std::string_view sha256) {
  std::vector<std::byte> bytes = core::read_file(path);
  if (core::sha256(bytes) != sha256) return std::nullopt;
  return shard_of(path.string(), bytes, true, Sums::file);
}

std::string library_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace voronoi::store
