// config.json: what it says, the tensors it asks for, and its rotary angles.
#include "core/json.h"
#include "fuzz/fuzz.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/weight_data.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  accepts([&] {
    const model::ModelConfig config = model::parse_config(core::parse_json(input, "config.json"), "config.json");
    model::class_name(config.model_type);
    require(config.window.size() == static_cast<std::size_t>(config.n_layers), "a window for each layer");
    require(config.n_heads % config.n_kv_heads == 0, "heads are no multiple of the heads of keys");
    for (const std::int64_t length : {std::int64_t{1}, std::int64_t{1} << 41}) {
      model::rope_frequencies(config.rope, config.n_turned, length);
      if (config.n_turned <= 512) model::rope_table(config.rope, config.n_turned, 8, length);
    }
    if (config.mixture.n_experts > 64) return;  // ten thousand names take as long as a thousand other inputs
    // A file with two tensors, whatever the config claims.
    accepts([&] {
      model::require_tensors(config, "model.safetensors", {"a", "b"}, [](const std::string& name) {
        return name.ends_with("norm.weight") ? std::optional<core::Shape>({64}) : std::nullopt;
      });
    });
  });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
