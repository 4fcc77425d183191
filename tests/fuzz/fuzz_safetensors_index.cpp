// model.safetensors.index.json beside two good shards.
#include "fuzz/fuzz.h"
#include "model/safetensors_folder.h"

namespace voronoi::fuzz {
namespace {

void write_shard(const Folder& folder, const std::string& name, const std::string& tensor) {
  const std::string header = R"({")" + tensor + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::uint64_t length = header.size();
  folder.write(name,
               std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + std::string(8, '\0'));
}

void run(std::string_view input) {
  static const Folder folder;
  static const bool shards = [] {
    write_shard(folder, "a.safetensors", "x");
    write_shard(folder, "b.safetensors", "y");
    return true;
  }();
  require(shards, "shards");
  folder.write("model.safetensors.index.json", input);
  accepts([&] {
    const model::SafetensorsFolder opened(folder.path());
    for (const auto& entry : opened.tensors()) {
      require(entry.first == "x" || entry.first == "y", "a tensor that no shard has");
      require(opened.float_shape(entry.first).value() == core::Shape{2}, "shape of a tensor");
    }
  });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
