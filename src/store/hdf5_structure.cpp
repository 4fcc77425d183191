#include "store/hdf5_structure.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Sections named below are those of "HDF5 File Format Specification Version 2.0".
namespace voronoi::store::hdf5 {
namespace {

constexpr std::uint64_t kUndefined = ~std::uint64_t{0};
constexpr std::size_t kSuperblockBytes = 44;  ///< without its checksum, for addresses of 8 bytes
constexpr std::size_t kMaxChunks = 1 << 16;

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error(what); }

/// Bob Jenkins' lookup3 of little-endian words, the checksum of HDF5's metadata. Not for an empty range.
std::uint32_t lookup3(std::span<const std::byte> bytes) {
  const auto word = [&](std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t k = 4; k-- > 0;)
      value = value << 8 | (at + k < bytes.size() ? std::to_integer<std::uint32_t>(bytes[at + k]) : 0U);
    return value;
  };
  std::uint32_t a = 0xDEADBEEFU + static_cast<std::uint32_t>(bytes.size()), b = a, c = a;
  std::size_t at = 0;
  for (; bytes.size() - at > 12; at += 12) {
    a += word(at), b += word(at + 4), c += word(at + 8);
    a = (a - c) ^ std::rotl(c, 4), c += b;
    b = (b - a) ^ std::rotl(a, 6), a += c;
    c = (c - b) ^ std::rotl(b, 8), b += a;
    a = (a - c) ^ std::rotl(c, 16), c += b;
    b = (b - a) ^ std::rotl(a, 19), a += c;
    c = (c - b) ^ std::rotl(b, 4), b += a;
  }
  a += word(at), b += word(at + 4), c += word(at + 8);
  c = (c ^ b) - std::rotl(b, 14);
  a = (a ^ c) - std::rotl(c, 11);
  b = (b ^ a) - std::rotl(a, 25);
  c = (c ^ b) - std::rotl(b, 16);
  a = (a ^ c) - std::rotl(c, 4);
  b = (b ^ a) - std::rotl(a, 14);
  return (c ^ b) - std::rotl(b, 24);
}

/// A range that is read from front to back; never past its end.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::size_t left() const { return bytes_.size(); }
  std::span<const std::byte> take(std::uint64_t n) {
    if (n > bytes_.size()) refuse("HDF5 metadata ends inside a field");
    const auto head = bytes_.first(static_cast<std::size_t>(n));
    bytes_ = bytes_.subspan(static_cast<std::size_t>(n));
    return head;
  }
  std::uint64_t number(std::size_t n_bytes) {
    std::uint64_t value = 0;
    const auto field = take(n_bytes);
    for (std::size_t k = n_bytes; k-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(field[k]);
    return value;
  }
  std::string text(std::uint64_t n) {
    const auto field = take(n);
    return {reinterpret_cast<const char*>(field.data()), field.size()};
  }

 private:
  std::span<const std::byte> bytes_;
};

void check_sum(std::span<const std::byte> bytes, std::span<const std::byte> stored) {
  if (Cursor(stored).number(4) != lookup3(bytes)) refuse("checksum of HDF5 metadata does not match");
}

struct Link {
  std::string name;
  std::uint64_t header = 0;
};

class Walk {
 public:
  Walk(std::span<const std::byte> image, std::uint64_t base) : image_(image), base_(base) {}

  void run() {
    Cursor block(range(0, kSuperblockBytes));
    if (block.text(8) != "\x89HDF\r\n\x1a\n" || block.number(1) != 2 || block.number(1) != 8 || block.number(1) != 8)
      refuse("is not laid out as a shard (HDF5 superblock)");
    check_sum(range(0, kSuperblockBytes), range(kSuperblockBytes, 4));
    block.number(1);  // status flags
    const std::uint64_t base = block.number(8), extension = block.number(8), end = block.number(8);
    if (base != base_ || extension != kUndefined || end != base_ + image_.size())
      refuse("is not laid out as a shard (HDF5 superblock)");
    is_root_ = true;
    header(block.number(8));
    is_root_ = false;
    for (const Link& link : std::exchange(links_, {})) {
      try {
        header(link.header);
      } catch (const std::runtime_error& error) {
        refuse("array \"" + link.name + "\": " + error.what());
      }
    }
  }

 private:
  struct Chunk {
    std::uint64_t address, size;
  };

  std::span<const std::byte> range(std::uint64_t address, std::uint64_t size) const {
    if (address > image_.size() || size > image_.size() - address) refuse("HDF5 metadata lies outside the file");
    return image_.subspan(static_cast<std::size_t>(address), static_cast<std::size_t>(size));
  }

  /// IV.A.1.b: version 2 data object header and its continuations.
  void header(std::uint64_t address) {
    Cursor prefix(range(address, std::min<std::uint64_t>(64, address <= image_.size() ? image_.size() - address : 0)));
    const std::size_t before = prefix.left();
    if (prefix.text(4) != "OHDR" || prefix.number(1) != 2) refuse("HDF5 object header is missing");
    const auto flags = static_cast<unsigned>(prefix.number(1));
    if ((flags & 0xC0U) != 0) refuse("HDF5 object header holds unknown fields");
    if ((flags & 0x20U) != 0) prefix.take(16);  // times
    if ((flags & 0x10U) != 0) prefix.take(4);   // phase change values
    const std::uint64_t size = prefix.number(std::size_t{1} << (flags & 3U));
    const std::uint64_t start = before - prefix.left();
    if (size > image_.size()) refuse("HDF5 metadata lies outside the file");
    check_sum(range(address, start + size), range(address + start + size, 4));
    with_order_ = (flags & 0x04U) != 0;
    std::vector<Chunk> more;
    messages(Cursor(range(address + start, size)), more);
    for (std::size_t i = 0; i < more.size(); ++i) {
      if (++chunks_ > kMaxChunks) refuse("HDF5 object headers have too many pieces");
      const Chunk chunk = more[i];
      const auto bytes = range(chunk.address, chunk.size);
      if (bytes.size() < 8 || Cursor(bytes).text(4) != "OCHK") refuse("HDF5 object header continuation is missing");
      check_sum(bytes.first(bytes.size() - 4), bytes.last(4));
      messages(Cursor(bytes.subspan(4, bytes.size() - 8)), more);
    }
  }

