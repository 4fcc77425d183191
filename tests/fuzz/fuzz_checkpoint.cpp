// A checkpoint in one of the layouts that exports have, or a model whose weights are stored in 8 or 4 bits beside
// scales: its config.json, a zero byte, its model.safetensors.
#include <vector>

#include "export/checkpoint.h"
#include "fuzz/fuzz.h"

namespace voronoi::fuzz {
namespace {

void read_all(const model::WeightSource& source) {
  for (const model::TensorSpec& spec : model::expected_tensors(source.config())) {
    if (!is_small(spec.shape)) continue;
    accepts([&] {
      source.packed(spec);
      std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
      source.read(spec, values);
    });
  }
}

void read(const exporting::Checkpoint& checkpoint) {
  checkpoint.fingerprint();
  for (const std::string& linear : checkpoint.linears())
    accepts([&] {
      const format::Encoding encoding = checkpoint.encoding(linear);
      require(format::find_problem(encoding).empty(), "an encoding with a problem");
    });
  read_all(checkpoint);
}

void run(std::string_view input) {
  static const Folder folder;
  folder.write("config.json", take_text(input));
  folder.write("model.safetensors", input);
  accepts([&] {
    if (exporting::is_checkpoint(folder.path()))
      read(exporting::Checkpoint(folder.path()));
    else
      read_all(*model::open_model(folder.path()));
  });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  using namespace voronoi::fuzz;
  std::string_view input = text_of(data, size);
  std::string config(take_text(input)), weights(input);
  const std::size_t room = max_size - std::min(max_size, size);
  if (seed % 2 == 0)
    mutate(config, config.size() + room);
  else
    mutate(weights, weights.size() + room);
  if (seed % 16 > 1) repair_header_length(weights);
  return give_back(config + '\0' + weights, data, max_size);
}
