// A quantized layer as a shard's attributes and arrays, made from the input with sizes that nearly fit: through the
// checks behind the shard's checksums to the decoder, and through the file: written and read it is the same, with a
// byte changed it is refused.
#include <algorithm>
#include <array>
#include <string>

#include "format/aqlm.h"
#include "format/e8p.h"
#include "format/gptvq.h"
#include "format/signed_levels.h"
#include "format/trellis.h"
#include "format/uniform.h"
#include "format/vptq.h"
#include "fuzz/shard_use.h"

namespace voronoi::fuzz {
namespace {

class Source {
 public:
  explicit Source(std::string_view bytes) : bytes_(bytes) {}
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(bytes_.front());
    bytes_.remove_prefix(1);
    return value;
  }
  /// Mostly small, sometimes any number.
  std::int64_t extent() {
    const std::uint8_t first = byte();
    if (first < 200) return first % 48;
    if (first < 240) return std::int64_t{1} << (first % 40);
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return static_cast<std::int64_t>(value);
  }
  std::vector<std::byte> take(std::size_t n) {
    std::vector<std::byte> out(n);
    for (std::byte& value : out) value = static_cast<std::byte>(byte());
    return out;
  }

 private:
  std::string_view bytes_;
};

constexpr std::array<core::DType, 4> kTypes{core::DType::f16, core::DType::bf16, core::DType::f32, core::DType::u16};

void add(store::Shard& shard, Source& source, const std::string& name, core::DType dtype, core::Shape shape) {
  const std::uint8_t how = source.byte();
  if (how == 255) return;
  if (how == 254) dtype = kTypes[source.byte() % kTypes.size()];
  if (how == 253 && !shape.empty()) shape.back() += 1;
  if (how == 252) shape.push_back(1);
  const auto count = core::element_count(shape);
  if (!count || *count > kMaxElements / 256) return;
  const auto bytes = static_cast<std::size_t>(*count * core::dtype_size(dtype));
  // A few bytes of the input, over and over: large arrays from short inputs.
  std::vector<std::byte> pattern = source.take(std::min<std::size_t>(bytes, 1 + how % 64));
  store::ShardArray array{name, dtype, shape, std::vector<std::byte>(bytes)};
  for (std::size_t i = 0; i < bytes; ++i) array.bytes[i] = pattern[i % pattern.size()];
  if (name == "perm" && how < 200)
    for (std::size_t i = 0; 2 * i + 1 < bytes; ++i) {
      array.bytes[2 * i] = static_cast<std::byte>(i & 0xFF);
      array.bytes[2 * i + 1] = static_cast<std::byte>(i >> 8 & 0xFF);
    }
  if (name == "column_scale" && how < 200)  // above 0, mostly
    for (std::size_t i = 1; i < bytes; i += 2) array.bytes[i] = (array.bytes[i] & std::byte{0x3F}) | std::byte{0x04};
  shard.arrays.push_back(std::move(array));
}

store::Shard make_vq(Source& source) {
  format::VqExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.vector_length = source.extent();
  e.centroids = std::int64_t{1} << source.byte() % 10;
  e.residual_centroids = std::int64_t{1} << source.byte() % 10 >> 1;
  e.groups = 1 + source.byte() % 4;
  e.outlier_size = source.byte() % 4;
  e.outlier_vector_length = source.extent();
  e.outlier_centroids = source.extent();
  e.dtype = kTypes[source.byte() % 16 == 0 ? 2 : source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "vq"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"vector_length", std::to_string(e.vector_length)},
                      {"centroids", std::to_string(e.centroids)},
                      {"residual_centroids", std::to_string(e.residual_centroids)},
                      {"groups", std::to_string(e.groups)},
                      {"outlier_size", std::to_string(e.outlier_size)},
                      {"outlier_vector_length", std::to_string(e.outlier_vector_length)},
                      {"outlier_centroids", std::to_string(e.outlier_centroids)}};
  if (!format::find_extent_problem(e).empty()) return shard;
  add(shard, source, "indices", core::DType::u32, {e.groups, e.vector_rows(), e.row_words()});
  add(shard, source, "codebook", e.dtype, {e.groups, e.centroids, e.vector_length});
  if (e.residual_centroids > 0)
    add(shard, source, "residual_codebook", e.dtype, {e.groups, e.residual_centroids, e.vector_length});
  if (e.outlier_size > 0) {
    add(shard, source, "outlier_codebook", e.dtype, {e.outlier_centroids, e.outlier_vector_length});
    add(shard, source, "outlier_indices", core::DType::u16, {e.outlier_vector_rows(), e.outlier_size});
  }
  for (const char* name : {"scale", "bias"}) add(shard, source, name, e.dtype, {e.in_features});
  if (e.groups > 1 || e.outlier_size > 0) add(shard, source, "perm", core::DType::u16, {e.in_features});
  return shard;
}

