#include "store/hdf5_structure.h"

#include <algorithm>
#include <array>
#include <bit>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Sections named below are those of "HDF5 File Format Specification Version 2.0".
namespace voronoi::store::hdf5 {
namespace {

constexpr std::uint64_t kUndefined = ~std::uint64_t{0};
constexpr std::size_t kSuperblockBytes = 44;  ///< without its checksum, for addresses of 8 bytes
constexpr std::uint64_t kMaxRankRead = 32;

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
    const std::uint64_t root = block.number(8);
    header(root);
    is_root_ = false;
    std::set<std::string> names;
    std::set<std::uint64_t> headers{root};
    for (const Link& link : std::exchange(links_, {})) {
      try {
        if (!names.insert(link.name).second || !headers.insert(link.header).second) refuse("stands twice");
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
    if ((flags & 0xCCU) != 0) refuse("HDF5 object header holds fields that shards do not use");
    if ((flags & 0x20U) != 0) prefix.take(16);  // times
    if ((flags & 0x10U) != 0) prefix.take(4);   // phase change values
    const std::uint64_t size = prefix.number(std::size_t{1} << (flags & 3U));
    const std::uint64_t start = before - prefix.left();
    if (size > image_.size()) refuse("HDF5 metadata lies outside the file");
    check_sum(range(address, start + size), range(address + start + size, 4));
    seen_.fill(0);
    attributes_.clear();
    std::vector<Chunk> more;
    messages(Cursor(range(address + start, size)), more);
    for (std::size_t i = 0; i < more.size(); ++i) {
      const Chunk chunk = more[i];
      if (!chunks_.insert(chunk.address).second) refuse("HDF5 object headers share a piece");
      const auto bytes = range(chunk.address, chunk.size);
      if (bytes.size() < 8 || Cursor(bytes).text(4) != "OCHK") refuse("HDF5 object header continuation is missing");
      check_sum(bytes.first(bytes.size() - 4), bytes.last(4));
      messages(Cursor(bytes.subspan(4, bytes.size() - 8)), more);
    }
    if (is_root_ ? seen_[kLinkInfo] == 0 : seen_[kDataspace] == 0 || seen_[kDatatype] == 0 || seen_[kLayout] == 0)
      refuse(is_root_ ? "is not laid out as a shard (HDF5 root group)" : "is not an array");
  }

  void messages(Cursor cursor, std::vector<Chunk>& more) {
    constexpr std::size_t kPrefix = 4;
    while (cursor.left() >= kPrefix) {  // what is less is a gap
      const std::uint64_t type = cursor.number(1), size = cursor.number(2), flags = cursor.number(1);
      if ((flags & 0x02U) != 0) refuse("HDF5 message is stored elsewhere");
      if ((flags & ~std::uint64_t{0x05}) != 0) refuse("HDF5 message has flags that shards do not use");
      message(type, Cursor(cursor.take(size)), more);
    }
  }

  enum Type : std::uint64_t {
    kNothing = 0x00,
    kDataspace = 0x01,
    kLinkInfo = 0x02,
    kDatatype = 0x03,
    kFillValue = 0x05,
    kLink = 0x06,
    kExternalFiles = 0x07,
    kLayout = 0x08,
    kGroupInfo = 0x0A,
    kFilters = 0x0B,
    kAttribute = 0x0C,
    kContinuation = 0x10,
    kAttributeInfo = 0x15,
  };

  /// IV.A.2: the messages by their type. Each is taken apart to its last byte: what HDF5 decodes is what was judged.
  void message(std::uint64_t type, Cursor body, std::vector<Chunk>& more) {
    if (type == kNothing) return;
    if (type == kExternalFiles || type == kFilters) refuse("is not stored in one piece inside the file");
    if (type >= seen_.size()) refuse_type(type);
    const bool of_root = type == kLink || type == kLinkInfo || type == kGroupInfo;
    const bool of_array = type == kDataspace || type == kDatatype || type == kFillValue || type == kLayout;
    if (of_root && !is_root_) refuse("is not an array");
    if (of_array && is_root_) refuse("is not laid out as a shard (HDF5 root group)");
    const bool many = type == kLink || type == kAttribute || type == kContinuation;
    if (++seen_[type] > 1 && !many) refuse("HDF5 message of type " + std::to_string(type) + " stands twice");
    switch (type) {
      case kDataspace:
        dataspace(body);
        break;
      case kDatatype:
        datatype(body);
        break;
      case kFillValue:  // version 3, without a value
        if (body.number(1) != 3 || (body.number(1) & 0xE0U) != 0) refuse("HDF5 fill value that shards do not use");
        break;
      case kLayout:
        if (body.number(1) != 3 || body.number(1) != 1) refuse("is not stored in one piece inside the file");
        body.take(16);  // address and size, which the reader compares with the shape
        break;
      case kGroupInfo: {
        if (body.number(1) != 0) refuse_version();
        const std::uint64_t flags = body.number(1);
        if (flags > 3) refuse_version();
        body.take(4 * static_cast<std::uint64_t>(std::popcount(flags)));  // phase change values, estimates
        break;
      }
      case kLinkInfo:
        inside_header(body, 8);
        break;
      case kAttributeInfo:
        inside_header(body, 2);
        break;
      case kLink:
        link(body);
        break;
      case kAttribute:
        attribute(body);
        break;
      case kContinuation: {
        const std::uint64_t address = body.number(8);
        more.push_back({address, body.number(8)});
        break;
      }
      default:
        refuse_type(type);
    }
    if (body.left() != 0) refuse("HDF5 message of type " + std::to_string(type) + " has another size than its content");
  }

  [[noreturn]] static void refuse_type(std::uint64_t type) {
    refuse("HDF5 message of type " + std::to_string(type) + " has no place in a shard");
  }
  [[noreturn]] static void refuse_version() { refuse("HDF5 message of an unknown version"); }

  /// Link info and attribute info: neither heap nor tree may exist. Bit 0 of the flags: a counter of `counter_bytes`
  /// follows; bit 1: the address of one more tree.
  static void inside_header(Cursor& body, std::size_t counter_bytes) {
    if (body.number(1) != 0) refuse_version();
    const std::uint64_t flags = body.number(1);
    if (flags > 3) refuse_version();
    if ((flags & 1U) != 0) body.take(counter_bytes);
    for (int i = 0; i < ((flags & 2U) != 0 ? 3 : 2); ++i)
      if (body.number(8) != kUndefined) refuse("HDF5 links or attributes lie outside their header");
  }

  /// Version 2: rank, whether largest extents follow, kind (0 scalar, 1 extents, 2 nothing).
  static void dataspace(Cursor& body) {
    if (body.number(1) != 2) refuse_version();
    const std::uint64_t rank = body.number(1), flags = body.number(1), kind = body.number(1);
    if (rank > kMaxRankRead) refuse("has more than 32 dimensions");
    if (flags > 1 || kind > 2 || (kind != 1 && (rank != 0 || flags != 0))) refuse("HDF5 dataspace of an unknown form");
    const auto extents = body.take(8 * rank);
    if (flags == 1 && !std::ranges::equal(body.take(8 * rank), extents)) refuse("can change its shape");
  }

  /// Version 1 of little-endian integers (class 0) of all their bits, and of three floats (class 1).
  static void datatype(Cursor& body) {
    static constexpr std::array<std::string_view, 3> kFloats{
        std::string_view("\x11\x20\x3F\x00\x08\x00\x00\x00\x00\x00\x40\x00\x34\x0B\x00\x34\xFF\x03\x00\x00", 20),
        std::string_view("\x11\x20\x1F\x00\x04\x00\x00\x00\x00\x00\x20\x00\x17\x08\x00\x17\x7F\x00\x00\x00", 20),
        std::string_view("\x11\x20\x0F\x00\x02\x00\x00\x00\x00\x00\x10\x00\x0A\x05\x00\x0A\x0F\x00\x00\x00", 20)};
    const std::string whole = body.text(body.left());
    if (std::find(kFloats.begin(), kFloats.end(), whole) != kFloats.end()) return;
    Cursor integer(std::as_bytes(std::span(whole)));
    const bool known = whole.size() == 12 && integer.number(1) == 0x10 && (integer.number(3) & ~std::uint64_t{8}) == 0;
    const std::uint64_t size = known ? integer.number(4) : 0;
    if (!std::has_single_bit(size) || size > 8 || integer.number(2) != 0 || integer.number(2) != 8 * size)
      refuse("is of an HDF5 type that shards do not use");
  }

  /// A text of fixed length, alone or not there at all.
  void attribute(Cursor& body) {
    const std::uint64_t version = body.number(1), flags = body.number(1), name = body.number(2);
    const std::uint64_t type_bytes = body.number(2), space_bytes = body.number(2);
    if (version != 3 || flags != 0 || body.number(1) > 1) refuse("HDF5 attribute of an unknown form");
    const std::string text = body.text(name);
    if (text.size() < 2 || text.find('\0') != text.size() - 1) refuse("HDF5 attribute without a name");
    if (!attributes_.insert(text).second) refuse("HDF5 attribute stands twice");
    Cursor type(body.take(type_bytes)), space(body.take(space_bytes));
    // Class 3, version 1; padding and character set; size.
    if (type_bytes != 8 || type.number(1) != 0x13) refuse("HDF5 attribute that is no text of fixed length");
    const std::uint64_t form = type.number(3), size = type.number(4);
    if ((form & 0x0FU) > 2 || form >> 4 > 1 || size == 0) refuse("HDF5 attribute that is no text of fixed length");
    if (space_bytes != 4 || space.number(1) != 2 || space.number(2) != 0)
      refuse("HDF5 attribute that is no single text");
    const std::uint64_t kind = space.number(1);
    if (kind != 0 && kind != 2) refuse("HDF5 attribute that is no single text");
    if (kind == 0) body.take(size);
  }

  void link(Cursor& body) {
    if (body.number(1) != 1) refuse("HDF5 link of an unknown version");
    const std::uint64_t flags = body.number(1);
    if ((flags & 0xE0U) != 0) refuse("HDF5 link of an unknown version");
    const std::uint64_t type = (flags & 0x08U) != 0 ? body.number(1) : 0;
    if ((flags & 0x04U) != 0) body.take(8);  // creation order
    if ((flags & 0x10U) != 0 && body.number(1) > 1) refuse("HDF5 link of an unknown character set");
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
  std::array<int, 0x16> seen_{};      ///< of the present header: messages by their type
  std::set<std::string> attributes_;  ///< and names of attributes
  std::set<std::uint64_t> chunks_;
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
