// A shard's file: HDF5's metadata as it comes, with the checksums over it put right by the mutator.
#include "fuzz/hdf5_seal.h"
#include "fuzz/shard_use.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder, again;
  store::Shard shard;
  if (!accepts([&] { shard = store::read_shard(folder.write("shard.h5", input)); })) return;
  use_layer(shard);
  const std::string copy = again.write("shard.h5", text_of(store::serialize(shard)));
  require(accepts([&] { require(same(store::read_shard(copy), shard), "a shard written and read is another one"); }),
          "a shard that was read and written is refused");
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return voronoi::fuzz::mutate_and_repair(data, size, max_size, seed, 16,
                                          [](std::string& file) { voronoi::fuzz::Hdf5Seal(file).seal(); });
}
