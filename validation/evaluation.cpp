#include "validation/evaluation.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace voronoi::validation {
namespace {

core::Json optional_json(const std::optional<double>& value) {
  return value ? core::Json(*value) : core::Json(nullptr);
}

std::optional<double> optional_number(const core::Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::nullopt;
  return found->get<double>();
}

}  // namespace

core::Json to_json(const Evaluation& e) {
  return {{"model", e.model},
          {"method", e.method},
          {"label", e.label},
          {"text", e.text},
          {"text_sha256", e.text_sha256},
          {"join", e.join},
          {"context", e.context},
          {"windows", e.windows},
          {"tokens", e.tokens},
          {"bos", e.bos},
          {"dtype", e.dtype},
          {"nll", e.nll},
          {"perplexity", e.perplexity},
          {"bits_true", optional_json(e.bits_true)},
          {"bits_nominal", optional_json(e.bits_nominal)},
          {"reference_perplexity", optional_json(e.reference_perplexity)},
          {"seconds", e.seconds}};
}

Evaluation evaluation_from_json(const core::Json& json) {
  Evaluation e;
  e.model = json.at("model").get<std::string>();
  e.method = json.at("method").get<std::string>();
  e.label = json.at("label").get<std::string>();
  e.text = json.at("text").get<std::string>();
  e.text_sha256 = json.at("text_sha256").get<std::string>();
  e.join = json.at("join").get<std::string>();
  e.context = core::whole_number(json.at("context"));
  e.windows = core::whole_number(json.at("windows"));
  e.tokens = core::whole_number(json.at("tokens"));
  e.bos = json.at("bos").get<std::string>();
  e.dtype = json.at("dtype").get<std::string>();
  e.nll = json.at("nll").get<double>();
  e.perplexity = json.at("perplexity").get<double>();
  e.bits_true = optional_number(json, "bits_true");
  e.bits_nominal = optional_number(json, "bits_nominal");
  e.reference_perplexity = optional_number(json, "reference_perplexity");
  e.seconds = json.at("seconds").get<double>();
  return e;
}

std::string protocol_text(const Evaluation& e) {
  return fmt::format("join {}, bos {}, context {}, {} windows, {} predictions, dtype {}", e.join, e.bos, e.context,
                     e.windows, e.tokens, e.dtype);
}

bool is_read_only(const store::RunPaths& paths) {
  for (const std::filesystem::path& folder : {paths.root, paths.evaluations(), paths.report()})
    if (::access(folder.c_str(), W_OK) != 0 && (errno == EROFS || errno == EACCES || errno == EPERM)) return true;
  return false;
}

void store_evaluation(const store::RunPaths& paths, const Evaluation& evaluation,
                      const std::optional<Evaluation>& reference) {
  std::error_code error;
  std::filesystem::create_directories(paths.evaluations(), error);
  if (error) throw core::system_error(paths.evaluations(), "create the directory", error.value());
  const core::Json json = core::seal_json(
      {{"evaluation", to_json(evaluation)}, {"reference", reference ? to_json(*reference) : core::Json(nullptr)}});
  std::string protocol = fmt::format("{} {} {} {} {}", evaluation.text_sha256, evaluation.join, evaluation.context,
                                     evaluation.windows, evaluation.bos);
  if (evaluation.dtype != "float32") protocol += " " + evaluation.dtype;  // fp32 keeps the name it always had
  const std::string key = core::sha256(protocol);
  core::write_file_shared(paths.evaluations() / (key.substr(0, 16) + ".json"), json.dump(2) + "\n");
}

std::vector<StoredEvaluation> stored_evaluations(const store::RunPaths& paths) {
  std::vector<StoredEvaluation> evaluations;
  if (!std::filesystem::is_directory(paths.evaluations())) return evaluations;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(paths.evaluations()))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    try {
      const core::Json json = core::read_sealed_json(file.string(), "remove it and evaluate again");
      StoredEvaluation stored{evaluation_from_json(json.at("evaluation")), std::nullopt};
      if (!json.at("reference").is_null()) stored.reference = evaluation_from_json(json.at("reference"));
      evaluations.push_back(std::move(stored));
    } catch (const core::Json::exception& error) {
      throw core::FormatError(file.string(),
                              std::string("is no evaluation: ") + error.what() + "; remove it and evaluate again");
    }
  }
  return evaluations;
}

}  // namespace voronoi::validation
