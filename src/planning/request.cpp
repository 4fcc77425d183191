#include "planning/request.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "backend/device.h"
#include "core/error.h"
#include "core/types.h"
#include "model/packed_text.h"

namespace voronoi::planning {
namespace {

namespace fs = std::filesystem;

/// Size of a GGUF file, or of all safetensors files of a directory; 0 where there are none.
std::int64_t weight_file_bytes(const std::string& model) {
  std::error_code error;
  if (fs::is_regular_file(model, error))
    return model.ends_with(".json") ? 0 : static_cast<std::int64_t>(fs::file_size(model, error));
  std::int64_t total = 0;
  auto entry = fs::directory_iterator(model, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error))
    if (std::error_code ignored; entry->path().extension() == ".safetensors" && entry->is_regular_file(ignored))
      total += static_cast<std::int64_t>(entry->file_size(ignored));
  return total;
}

/// Of the bytes of all weights those of the model without its layers for multi-token prediction, which nobody reads:
/// each is as large as the last of the others, and joins its two inputs by a matrix.
std::int64_t read_bytes(std::int64_t file_bytes, const model::ModelConfig& config) {
  const std::string last_layer = fmt::format("model.layers.{}.", config.n_layers - 1);
  double read = 0, last = 0;
  for (const model::TensorSpec& tensor : model::expected_tensors(config)) {
    const auto elements = static_cast<double>(core::element_count(tensor.shape).value_or(0));
    read += elements;
    if (tensor.name.starts_with(last_layer)) last += elements;
  }
  const auto hidden = static_cast<double>(config.hidden_size);
  const double further = static_cast<double>(config.n_extra_layers) * (last + 2 * hidden * hidden);
  return static_cast<std::int64_t>(static_cast<double>(file_bytes) * read / (read + further));
}

/// Vocabulary with merges as the tokenizers keep them, and the heap's slack: seen with vocabularies of 512 to 49152.
std::int64_t tokenizer_allowance(const model::ModelConfig& config) { return (4 << 20) + 200 * config.vocab_size; }

/// As they are in memory.
std::int64_t text_bytes(const std::vector<std::string>& files) {
  constexpr std::int64_t kUnpacked = 4;  // gzip and Zstandard make a third to a quarter of a text
  std::int64_t total = 0;
  for (const std::string& file : files)
    if (std::error_code error; fs::is_regular_file(file, error))
      total += static_cast<std::int64_t>(fs::file_size(file, error)) *
               (model::packing_of_file(file) == model::TextPacking::none ? 1 : kUnpacked);
  return total;
}

bool has_sentencepiece(const run::Settings& options) {
  const fs::path place(options.tokenizer.empty() ? options.model : options.tokenizer);
  std::error_code error;
  return place.extension() == ".model" ||
         (fs::exists(place / "tokenizer.model", error) && !fs::exists(place / "tokenizer.json", error));
}

}  // namespace

std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return statm ? resident * ::sysconf(_SC_PAGESIZE) : 0;
}

PlanRequest make_request(const run::Settings& options, std::vector<run::GivenOption> given,
                         const model::ModelConfig& config, const Resources& resources) {
  PlanRequest request;
  request.options = options;
  request.given = std::move(given);
  request.config = config;
  request.cuda = options.device == "cuda" || (options.device == "auto" && resources.cuda);
  if (resources.probe && request.cuda)
    throw core::ConfigError("--probe: times the kernels of a CPU only; a plan for GPUs goes by the table of rates");
  if (resources.probe && !resources.rates_file.empty()) throw core::ConfigError("--rates: not together with --probe");
  request.program_bytes = resources.program_bytes;
  request.file_bytes = read_bytes(weight_file_bytes(options.model), config);
  request.tokenizer_bytes = tokenizer_allowance(config);
  request.text_bytes = text_bytes(options.calibration_texts);
  request.sentencepiece = has_sentencepiece(options);
  request.gpu_memory = resources.gpu_memory;
  if (request.cuda && request.gpu_memory == 0) request.gpu_memory = std::int64_t{80} << 30;
  request.node_memory = resources.node_memory;
  request.n_ranks = resources.ranks;
  const int cores = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  const int wanted = resources.threads > 0 ? resources.threads : options.threads;
  const int on_node =
      resources.ranks_per_node > 0 ? std::min(resources.ranks_per_node, resources.ranks) : resources.ranks;
  request.threads = wanted > 0 ? wanted : request.cuda ? 8 : std::max(1, cores / on_node);
  request.ranks_per_node = resources.ranks_per_node > 0 ? resources.ranks_per_node
                           : request.cuda               ? 8
                                                        : std::max(1, cores / request.threads);
  request.rates = table_rates(request.device(), request.threads);
  if (!resources.rates_file.empty()) request.rates = read_rates(resources.rates_file);
  if (resources.probe) {
    backend::Context context(request.device(), request.threads);
    request.rates = probe_rates(context, options.parameters);
  }
  return request;
}

}  // namespace voronoi::planning
