#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/option.h"
#include "export/checkpoint.h"
#include "jobs/commands.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "run/run_state.h"
#include "store/journal.h"
#include "store/shard.h"

namespace voronoi::jobs {
namespace {

core::Json tensor_json(const std::string& name, std::string_view dtype, const core::Shape& shape,
                       std::size_t size_bytes) {
  return {{"name", name}, {"dtype", dtype}, {"shape", shape}, {"bytes", size_bytes}};
}

core::Json inspect_safetensors(const std::string& path) {
  const model::SafetensorsFile file(path);
  core::Json tensors = core::Json::array();
  for (const auto& [name, tensor] : file.tensors())
    tensors.push_back(tensor_json(name, tensor.dtype_name, tensor.shape, tensor.bytes.size()));
  return {{"kind", "safetensors file"}, {"path", path}, {"bytes", file.bytes().size()}, {"tensors", tensors}};
}

core::Json inspect_shard(const std::string& path) {
  const store::Shard shard = store::read_shard(path);
  core::Json arrays = core::Json::array();
  for (const store::ShardArray& array : shard.arrays)
    arrays.push_back(tensor_json(array.name, core::dtype_name(array.dtype), array.shape, array.bytes.size()));
  return {
      {"kind", "shard, all checksums verified"}, {"path", path}, {"attributes", shard.attributes}, {"tensors", arrays}};
}

core::Json model_json(const model::WeightSource& source) {
  const model::ModelConfig& config = source.config();
  core::Json tensors = core::Json::array();
  std::int64_t weights = 0;
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    const std::int64_t count = core::element_count(spec.shape).value_or(0);
    weights += count;
    tensors.push_back({{"name", spec.name}, {"shape", spec.shape}});
  }
  core::Json json{{"architecture", config.model_type},
                  {"blocks", config.n_layers},
                  {"hidden_size", config.hidden_size},
                  {"intermediate_size", config.intermediate_size},
                  {"heads", config.n_heads},
                  {"kv_heads", config.n_kv_heads},
                  {"head_dim", config.head_dim},
                  {"vocabulary", config.vocab_size},
                  {"max_position", config.max_position},
                  {"tied_embeddings", config.tied_embeddings},
                  {"activation", config.activation == model::Activation::gelu_tanh ? "gelu_tanh" : "silu"},
                  {"fused_projections", config.fused_qkv || config.fused_gate_up},
                  {"windowed_blocks",
                   std::count_if(config.window.begin(), config.window.end(), [](std::int64_t w) { return w > 0; })},
                  {"parameters", weights},
                  {"fingerprint", source.fingerprint()},
                  {"tensors", tensors}};
  if (const model::DeltaConfig& delta = config.delta; delta.value_heads > 0)
    json["delta_rule_blocks"] = std::count(delta.layers.begin(), delta.layers.end(), true);
  if (config.attention_softcap > 0) json["attention_softcap"] = config.attention_softcap;
  if (config.logit_softcap > 0) json["logit_softcap"] = config.logit_softcap;
  if (const model::MixtureConfig& mixture = config.mixture; mixture.n_experts > 0) {
    json["mixture_blocks"] = std::count(mixture.layers.begin(), mixture.layers.end(), true);
    json["experts"] = mixture.n_experts;
    json["experts_a_token"] = mixture.top_k;
    json["expert_size"] = mixture.expert_size;
    json["shared_expert_size"] = mixture.shared_size;
  }
  return json;
}

/// Reads every tensor, so that values that cannot be quantized (NaN, infinite, too large) are found and named.
core::Json bad_tensors(const model::WeightSource& source) {
  core::Json problems = core::Json::array();
  for (const model::TensorSpec& spec : model::expected_tensors(source.config())) {
    std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value_or(0)));
    try {
      source.read(spec, values);
    } catch (const core::FormatError& error) {
      problems.push_back(error.what());
    }
  }
  return problems;
}

core::Json inspect_model(const std::string& path, bool headers_only) {
  const auto source = model::open_model(path);
  core::Json json{{"kind", "model"}, {"path", path}};
  json.update(model_json(*source));
  if (!headers_only) json["problems"] = bad_tensors(*source);
  return json;
}

core::Json inspect_checkpoint(const std::string& path, bool headers_only) {
  const exporting::Checkpoint checkpoint(path);
  core::Json json{{"kind", exporting::kind_of(checkpoint)},
                  {"path", path},
                  {"bits_true", checkpoint.true_bits()},
                  {"bits_nominal", checkpoint.nominal_bits()}};
  json.update(model_json(checkpoint));
  core::Json layers = core::Json::array();
  for (const std::string& name : checkpoint.linears()) layers.push_back(checkpoint.description(name));
  json["layers"] = std::move(layers);
  if (!headers_only) json["problems"] = bad_tensors(checkpoint);
  return json;
}

