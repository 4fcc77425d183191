#include "store/shard.h"

#include <gmock/gmock.h>
#include <hdf5.h>
#include <malloc.h>
#include <sys/stat.h>

#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/random.h"
#include "fuzz/hdf5_seal.h"
#include "store/hdf5_structure.h"
#include "support/skip.h"
#include "support/temporary.h"

namespace voronoi::store {
namespace {

using core::DType;
using core::FormatError;
using core::StoreError;
using test::message_of;
using test::TemporaryFolder;
using testing::HasSubstr;

ShardArray make_array(const std::string& name, DType dtype, const core::Shape& shape, std::uint64_t seed) {
  const core::CounterRandom random(seed, 7);
  ShardArray array{name, dtype, shape, {}};
  array.bytes.resize(static_cast<std::size_t>(*core::element_count(shape) * core::dtype_size(dtype)));
  for (std::size_t i = 0; i < array.bytes.size(); ++i) array.bytes[i] = static_cast<std::byte>(random.bits(i) & 0xFF);
  return array;
}

std::string write_shard(const std::filesystem::path& path, const Shard& shard, std::string_view tag) {
  const std::vector<std::byte> bytes = serialize(shard);
  core::write_file_atomic(path, bytes, tag);
  return core::sha256(bytes);
}

Shard sample() {
  Shard shard;
  shard.attributes = {{"method", "vptq"},
                      {"linear", "model.layers.0.self_attn.q_proj"},
                      {"empty", ""},
                      {"text", std::string("two\nlines, a zero\0, \xC3\xA9", 22)}};
  shard.arrays = {make_array("indices", DType::u8, {5, 9}, 1),    make_array("codebook", DType::f16, {2, 3, 4}, 2),
                  make_array("scales", DType::bf16, {7}, 3),      make_array("permutation", DType::i64, {9}, 4),
                  make_array("nothing", DType::f32, {0, 8}, 5),   make_array("scalar", DType::f64, {}, 6),
                  make_array("a16", DType::u16, {3}, 7),          make_array("a32", DType::u32, {3}, 8),
                  make_array("b32", DType::i32, {3, 1, 1, 2}, 9), make_array("c32", DType::f32, {4}, 10)};
  return shard;
}

Shard small() {
  Shard shard;
  shard.attributes = {{"method", "vptq"}};
  shard.arrays = {make_array("indices", DType::u8, {5, 9}, 1), make_array("scales", DType::f32, {7}, 3)};
  return shard;
}

bool same(const Shard& a, const Shard& b) {
  if (a.attributes != b.attributes || a.arrays.size() != b.arrays.size()) return false;
  for (std::size_t i = 0; i < a.arrays.size(); ++i) {
    const ShardArray &x = a.arrays[i], &y = b.arrays[i];
    if (x.name != y.name || x.dtype != y.dtype || x.shape != y.shape || x.bytes != y.bytes) return false;
  }
  return true;
}

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// What every HDF5 content gets before it: here with a right digest, so that the content itself is judged.
std::string with_user_block(const std::string& content) {
  std::string block =
      "voronoi shard 1\nsha256 " + core::sha256(content) + "\nbytes " + std::to_string(512 + content.size()) + "\n";
  block.resize(512, '\0');
  return block + content;
}

/// A file made with HDF5 itself by `fill`, laid out as in a shard, without the user block.
template <class Fill>
std::string plain_hdf5(Fill&& fill) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fapl_core(access, 1 << 16, false);
  H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
  const hid_t creation = H5Pcreate(H5P_FILE_CREATE);
  H5Pset_userblock(creation, 512);
  H5Pset_link_creation_order(creation, H5P_CRT_ORDER_TRACKED);
  const hid_t file = H5Fcreate("made-by-hand", H5F_ACC_TRUNC, creation, access);
  fill(file);
  H5Fflush(file, H5F_SCOPE_GLOBAL);
  std::string bytes(static_cast<std::size_t>(H5Fget_file_image(file, nullptr, 0)), '\0');
  H5Fget_file_image(file, bytes.data(), bytes.size());
  hdf5::repair_superblock(std::as_writable_bytes(std::span(bytes)));
  H5Fclose(file);
  H5Pclose(creation);
  H5Pclose(access);
  return bytes;
}

void add_text(hid_t object, const char* name, const std::string& value) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, value.size());
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, value.data());
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

