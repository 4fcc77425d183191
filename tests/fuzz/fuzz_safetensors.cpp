// A safetensors file: its header, every tensor's numbers, and what it holds written again.
#include <algorithm>
#include <vector>

#include "core/hash.h"
#include "core/json.h"
#include "fuzz/fuzz.h"
#include "model/safetensors_folder.h"

namespace voronoi::fuzz {
namespace {

std::string written(const std::map<std::string, model::SafetensorsTensor, std::less<>>& tensors) {
  std::string header = "{", data;
  for (const auto& [name, tensor] : tensors) {
    const core::Json entry{{"dtype", tensor.dtype_name},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    header += (header.size() > 1 ? "," : "") + core::Json(name).dump() + ":" + entry.dump();
    data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  header += "}";
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

void run(std::string_view input) {
  static const Folder folder, again;
  folder.write("model.safetensors", input);
  std::optional<model::SafetensorsFolder> opened;
  if (!accepts([&] { opened.emplace(folder.path()); })) return;
  opened->set_scaled({model::ScaledWeights::Kind::fp8_blocks, 2, 3});
  core::Sha256 hash;
  opened->add_to_fingerprint(hash);
  std::size_t covered = 0;
  for (const auto& entry : opened->tensors()) {
    const std::string& name = entry.first;
    covered += entry.second.tensor->bytes.size();
    accepts([&] {
      const auto shape = opened->float_shape(name);
      require(shape.has_value(), "a listed tensor has no shape");
      std::vector<float> values(static_cast<std::size_t>(core::element_count(*shape).value()));
      opened->read({name, *shape}, values);
    });
  }
  const model::SafetensorsFile file(folder / "model.safetensors");
  require(covered + file.header_bytes().size() == input.size(), "tensors and header do not make up the file");

  const model::SafetensorsFile copy(again.write("model.safetensors", written(file.tensors())));
  require(copy.tensors().size() == file.tensors().size(), "a copy has other tensors");
  for (const auto& [name, tensor] : file.tensors()) {
    const model::SafetensorsTensor* other = copy.find(name);
    require(other != nullptr && other->dtype_name == tensor.dtype_name && other->shape == tensor.shape &&
                std::equal(tensor.bytes.begin(), tensor.bytes.end(), other->bytes.begin(), other->bytes.end()),
            "a copy has another tensor");
  }
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return voronoi::fuzz::mutate_and_repair(data, size, max_size, seed, 8, voronoi::fuzz::repair_header_length);
}