  void messages(Cursor cursor, std::vector<Chunk>& more) {
    const std::size_t prefix = with_order_ ? 6 : 4;
    while (cursor.left() >= prefix) {  // what is less is a gap
      const std::uint64_t type = cursor.number(1), size = cursor.number(2), flags = cursor.number(1);
      if (with_order_) cursor.take(2);
      if ((flags & 0x02U) != 0) refuse("HDF5 message is stored elsewhere");
      message(type, Cursor(cursor.take(size)), more);
    }
  }

  /// IV.A.2: the messages by their type.
  void message(std::uint64_t type, Cursor body, std::vector<Chunk>& more) {
    switch (type) {
      case 0x00:  // nothing
      case 0x01:  // dataspace
      case 0x05:  // fill value
      case 0x0A:  // group info
        return;
      case 0x02:  // link info
        if (!is_root_) refuse("is not an array");
        return inside_header(body, 8);
      case 0x15:  // attribute info
        return inside_header(body, 2);
      case 0x03:
        return datatype(body);
      case 0x06:
        return link(body);
      case 0x07:  // external files
      case 0x0B:  // filters
        refuse("is not stored in one piece inside the file");
      case 0x08: {  // layout
        const std::uint64_t version = body.number(1), layout = body.number(1);
        if (version != 3 || layout != 1) refuse("is not stored in one piece inside the file");
        return;
      }
      case 0x0C:
        return attribute(body);
      case 0x10: {  // continuation
        const std::uint64_t address = body.number(8);
        more.push_back({address, body.number(8)});
        return;
      }
      default:
        refuse("HDF5 message of type " + std::to_string(type) + " has no place in a shard");
    }
  }

  /// Link info and attribute info: neither heap nor tree may exist. Bit 0 of the flags: a counter of `counter_bytes`
  /// follows.
  static void inside_header(Cursor body, std::size_t counter_bytes) {
    if (body.number(1) != 0) refuse("HDF5 message of an unknown version");
    if ((body.number(1) & 1U) != 0) body.take(counter_bytes);
    if (body.number(8) != kUndefined || body.number(8) != kUndefined)
      refuse("HDF5 links or attributes lie outside their header");
  }

  /// Integers, floats and texts have no parts; their properties are checked by HDF5.
  static void datatype(Cursor body) {
    const std::uint64_t form = body.number(1) & 15U;
    if (form != 0 && form != 1 && form != 3) refuse("is of an HDF5 type that shards do not use");
  }

  static void attribute(Cursor body) {
    const std::uint64_t version = body.number(1), flags = body.number(1), name = body.number(2), type = body.number(2);
    const std::uint64_t space = body.number(2);
    if (version == 3) body.take(1);  // character set
    if (version < 2 || version > 3 || flags != 0) refuse("HDF5 attribute of an unknown form");
    const std::string text = body.text(name);
    if (text.empty() || text.find('\0') != text.size() - 1) refuse("HDF5 attribute without a name");
    datatype(Cursor(body.take(type)));
    body.take(space);
  }

  void link(Cursor body) {
    if (!is_root_) refuse("is not an array");
    if (body.number(1) != 1) refuse("HDF5 link of an unknown version");
    const std::uint64_t flags = body.number(1);
    const std::uint64_t type = (flags & 0x08U) != 0 ? body.number(1) : 0;
    if ((flags & 0x04U) != 0) body.take(8);  // creation order
    if ((flags & 0x10U) != 0) body.take(1);  // character set
    Link found;
    found.name = body.text(body.number(std::size_t{1} << (flags & 3U)));
    // Soft and external links lead elsewhere, even to other files.
    if (type != 0) refuse("array \"" + found.name + "\": is a link, not an array");
    found.header = body.number(8);
    links_.push_back(std::move(found));
  }

  std::span<const std::byte> image_;
  std::uint64_t base_;
  bool is_root_ = false;
  bool with_order_ = false;  ///< messages of the present header carry their creation order
  std::size_t chunks_ = 0;
  std::vector<Link> links_;
};

}  // namespace

void repair_superblock(std::span<std::byte> image) {
  // II.A: version at byte 8, size of addresses at byte 9.
  if (image.size() < kSuperblockBytes + 4 || image[8] != std::byte{2} || image[9] != std::byte{8}) return;
  const std::uint32_t sum = lookup3(image.first(kSuperblockBytes));
  for (std::size_t k = 0; k < 4; ++k) image[kSuperblockBytes + k] = static_cast<std::byte>(sum >> (8 * k) & 0xFFU);
}

void check_structure(std::span<const std::byte> image, std::uint64_t base) { Walk(image, base).run(); }

}  // namespace voronoi::store::hdf5
