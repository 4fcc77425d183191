#include "validation/verification.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "comm/agreement.h"
#include "comm/divided.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "export/checkpoint.h"
#include "export/manifest.h"
#include "export/scale_folding.h"
#include "run/layer_store.h"
#include "run/run_state.h"
#include "store/shard.h"
#include "validation/evaluation.h"
#include "validation/run_report.h"

namespace voronoi::validation {
namespace {

std::vector<float> decode_finite(const format::Encoding& encoding, const std::string& place) {
  std::vector<float> weight(static_cast<std::size_t>(encoding.out_features * encoding.in_features));
  format::decode(encoding, weight);
  if (!std::all_of(weight.begin(), weight.end(), [](float value) { return std::isfinite(value); }))
    throw core::FormatError(place, "decodes to numbers that are not finite");
  return weight;
}

/// What is told of a good layer.
std::string layer_text(const std::string& name, const format::Encoding& encoding, const std::vector<float>& weight) {
  return core::Json{
      {"name", name},
      {"shape", {encoding.out_features, encoding.in_features}},
      {"bits_true", static_cast<double>(format::stored_bits(encoding)) / static_cast<double>(weight.size())},
      {"decoded_sha256", core::sha256(std::as_bytes(std::span(weight)))}}
      .dump();
}

/// Things to verify, each by one rank: a layer tells its text, another thing nothing; what is wrong is thrown.
class Checks {
 public:
  using Check = std::function<std::string()>;
  void add(Check check) { checks_.push_back(std::move(check)); }

  /// Layers and problems, in the order of the checks; collective.
  void run(const comm::Communicator& world, Verification& result) const {
    for (const std::string& said : comm::divided(world, checks_.size(), [&](std::size_t i) {
           try {
             const std::string layer = checks_[i]();
             return layer.empty() ? layer : kLayer + layer;
           } catch (const core::Error& error) {
             return kProblem + std::string(error.what());
           }
         })) {
      if (said.empty()) continue;
      if (said.front() == kProblem)
        result.problems.push_back(said.substr(1));
      else
        result.layers.push_back(core::parse_json(said.substr(1), "a verified layer"));
    }
  }