store::Shard make_uniform(Source& source) {
  format::UniformExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.bits = source.byte() % 18;
  e.group_size = source.extent();
  e.dtype = kTypes[source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "uniform"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"bits", std::to_string(e.bits)},
                      {"group_size", std::to_string(e.group_size)}};
  const auto fits = [](std::int64_t value) { return value >= 1 && value <= 1 << 20; };
  if (!fits(e.out_features) || !fits(e.in_features) || !fits(e.group_size)) return shard;
  const format::UniformElements due = format::elements_due(e, true);
  const std::int64_t out = e.out_features;
  add(shard, source, "codes", core::DType::u32, {out, due.codes / out});
  add(shard, source, "scale", e.dtype, {out, due.scale / out});
  add(shard, source, "zeros", core::DType::u32, {out, due.zeros / out});
  if (source.byte() % 2 == 0) add(shard, source, "perm", core::DType::u16, {e.in_features});
  if (source.byte() % 4 == 1) add(shard, source, "column_scale", e.dtype, {e.in_features});
  return shard;
}

store::Shard make_signed_levels(Source& source) {
  format::SignedLevelsExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.bits = source.byte() % 6;
  e.group_size = source.extent();
  e.table = source.byte() % 3;
  e.dtype = kTypes[source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "signed_levels"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"bits", std::to_string(e.bits)},
                      {"group_size", std::to_string(e.group_size)},
                      {"table", std::to_string(e.table)}};
  const auto fits = [](std::int64_t value) { return value >= 1 && value <= 1 << 20; };
  if (!fits(e.out_features) || !fits(e.in_features) || !fits(e.group_size) || e.bits < 1) return shard;
  const format::SignedLevelsElements due = format::elements_due(e, true, true);
  const std::int64_t out = e.out_features;
  add(shard, source, "codes", core::DType::u32, {out, due.codes / out});
  add(shard, source, "scale", e.dtype, {out, due.scale / out / 2, 2});
  if (source.byte() % 2 == 0) add(shard, source, "perm", core::DType::u16, {e.in_features});
  if (source.byte() % 2 == 0) add(shard, source, "column_scale", e.dtype, {e.in_features});
  return shard;
}

store::Shard make_gptvq(Source& source) {
  format::GptvqExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.vector_columns = source.byte() % 6;
  e.centroids = std::int64_t{1} << source.byte() % 10;
  e.group_rows = source.extent();
  e.group_columns = source.extent();
  e.codebook_bits = source.byte() % 8 == 0 ? source.byte() : source.byte() % 2 == 0 ? 8 : 16;
  e.scale_block = source.byte() % 3 == 0 ? source.extent() : 0;
  e.dtype = kTypes[source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "gptvq"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"vector_columns", std::to_string(e.vector_columns)},
                      {"centroids", std::to_string(e.centroids)},
                      {"group_rows", std::to_string(e.group_rows)},
                      {"group_columns", std::to_string(e.group_columns)},
                      {"codebook_bits", std::to_string(e.codebook_bits)},
                      {"scale_block", std::to_string(e.scale_block)}};
  if (!format::find_extent_problem(e).empty()) return shard;
  const std::int64_t out = e.out_features, rank = e.vector_columns == 1 && e.group_rows % 2 == 0 ? 1 : 0;
  const format::GptvqElements due = format::elements_due(e, true, rank);
  const core::Shape books = rank > 0 ? core::Shape{e.row_groups(), e.strips(), rank}
                                     : core::Shape{e.row_groups(), e.strips(), e.centroids, e.vector_columns};
  if (rank > 0) add(shard, source, "codebook_basis", e.dtype, {rank, e.centroids});
  add(shard, source, "indices", core::DType::u32, {out, due.indices / out});
  if (e.codebook_bits == 16)
    add(shard, source, "codebook", e.dtype, books);
  else {
    add(shard, source, "codebook8", core::DType::u8, books);
    add(shard, source, "codebook_scale", e.dtype, {e.row_groups(), e.strips()});
  }
  if (e.scale_block > 0) {
    add(shard, source, "block_codes", core::DType::u32, {out, due.block_codes / out});
    add(shard, source, "block_grid", e.dtype, {e.blocks(), 2});
  }
  if (source.byte() % 2 == 0) add(shard, source, "perm", core::DType::u16, {e.in_features});
  return shard;
}