/// Adds a dataset of u8 of the given extents; `creation` is consumed.
void add_dataset(hid_t file, const char* name, const std::vector<hsize_t>& extents, hid_t creation) {
  const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, name, H5T_STD_U8LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  add_text(dataset, "dtype", "U8");
  add_text(dataset, "sha256", std::string(64, '0'));
  H5Dclose(dataset);
  H5Sclose(space);
  H5Pclose(creation);
}

std::string error_of_content(const TemporaryFolder& folder, const std::string& content) {
  const auto path = folder / "crafted.h5";
  test::write_bytes(path, with_user_block(content));
  std::string message = message_of<FormatError>([&] { read_shard(path); });
  EXPECT_THAT(message, HasSubstr(path.string()));
  return message;
}

TEST(Shard, EveryTypeAndShapeComesBackAsItWas) {
  const TemporaryFolder folder;
  const Shard shard = sample();
  const std::string digest = write_shard(folder / "a.h5", shard, "1");
  EXPECT_TRUE(same(read_shard(folder / "a.h5"), shard));
  EXPECT_EQ(digest, core::sha256(test::read_bytes(folder / "a.h5")));
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(Shard, WhatIsSummedOnceHasOneDigest) {
  const TemporaryFolder folder;
  const std::string path = (folder / "a.h5").string(), bytes = text_of(serialize(sample(), Sums::file));
  test::write_bytes(path, bytes);
  for (const Sums sums : {Sums::file, Sums::all}) EXPECT_TRUE(same(read_shard(path, sums), sample()));
  EXPECT_EQ(bytes.find("sha256", 512), std::string::npos);
  std::string struck = bytes;
  struck.back() = static_cast<char>(struck.back() ^ 1);
  test::write_bytes(path, struck);
  EXPECT_THAT(message_of<FormatError>([&] { read_shard(path, Sums::file); }), HasSubstr("is damaged"));
  // Digests of some arrays alone are those of no file that was written here.
  const std::string whole = text_of(serialize(sample()));
  std::string renamed = whole.substr(512);
  renamed.replace(renamed.find("shard_sha256"), 12, "other_sha256");
  error_of_content(folder, renamed);
}

TEST(Shard, NothingAtAllComesBackToo) {
  const TemporaryFolder folder;
  write_shard(folder / "a.h5", {}, "1");
  EXPECT_TRUE(same(read_shard(folder / "a.h5"), {}));
}

TEST(Shard, ManyArraysKeepTheirOrder) {
  const TemporaryFolder folder;
  Shard shard;
  for (int i = 0; i < 200; ++i)
    shard.arrays.push_back(make_array("array_" + std::to_string((i * 37) % 200), DType::u16, {3}, 1));
  for (int i = 0; i < 60; ++i)
    shard.attributes["key" + std::to_string(i)] = std::string(900, static_cast<char>('a' + i % 26));
  write_shard(folder / "a.h5", shard, "1");
  EXPECT_TRUE(same(read_shard(folder / "a.h5"), shard));
}

TEST(Shard, LongAttributesComeBack) {
  const TemporaryFolder folder;
  Shard shard;
  shard.attributes = {{"longest", std::string(60000, 'x')}, {"second", std::string(60000, 'y')}};
  write_shard(folder / "a.h5", shard, "1");
  EXPECT_TRUE(same(read_shard(folder / "a.h5"), shard));
}

TEST(Shard, SameContentGivesTheSameBytes) {
  const std::vector<std::byte> first = serialize(sample());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(serialize(sample()), first);
  Shard other = sample();
  std::map<std::string, std::string> reversed;
  for (auto it = other.attributes.rbegin(); it != other.attributes.rend(); ++it) reversed[it->first] = it->second;
  other.attributes = reversed;
  EXPECT_EQ(serialize(other), first);
  std::swap(other.arrays[0], other.arrays[1]);
  EXPECT_NE(serialize(other), first);
}

/// New memory full of other bytes must not show in the file.
TEST(Shard, DirtyMemoryDoesNotShow) {
  const std::vector<std::byte> clean = serialize(sample());
  for (const int fill : {0x55, 0xAA, 0xFF}) {
    ::mallopt(M_PERTURB, fill);
    const std::vector<std::byte> dirty = serialize(sample());
    ::mallopt(M_PERTURB, 0);
    EXPECT_EQ(dirty, clean) << fill;
  }
}

TEST(Shard, BytesOfTheFormatStay) {
  const std::string bytes = text_of(serialize(small()));
  EXPECT_EQ(bytes.substr(0, 23), "voronoi shard 1\nsha256 ");
  EXPECT_EQ(bytes.substr(512, 8), "\x89HDF\r\n\x1a\n");
  EXPECT_THAT(bytes, HasSubstr(core::sha256(small().arrays[0].bytes)));
  // The root's digest, written out by hand.
  const std::string content = "attribute 6 method 4 vptq\narray 7 indices U8 [5, 9] " +
                              core::sha256(small().arrays[0].bytes) + "\narray 6 scales F32 [7] " +
                              core::sha256(small().arrays[1].bytes) + "\n";
  EXPECT_THAT(bytes, HasSubstr(core::sha256(content)));
  unsigned version[3] = {};
  H5get_libversion(&version[0], &version[1], &version[2]);
  if (version[0] == 1 && version[1] == 10 && version[2] == 8) {
    EXPECT_EQ(core::sha256(bytes), "abcc065e370517d6bbe251008e8f6b567aa34d7f0980c5edc6555e76285d946a");
  }
}

TEST(Shard, OtherToolsCanOpenIt) {
  const TemporaryFolder folder;
  write_shard(folder / "a.h5", sample(), "1");
  const hid_t file = H5Fopen((folder / "a.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t dataset = H5Dopen2(file, "codebook", H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  std::array<float, 24> values{};
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  const ShardArray expected = sample().arrays[1];
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, expected.bytes.data() + 2 * i, 2);
    const float value = core::half_to_float(bits);
    EXPECT_TRUE(values[i] == value || (std::isnan(values[i]) && std::isnan(value))) << i;
  }
  H5Dclose(dataset);
  H5Fclose(file);
}

TEST(Shard, RefusesNamesThatAreNotNames) {
  for (const std::string& name :
       {std::string(), std::string("a/b"), std::string("/"), std::string("."), std::string("a\0b", 3)}) {
    Shard shard;
    shard.arrays = {make_array(name, DType::u8, {1}, 1)};
    EXPECT_THROW(serialize(shard), core::InternalError) << name;
    shard.arrays.clear();
    shard.attributes[name] = "x";
    EXPECT_THROW(serialize(shard), core::InternalError) << name;
  }
  Shard twice;
  twice.arrays = {make_array("a", DType::u8, {1}, 1), make_array("a", DType::u8, {1}, 1)};
  EXPECT_THROW(serialize(twice), core::InternalError);
  Shard reserved;
  reserved.attributes["shard_sha256"] = "x";
  EXPECT_THROW(serialize(reserved), core::InternalError);
}

TEST(Shard, RefusesArraysWhoseBytesDoNotFitTheirShape) {
  Shard shard;
  shard.arrays = {ShardArray{"a", DType::u16, {3}, std::vector<std::byte>(5)}};
  EXPECT_THAT(message_of<core::InternalError>([&] { serialize(shard); }),
              HasSubstr("array \"a\" of shape [3] has 5 bytes"));
  shard.arrays[0].shape = {-1};
  EXPECT_THROW(serialize(shard), core::InternalError);
  shard.arrays[0].shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  EXPECT_THROW(serialize(shard), core::InternalError);
}

TEST(Shard, AnyFlippedBitIsFound) {
  const TemporaryFolder folder;
  const std::string good = text_of(serialize(small()));
  const auto path = folder / "a.h5";
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    test::write_bytes(path, bad);
    EXPECT_THROW(read_shard(path), FormatError) << "byte " << i;
  }
}

