#include "run/subject.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "export/checkpoint.h"
#include "export/manifest.h"
#include "run/layer_store.h"
#include "run/run_model.h"

namespace voronoi::run {
namespace {

Subject subject_of(RunModel run) {
  double bits = 0, weights = 0;
  for (const model::LinearSpec& linear : model::block_linears(run.original->config())) {
    const auto layer = run.state.layers.find(linear.name);
    const auto count = static_cast<double>(linear.out_features * linear.in_features);
    weights += count;
    bits += layer == run.state.layers.end() ? 16 * count : static_cast<double>(layer->second.stored_bits);
  }
  Subject subject;
  std::string content = run.original->fingerprint();
  for (const auto& [name, sha256] : published_sums(run.state)) content += "\n" + name + " " + sha256;
  subject.content = core::sha256(content);
  subject.run = run.paths;
  subject.tokenizer = run.tokenizer;
  subject.original = std::move(run.original);
  subject.quantized = std::make_unique<RunSource>(*subject.original, run.paths, published(run.state));
  subject.method = run.method();
  subject.label = run_label(run.identity, run.state);
  if (!run.missing.empty()) subject.label += fmt::format(", {} layers left unquantized", run.missing.size());
  subject.bits_true = bits / weights;
  subject.bits_nominal = nominal_bits(run.state);
  return subject;
}

Subject open_checkpoint_subject(const std::string& path) {
  auto checkpoint = std::make_unique<exporting::Checkpoint>(path);
  Subject subject;
  const auto manifest = exporting::read_manifest(path);
  subject.method = manifest ? manifest->method : std::string(checkpoint->layout().name());
  subject.bits_true = checkpoint->true_bits();
  subject.bits_nominal = checkpoint->nominal_bits();
  subject.content = checkpoint->fingerprint();
  subject.label = fmt::format("{} {:.2f} bits, checkpoint", subject.method, *subject.bits_true);
  subject.tokenizer = path;
  subject.quantized = std::move(checkpoint);
  return subject;
}

}  // namespace

Subject open_quantized_run(const std::string& path) { return subject_of(open_run_model(path)); }

Subject open_subject(const std::string& path, const std::string& original) {
  if (std::filesystem::exists(store::RunPaths{path}.identity())) {
    RunModel run = open_run_model(path, original);
    if (!run.missing.empty() && !run.state.finished)
      throw core::FormatError(
          path, fmt::format("{} of {} layers are not quantized yet; run the quantize command again to finish",
                            run.missing.size(), run.missing.size() + run.linears.size()));
    return subject_of(std::move(run));
  }
  if (exporting::is_checkpoint(path)) return open_checkpoint_subject(path);
  Subject subject;
  subject.original = model::open_model(path);
  subject.content = subject.original->fingerprint();
  subject.tokenizer = path;
  return subject;
}

void set_reference(Subject& subject, const std::string& path) {
  if (subject.run) return;
  // Nothing is known of a model's own quantization: it is compared as it is.
  if (subject.quantized == nullptr) subject.quantized = model::open_model(subject.original->path());
  subject.original = model::open_model(path);
}

void require_whole_export(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return;
  const auto manifest = exporting::read_manifest(path);
  if (!manifest) return;
  if (const std::vector<std::string> problems = exporting::check_files(path, *manifest); !problems.empty())
    throw core::FormatError(problems.front(), "export again, or copy it again");
}

}  // namespace voronoi::run