store::Shard make_e8p(Source& source) {
  format::E8pExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.bits = 1 + source.byte() % 5;
  e.dtype = kTypes[source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "e8p"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"bits", std::to_string(e.bits)}};
  if (!format::find_extent_problem(e).empty()) return shard;
  const format::E8pElements due = elements_due(e);
  add(shard, source, "codes", core::DType::u16, {e.out_features, e.n_groups()});
  if (e.bits == 3) add(shard, source, "e8_residual", core::DType::u8, {e.out_features, e.n_groups()});
  if (e.bits == 4) add(shard, source, "e8p_residual", core::DType::u16, {e.out_features, e.n_groups()});
  const std::uint8_t sides = source.byte();
  if (sides % 4 != 1) add(shard, source, "in_signs", core::DType::u32, {due.in_signs});
  if (sides % 4 != 2) add(shard, source, "out_signs", core::DType::u32, {due.out_signs});
  add(shard, source, "scale", core::DType::f32, {due.scale});
  return shard;
}

store::Shard make_trellis(Source& source) {
  format::TrellisExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.bits = source.byte() % 7;
  e.state_bits = 11 + source.byte() % 7;
  e.code = source.byte() % 4;
  e.dtype = kTypes[source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "trellis"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"bits", std::to_string(e.bits)},
                      {"state_bits", std::to_string(e.state_bits)},
                      {"code", std::to_string(e.code)}};
  if (!format::find_extent_problem(e).empty()) return shard;
  const format::TrellisElements due = elements_due(e);
  add(shard, source, "codes", core::DType::u16, {e.units(), e.in_features, e.bits});
  const std::uint8_t sides = source.byte();
  if (sides % 4 != 1) add(shard, source, "in_signs", core::DType::u32, {due.in_signs});
  if (sides % 4 != 2) add(shard, source, "out_signs", core::DType::u32, {due.out_signs});
  add(shard, source, "scale", core::DType::f32, {due.scale});
  return shard;
}

store::Shard make_aqlm(Source& source) {
  format::AqlmExtents e;
  e.out_features = source.extent();
  e.in_features = source.extent();
  e.codebooks = source.byte() % 5;
  e.code_bits = source.byte() % 13;
  e.in_group = std::int64_t{1} << source.byte() % 6;
  e.dtype = kTypes[source.byte() % 2];
  store::Shard shard;
  shard.attributes = {{"encoding", "aqlm"},
                      {"dtype", std::string(core::dtype_name(e.dtype))},
                      {"out_features", std::to_string(e.out_features)},
                      {"in_features", std::to_string(e.in_features)},
                      {"codebooks", std::to_string(e.codebooks)},
                      {"code_bits", std::to_string(e.code_bits)},
                      {"in_group", std::to_string(e.in_group)}};
  if (!format::find_extent_problem(e).empty()) return shard;
  const core::Shape codes{e.out_features, e.groups(), e.codebooks};
  if (elements_due(e).codes8 > 0)
    add(shard, source, "codes8", core::DType::u8, codes);
  else
    add(shard, source, "codes16", core::DType::u16, codes);
  add(shard, source, "codebook", e.dtype, {e.codebooks, e.centroids(), e.in_group});
  add(shard, source, "scale", e.dtype, {e.out_features});
  return shard;
}

void run(std::string_view input) {
  Source source(input);
  const std::uint8_t kind = source.byte();
  const std::size_t place = source.byte() | std::size_t{source.byte()} << 8;
  // Those of the first corpora stay what they were.
  store::Shard shard = kind % 32 / 2 == 8 || kind % 32 >= 28 ? make_gptvq(source)
                       : kind % 32 / 2 == 11                 ? make_trellis(source)
                       : kind % 32 / 2 == 9                  ? make_e8p(source)
                       : kind % 32 / 2 == 10                 ? make_signed_levels(source)
                       : kind % 32 / 2 == 12                 ? make_aqlm(source)
                       : kind % 2 == 0                       ? make_vq(source)
                                                             : make_uniform(source);
  if (kind >= 254) shard.attributes["encoding"] = "other";
  use_layer(shard);
  if (kind % 64 > 1) return;  // the file costs much more time than the rest

  static const Folder folder;
  std::vector<std::byte> bytes = store::serialize(shard);
  const std::string path = folder.write("layer.h5", text_of(bytes));
  require(accepts([&] { require(same(store::read_shard(path), shard), "a shard written and read is another one"); }),
          "a shard that was just written is refused");
  bytes[(place * bytes.size()) >> 16] ^= static_cast<std::byte>(1 + kind / 2);
  folder.write("layer.h5", text_of(bytes));
  require(!accepts([&] { store::read_shard(path); }), "a shard with a wrong byte is read");
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
