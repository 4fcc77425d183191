// A GGUF file: metadata, every tensor dequantized, the model, the tokenizer, and what an export makes of both.
#include <vector>

#include "fuzz/fuzz.h"
#include "fuzz/tokenizer_use.h"
#include "model/gguf.h"
#include "model/gguf_weights.h"
#include "model/tokenizer_writer.h"
#include "model/weights.h"

namespace voronoi::fuzz {
namespace {

void read_weights(const std::string& path) {
  const auto source = model::open_model(path);
  source->fingerprint();
  for (const model::TensorSpec& spec : model::expected_tensors(source->config())) {
    if (!is_small(spec.shape)) continue;
    accepts([&] {
      std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
      source->read(spec, values);
    });
  }
  model::parse_config(model::gguf_config_json(path), "config.json made of " + path);
}

void read_tokenizer(const std::string& path, std::string_view input) {
  const auto tokenizer = model::open_tokenizer(path);
  use_tokenizer(*tokenizer, input);
  static const Folder written;
  for (const auto& [name, content] : model::gguf_tokenizer_files(path)) written.write(name, content);
  use_tokenizer(*model::open_tokenizer(written.path()), input);
}

void run(std::string_view input) {
  static const Folder folder;
  const std::string path = folder.write("model.gguf", input);
  const bool read = accepts([&] {
    const model::GgufFile file(path);
    for (const model::GgufTensor& tensor : file.tensors()) {
      require(file.find_tensor(tensor.name) == &tensor, "a tensor cannot be found");
      if (!model::can_dequantize(tensor.type) || !is_small(tensor.shape)) continue;
      std::vector<float> values(static_cast<std::size_t>(core::element_count(tensor.shape).value()));
      model::dequantize(tensor.type, tensor.bytes, values);
    }
  });
  if (!read) return;
  accepts([&] { read_weights(path); });
  accepts([&] { read_tokenizer(path, input); });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