/// The digest in front is made right again: what is behind it has to notice the damage, or give the same content.
TEST(Shard, BehindARightHeaderDamageGivesAnErrorOrTheSameContent) {
  const TemporaryFolder folder;
  const Shard shard = small();
  const std::string content = text_of(serialize(shard)).substr(512);
  const auto path = folder / "a.h5";
  int errors = 0, unchanged = 0;
  for (std::size_t i = 0; i < content.size(); i += i < 1600 ? 1 : 13) {
    std::string bad = content;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    test::write_bytes(path, with_user_block(bad));
    try {
      EXPECT_TRUE(same(read_shard(path), shard)) << "byte " << i;
      ++unchanged;
    } catch (const FormatError&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, 500);
  RecordProperty("errors", errors);
  RecordProperty("unchanged", unchanged);
}

TEST(Shard, DamagedArrayIsNamed) {
  const TemporaryFolder folder;
  const Shard shard = small();
  std::string content = text_of(serialize(shard)).substr(512);
  const std::string scales = text_of(shard.arrays[1].bytes);
  const std::size_t at = content.find(scales);
  ASSERT_NE(at, std::string::npos);
  content[at + 3] = static_cast<char>(content[at + 3] ^ 4);
  EXPECT_THAT(error_of_content(folder, content), HasSubstr("array \"scales\": checksum does not match"));
}

TEST(Shard, ChangedAttributeIsFound) {
  const TemporaryFolder folder;
  const std::string content = plain_hdf5([](hid_t file) {
    add_text(file, "shard_format", "1");
    add_text(file, "shard_sha256", core::sha256("attribute 6 method 4 vptq\n"));
    add_text(file, "method", "vptr");
  });
  EXPECT_THAT(error_of_content(folder, content), HasSubstr("checksum of attributes and arrays does not match"));
}

TEST(Shard, CutAnywhereIsFound) {
  const TemporaryFolder folder;
  const std::string good = text_of(serialize(small()));
  const auto path = folder / "a.h5";
  for (std::size_t length = 0; length < good.size(); length += 64) {
    test::write_bytes(path, good.substr(0, length));
    EXPECT_THROW(read_shard(path), FormatError) << length << " bytes";
    if (length <= 512) continue;
    test::write_bytes(path, with_user_block(good.substr(512, length - 512)));
    EXPECT_THROW(read_shard(path), FormatError) << length << " bytes, right header";
  }
}

/// HDF5's parser crashed on an attribute of an unknown dataspace: whatever byte of the metadata is wrong, under right
/// checksums it is refused or means the same.
TEST(Shard, AnyWrongByteUnderRightChecksums) {
  const TemporaryFolder folder;
  const auto path = folder / "a.h5";
  const Shard shard = small();
  const std::string good = text_of(serialize(shard));
  int refused = 0;
  for (std::size_t at = 512; at < good.size(); ++at)
    for (const unsigned change : {0x01U, 0xFFU}) {
      std::string file = good;
      file[at] = static_cast<char>(static_cast<unsigned char>(file[at]) ^ change);
      fuzz::Hdf5Seal(file).seal();
      test::write_bytes(path, file);
      try {
        EXPECT_TRUE(same(read_shard(path), shard)) << "byte " << at << " changed by " << change;
      } catch (const FormatError&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, 1000);
}

TEST(Shard, GarbageIsRefused) {
  const TemporaryFolder folder;
  const auto path = folder / "a.h5";
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::string noise =
        text_of(make_array("x", DType::u8, {static_cast<std::int64_t>(100 + 777 * seed)}, seed).bytes);
    test::write_bytes(path, noise);
    EXPECT_THROW(read_shard(path), FormatError);
    test::write_bytes(path, with_user_block(noise));
    EXPECT_THROW(read_shard(path), FormatError);
    test::write_bytes(path, with_user_block(text_of(serialize(small())).substr(512, 8) + noise));
    EXPECT_THROW(read_shard(path), FormatError);
  }
}

TEST(Shard, AnotherHdf5FileIsRefused) {
  const TemporaryFolder folder;
  const std::string content = plain_hdf5([](hid_t file) { add_text(file, "title", "weather"); });
  test::write_bytes(folder / "plain.h5", content);
  EXPECT_THAT(message_of<FormatError>([&] { read_shard(folder / "plain.h5"); }),
              HasSubstr("is an HDF5 file, but not a shard"));
  EXPECT_THAT(error_of_content(folder, content), HasSubstr("is not a shard"));
}

TEST(Shard, ClaimsBeyondTheFileAreRefusedBeforeAllocation) {
  const TemporaryFolder folder;
  const std::string plain = plain_hdf5([](hid_t file) {
    add_dataset(file, "huge", {hsize_t{1} << 30, hsize_t{1} << 30}, H5Pcreate(H5P_DATASET_CREATE));
  });
  EXPECT_THAT(error_of_content(folder, plain),
              HasSubstr("array \"huge\": shape [1073741824, 1073741824] needs more bytes"));
  const std::string chunked = plain_hdf5([](hid_t file) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 1 << 20;
    H5Pset_chunk(creation, 1, &chunk);
    add_dataset(file, "sparse", {hsize_t{1} << 60}, creation);
  });
  EXPECT_THAT(error_of_content(folder, chunked), HasSubstr("array \"sparse\": is not stored in one piece"));
  const std::string unwritten =
      plain_hdf5([](hid_t file) { add_dataset(file, "ghost", {100}, H5Pcreate(H5P_DATASET_CREATE)); });
  EXPECT_THAT(error_of_content(folder, unwritten), HasSubstr("array \"ghost\": its bytes lie outside the file"));
}