 private:
  static constexpr char kLayer = 'l', kProblem = 'p';
  std::vector<Check> checks_;
};

/// Generations of a layer or tensor before the newest: their files, and that each was made from the one before it.
/// Of one that was lost the journal tells, and nothing is left to compare with.
template <class T>
void verify_parents(const store::RunPaths& paths, const T& newest,
                    const std::map<std::string, std::vector<T>>& all_earlier) {
  const auto earlier = all_earlier.find(newest.name);
  if (earlier == all_earlier.end()) return;
  const T* child = &newest;
  for (auto record = earlier->second.rbegin(); record != earlier->second.rend(); ++record) {
    run::require_journalled(paths, record->name, record->generation, record->sha256);
    if (child->generation == record->generation + 1 && child->parent != record->sha256)
      throw core::FormatError(paths.layer(child->name, child->generation).string(),
                              "was not made from " + paths.layer(record->name, record->generation).string());
    child = &*record;
  }
}

std::string verify_layer(const store::RunPaths& paths, const run::LayerRecord& layer) {
  const std::string file = paths.layer(layer.name, layer.generation).string();
  const format::Encoding encoding = run::read_layer(paths, layer.name, layer.generation, layer.sha256);
  if (format::stored_bits(encoding) != layer.stored_bits)
    throw core::FormatError(file, "holds another number of bits than journalled");
  if (encoding.out_features * encoding.in_features != layer.weights)
    throw core::FormatError(file, "has another shape than journalled");
  return layer_text(layer.name, encoding, decode_finite(encoding, file));
}

void add_problems(const std::vector<std::string>& problems, Verification& result) {
  result.problems.insert(result.problems.end(), problems.begin(), problems.end());
}

/// Each file by one rank; collective.
std::vector<std::string> check_exported(const comm::Communicator& world, const std::filesystem::path& directory,
                                        const exporting::Manifest& manifest) {
  std::vector<std::string> problems = comm::divided(
      world, manifest.files.size(), [&](std::size_t i) { return exporting::check_file(directory, manifest.files[i]); });
  std::erase(problems, "");
  return problems;
}

/// Hessians of the window in work, or all that --keep-hessians left.
std::vector<std::filesystem::path> hessian_files(const store::RunPaths& paths) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (auto entry = std::filesystem::directory_iterator(paths.hessians(), error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    files.push_back(entry->path());
  if (error && error != std::errc::no_such_file_or_directory)
    throw core::system_error(paths.hessians(), "list", error.value());
  std::sort(files.begin(), files.end());
  return files;
}

/// The generation of a layer or tensor whose file has this digest; the newest when none has.
template <class T>
std::int64_t generation_of(const std::map<std::string, T>& newest, const std::map<std::string, std::vector<T>>& earlier,
                           const std::string& name, const std::string& sha256) {
  if (const auto found = earlier.find(name); found != earlier.end())
    for (const T& record : found->second)
      if (record.sha256 == sha256) return record.generation;
  const auto found = newest.find(name);
  return found == newest.end() ? 0 : found->second.generation;
}

/// A run that a checkpoint says it comes from: what its files hold must stand in the checkpoint.
class ExportedRun {
 public:
  ExportedRun(const exporting::Manifest& manifest, const std::string& checkpoint)
      : paths_{manifest.run}, state_(run::read_state(paths_)), manifest_(manifest), checkpoint_(checkpoint) {}

  /// What the checkpoint's model is; before the two below.
  void open(const model::ModelConfig& config) {
    std::set<std::string> unquantized;
    for (const auto& [name, weights] : state_.unquantized) unquantized.insert(name);
    folding_.emplace(config, std::move(unquantized),
                     [this](const std::string& name) { return exported_layer(name).first; });
  }

  /// `weight`: what the checkpoint's layer decodes to.
  void compare_layer(const std::string& name, const std::vector<float>& weight) {
    auto [encoding, file] = exported_layer(name);
    compare(name, decode_finite(folding_->folded(name, std::move(encoding)), file), weight, file);
  }

  /// A tensor that is no quantized linear; nothing to compare where the run has none of its own.
  void compare_tensor(const model::TensorSpec& spec, const exporting::Checkpoint& checkpoint) {
    const auto sum = manifest_.layers.find(spec.name);
    if (sum == manifest_.layers.end()) return;
    const std::int64_t generation = generation_of(state_.tensors, state_.earlier_tensors, spec.name, sum->second);
    const std::string file = exported_file(spec.name, generation, sum->second);
    std::vector<float> expected(static_cast<std::size_t>(core::element_count(spec.shape).value())),
        stored(expected.size());
    run::read_tensor(paths_, spec, generation, expected);
    folding_->fold(spec, expected);
    const core::DType dtype = checkpoint.config().stored_dtype;
    for (float& value : expected) value = core::from_bits16(dtype, core::to_bits16(dtype, value));
    checkpoint.read(spec, stored);
    compare(spec.name, expected, stored, file);
  }

 private:
  /// As the run holds it, and its file.
  std::pair<format::Encoding, std::string> exported_layer(const std::string& name) const {
    const auto sum = manifest_.layers.find(name);
    if (sum == manifest_.layers.end()) throw core::FormatError(checkpoint_, name + ": is not in the manifest");
    const std::int64_t generation = generation_of(state_.layers, state_.earlier_layers, name, sum->second);
    std::string file = exported_file(name, generation, sum->second);
    return {run::read_layer(paths_, name, generation), std::move(file)};
  }
  std::string exported_file(const std::string& name, std::int64_t generation, const std::string& sha256) const {
    std::string file = paths_.layer(name, generation).string();
    if (core::sha256_of_file(file) != sha256)
      throw core::FormatError(file, "is not the file that was exported (checksum)");
    return file;
  }
  void compare(const std::string& name, const std::vector<float>& expected, const std::vector<float>& stored,
               const std::string& file) const {
    const auto bits = [](const std::vector<float>& values) { return std::as_bytes(std::span(values)); };
    if (!std::ranges::equal(bits(expected), bits(stored)))
      throw core::FormatError(checkpoint_, name + ": holds other numbers than " + file);
  }

  store::RunPaths paths_;
  run::RunState state_;
  const exporting::Manifest& manifest_;
  const std::string& checkpoint_;
  std::optional<exporting::ScaleFolding> folding_;
};

}  // namespace

Verification verify_run(const comm::Communicator& world, const std::string& path) {
  const store::RunPaths paths{path};
  run::RunState state;
  std::vector<std::filesystem::path> hessians;
  comm::together(world, [&] {
    store::read_identity(paths);
    state = run::read_state(paths);
    hessians = hessian_files(paths);
  });
  Checks checks;
  for (const auto& [name, layer] : state.layers)
    checks.add([&, layer = &layer] {
      verify_parents(paths, *layer, state.earlier_layers);
      return verify_layer(paths, *layer);
    });
  for (const auto& [name, tensor] : state.tensors)
    checks.add([&, tensor = &tensor] {
      verify_parents(paths, *tensor, state.earlier_tensors);
      run::require_journalled(paths, tensor->name, tensor->generation, tensor->sha256);
      return std::string();
    });
  for (const std::filesystem::path& file : hessians)
    checks.add([&file] {
      store::read_shard(file);
      return std::string();
    });
  Verification result;
  result.kind = "run directory";
  result.n_layers = state.layers.size();
  checks.run(world, result);
  std::optional<exporting::Manifest> manifest;
  comm::together(world, [&] { manifest = exporting::read_manifest(paths.exported()); });
  if (manifest) add_problems(check_exported(world, paths.exported(), *manifest), result);
  comm::on_root(world, [&] {
    add_problems(check_run_report(paths.report()), result);
    stored_evaluations(paths);
  });
  if (!state.finished) result.notes.emplace_back("the run is not finished");
  if (const std::size_t n_failures = run::failures(state).size(); n_failures > 0)
    result.notes.push_back(fmt::format("{} layers or tensors were given up (voronoi status lists them)", n_failures));
  return result;
}

Verification verify_checkpoint(const comm::Communicator& world, const std::string& path) {
  Verification result;
  std::optional<exporting::Manifest> manifest;
  std::optional<ExportedRun> run;
  std::optional<exporting::Checkpoint> checkpoint;
  comm::together(world, [&] {
    manifest = exporting::read_manifest(path);
    if (manifest && std::filesystem::exists(store::RunPaths{manifest->run}.identity())) run.emplace(*manifest, path);
    checkpoint.emplace(path);
    if (run) run->open(checkpoint->config());
  });
  result.kind = exporting::kind_of(*checkpoint);
  if (manifest) {
    result.problems = check_exported(world, path, *manifest);
    result.notes.push_back(fmt::format("{} files summed", manifest->files.size()));
    result.notes.push_back((run ? "compared with the run " : "the run is not at hand: ") + manifest->run);
  } else {
    result.notes.emplace_back("no manifest: nothing to compare checksums with");
  }
  result.n_layers = checkpoint->linears().size();
  Checks checks;
  for (const std::string& name : checkpoint->linears())
    checks.add([&, name] {
      const format::Encoding encoding = checkpoint->encoding(name);
      const std::vector<float> weight = decode_finite(encoding, path + ": " + name);
      if (run) run->compare_layer(name, weight);
      return layer_text(name, encoding, weight);
    });
  if (run)
    for (const model::TensorSpec& spec : model::expected_tensors(checkpoint->config()))
      checks.add([&, spec] {
        run->compare_tensor(spec, *checkpoint);
        return std::string();
      });
  checks.run(world, result);
  return result;
}

}  // namespace voronoi::validation
