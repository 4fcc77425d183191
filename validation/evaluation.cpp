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
#include "core/log.h"

namespace voronoi::validation {
namespace {

core::Json to_list(const std::vector<Result>& results) {
  core::Json list = core::Json::array();
  for (const Result& result : results) list.push_back(to_json(result));
  return list;
}

std::vector<Result> from_list(const core::Json& list) {
  std::vector<Result> results;
  for (const core::Json& result : list) results.push_back(result_from_json(result));
  return results;
}

/// Of the same text or data at another path it is the same measurement.
std::string name_of(const Evaluation& evaluation) {
  std::string text;
  for (const Result& result : evaluation.results) {
    core::Json protocol = result.protocol;
    protocol.erase("text");
    protocol.erase("data");
    text += result.task + " " + result.metric + " " + protocol.dump() + "\n";
  }
  return core::sha256(text).substr(0, 16) + ".json";
}

std::vector<std::filesystem::path> evaluation_files(const store::RunPaths& paths) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::is_directory(paths.evaluations())) return files;
  for (const auto& entry : std::filesystem::directory_iterator(paths.evaluations()))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

Evaluation read_evaluation(const std::filesystem::path& file) {
  try {
    const core::Json json = core::read_sealed_json(file.string(), "remove it and evaluate again");
    // Earlier versions tell no key.
    return {from_list(json.at("results")), from_list(json.at("reference")), json.value("key", "")};
  } catch (const core::Json::exception& error) {
    throw core::FormatError(file.string(),
                            std::string("is no evaluation: ") + error.what() + "; remove it and evaluate again");
  }
}

}  // namespace

void describe(Result& result, const run::Subject& subject, bool quantized) {
  result.model = (quantized ? *subject.quantized : *subject.original).path();
  result.method = quantized ? subject.method : "unquantized";
  result.label = quantized ? subject.label : "unquantized";
  if (!quantized) return;
  result.bits_true = subject.bits_true;
  result.bits_nominal = subject.bits_nominal;
}

std::vector<std::filesystem::path> reference_directories(const std::vector<run::Subject>& subjects,
                                                         const std::string& cache, const std::string& fingerprint) {
  std::vector<std::filesystem::path> directories;
  if (!cache.empty()) directories.emplace_back(cache);
  for (const run::Subject& subject : subjects)
    if (subject.run && !is_read_only(*subject.run) && subject.original->fingerprint() == fingerprint)
      directories.push_back(subject.run->evaluations());
  return directories;
}

std::vector<std::filesystem::path> own_directories(const run::Subject& subject, const std::string& cache) {
  if (subject.run && !is_read_only(*subject.run)) return {subject.run->evaluations()};
  if (cache.empty()) return {};
  return {cache};
}

bool is_read_only(const store::RunPaths& paths) {
  for (const std::filesystem::path& folder : {paths.root, paths.evaluations(), paths.report()})
    if (::access(folder.c_str(), W_OK) != 0 && (errno == EROFS || errno == EACCES || errno == EPERM)) return true;
  return false;
}

void store_evaluation(const store::RunPaths& paths, const Evaluation& evaluation) {
  std::error_code error;
  std::filesystem::create_directories(paths.evaluations(), error);
  if (error) throw core::system_error(paths.evaluations(), "create the directory", error.value());
  const core::Json json = core::seal_json({{"results", to_list(evaluation.results)},
                                           {"reference", to_list(evaluation.reference)},
                                           {"key", evaluation.key}});
  core::write_file_shared(paths.evaluations() / name_of(evaluation), json.dump(2) + "\n");
}

std::vector<Evaluation> stored_evaluations(const store::RunPaths& paths) {
  std::vector<Evaluation> evaluations;
  for (const std::filesystem::path& file : evaluation_files(paths)) evaluations.push_back(read_evaluation(file));
  return evaluations;
}

std::optional<Evaluation> find_stored_evaluation(const store::RunPaths& paths, const std::string& key) {
  for (const std::filesystem::path& file : evaluation_files(paths)) try {
      Evaluation evaluation = read_evaluation(file);
      if (evaluation.key == key && !evaluation.results.empty()) return evaluation;
    } catch (const core::Error& error) {
      core::log_warning("{}", error.what());
    }
  return std::nullopt;
}

}  // namespace voronoi::validation