TEST(Shard, LayoutsThatShardsDoNotUseAreRefused) {
  const TemporaryFolder folder;
  // Ten links or attributes make HDF5 leave the header for a heap and a tree.
  EXPECT_THAT(error_of_content(folder, plain_hdf5([](hid_t file) {
                                 for (int i = 0; i < 10; ++i) add_text(file, ("key" + std::to_string(i)).c_str(), "x");
                               })),
              HasSubstr("lie outside their header"));
  EXPECT_THAT(error_of_content(folder, plain_hdf5([](hid_t file) {
                                 for (int i = 0; i < 10; ++i)
                                   add_dataset(file, ("a" + std::to_string(i)).c_str(), {1},
                                               H5Pcreate(H5P_DATASET_CREATE));
                               })),
              HasSubstr("lie outside their header"));
  EXPECT_THAT(error_of_content(folder, plain_hdf5([](hid_t file) {
                                 const hid_t pair = H5Tcreate(H5T_COMPOUND, 2);
                                 H5Tinsert(pair, "x", 0, H5T_STD_U8LE);
                                 const hid_t space = H5Screate(H5S_SCALAR);
                                 H5Dclose(H5Dcreate2(file, "pair", pair, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                                 H5Sclose(space);
                                 H5Tclose(pair);
                               })),
              HasSubstr("array \"pair\": is of an HDF5 type that shards do not use"));
}

TEST(Shard, NothingOutsideTheFileIsFollowed) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "secret", "secret");
  const std::string secret = (folder / "secret").string();
  EXPECT_THAT(error_of_content(folder, plain_hdf5([&](hid_t file) {
                                 const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
                                 H5Pset_external(creation, secret.c_str(), 0, 6);
                                 add_dataset(file, "outside", {6}, creation);
                               })),
              HasSubstr("array \"outside\": is not stored in one piece inside the file"));
  write_shard(folder / "other.h5", small(), "1");
  const std::string other = (folder / "other.h5").string();
  EXPECT_THAT(error_of_content(folder, plain_hdf5([&](hid_t file) {
                                 H5Lcreate_external(other.c_str(), "/indices", file, "link", H5P_DEFAULT, H5P_DEFAULT);
                               })),
              HasSubstr("array \"link\": is a link"));
  EXPECT_THAT(error_of_content(folder, plain_hdf5([](hid_t file) {
                                 H5Lcreate_soft("/nowhere", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
                               })),
              HasSubstr("array \"soft\": is a link"));
  EXPECT_THAT(error_of_content(folder, plain_hdf5([](hid_t file) {
                                 H5Gclose(H5Gcreate2(file, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                               })),
              HasSubstr("array \"group\": is not an array"));
}

TEST(Shard, MissingFileAndPipeAreSystemErrors) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<StoreError>([&] { read_shard(folder / "none.h5"); }), HasSubstr("none.h5: cannot open"));
  EXPECT_THROW(read_shard(folder.path()), StoreError);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_of<StoreError>([&] { read_shard(folder / "pipe"); }), HasSubstr("is not a regular file"));
}

TEST(Shard, FullDiskLeavesTheOldFileAndNoOther) {
  const test::SmallDisk disk("size=256k");
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  const auto path = disk / "layer.h5";
  const Shard old = small();
  write_shard(path, old, "1");
  Shard big;
  big.arrays = {make_array("w", DType::u8, {1 << 20}, 1)};
  EXPECT_THAT(
      message_of<StoreError>([&] { write_shard(path, big, "2"); }),
      testing::AllOf(HasSubstr(path.string()), HasSubstr("No space left on device"), HasSubstr("free some space")));
  EXPECT_TRUE(same(read_shard(path), old));
  EXPECT_EQ(test::entries(disk.path()), 1);
  EXPECT_THROW(write_shard(disk / "new.h5", big, "3"), StoreError);
  EXPECT_EQ(test::entries(disk.path()), 1);
  write_shard(path, old, "4");
  EXPECT_TRUE(same(read_shard(path), old));
}

TEST(Shard, NothingIsPrintedByHdf5) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "a.h5", with_user_block(text_of(serialize(small())).substr(512, 300)));
  testing::internal::CaptureStderr();
  EXPECT_THROW(read_shard(folder / "a.h5"), FormatError);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace voronoi::store