core::Json inspect_gguf(const std::string& path) {
  const model::GgufFile file(path);
  core::Json tensors = core::Json::array();
  for (const model::GgufTensor& tensor : file.tensors())
    tensors.push_back(tensor_json(tensor.name, model::ggml_type_name(tensor.type), tensor.shape, tensor.bytes.size()));
  return {{"kind", "GGUF file"}, {"path", path}, {"bytes", file.bytes().size()}, {"tensors", tensors}};
}

core::Json inspect_run(const std::string& path) {
  const store::RunPaths paths{path};
  const run::RunState state = run::read_state(paths);
  core::Json layers = core::Json::array();
  for (const auto& [name, layer] : state.layers)
    layers.push_back({{"name", name},
                      {"bits_true", static_cast<double>(layer.stored_bits) / static_cast<double>(layer.weights)},
                      {"relative_error", layer.relative_error},
                      {"calibration_tokens", layer.calibration_tokens},
                      {"left_out_tokens", layer.left_out_tokens},
                      {"pooled_tokens", layer.pooled_tokens},
                      {"generation", layer.generation},
                      {"statistics", layer.statistics}});
  core::Json tensors = core::Json::array();
  for (const auto& [name, tensor] : state.tensors)
    tensors.push_back({{"name", name}, {"generation", tensor.generation}});
  return {{"kind", "run directory"},
          {"path", path},
          {"identity", store::read_identity(paths)},
          {"starts", state.start},
          {"finished", state.finished},
          {"bits_true", true_bits(state)},
          {"failures", run::failures(state)},
          {"layers", layers},
          {"unquantized", state.unquantized},
          {"tensors", tensors}};
}

core::Json inspect_path(const std::string& path, bool headers_only) {
  if (std::filesystem::is_directory(path)) {
    if (std::filesystem::exists(store::RunPaths{path}.identity())) return inspect_run(path);
    if (exporting::is_checkpoint(path)) return inspect_checkpoint(path, headers_only);
    return inspect_model(path, headers_only);
  }
  if (!std::filesystem::exists(path)) throw core::StoreError(path + ": is not there; check the path");
  if (path.ends_with(".safetensors")) return inspect_safetensors(path);
  if (path.ends_with(".gguf")) return inspect_gguf(path);
  if (path.ends_with(".h5")) return inspect_shard(path);
  if (path.ends_with("journal.log"))
    return {{"kind", "journal"}, {"path", path}, {"records", store::Journal::read(path)}};
  throw core::FormatError(path,
                          "is of no kind that voronoi knows; it describes model and run directories, *.safetensors, "
                          "*.gguf, *.h5 and journal.log");
}

/// Scalars as "key  value" lines, lists of objects as one line each.
void print_text(const core::Json& json) {
  for (const auto& [key, value] : json.items()) {
    if (value.is_array()) {
      fmt::print("{} ({})\n", key, value.size());
      for (const core::Json& entry : value) {
        std::string line;
        if (entry.is_object())
          for (const auto& [name, field] : entry.items())
            line += (field.is_string() ? field.get<std::string>() : field.dump()) + "  ";
        else
          line = entry.dump();
        fmt::print("  {}\n", line);
      }
    } else {
      fmt::print("{:<20}{}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

}  // namespace

int inspect_main(const comm::Communicator& world, const Arguments& arguments) {
  std::string path;
  bool json = false, headers_only = false;
  CommandSpec command;
  command.name = "inspect";
  command.summary = "Describes a model, a run, or any file that voronoi reads or writes.";
  command.usage = "voronoi inspect PATH [--json]";
  command.positional = "path";
  command.options = {
      core::text_option("path", "PATH", "model or run directory, *.safetensors, *.gguf, *.h5, journal.log", path),
      core::switch_option("headers-only", "of a model: do not read the weights to look for bad values", headers_only),
      core::switch_option("json", "print JSON", json)};
  command.examples =
      "  voronoi inspect SmolLM2-135M\n  voronoi inspect runs/2bit/layers/model.layers.0.mlp.down_proj.h5\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  if (path.empty()) throw core::ConfigError("inspect: what? give a path");
  const core::Json description = inspect_path(path, headers_only);
  if (json)
    fmt::print("{}\n", description.dump());
  else
    print_text(description);
  const std::size_t problems = description.value("problems", core::Json::array()).size();
  if (problems > 0)
    throw core::FormatError(path, fmt::format("{} tensor(s) cannot be used: {}", problems,
                                              description.at("problems").front().get<std::string>()));
  return 0;
}

}  // namespace voronoi::jobs
