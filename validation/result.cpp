#include "validation/result.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/error.h"

namespace voronoi::validation {
namespace {

core::Json optional_json(const std::optional<double>& value) {
  return value ? core::Json(*value) : core::Json(nullptr);
}

std::optional<double> optional_number(const core::Json& json, const char* key) {
  const core::Json& value = json.at(key);
  if (value.is_null()) return std::nullopt;
  return value.get<double>();
}

}  // namespace

core::Json to_json(const Result& r) {
  core::Json json{{"model", r.model},
                  {"method", r.method},
                  {"label", r.label},
                  {"bits_true", optional_json(r.bits_true)},
                  {"bits_nominal", optional_json(r.bits_nominal)},
                  {"task", r.task},
                  {"metric", r.metric},
                  {"value", r.value},
                  {"stderr", optional_json(r.standard_error)},
                  {"n", r.n},
                  {"protocol", r.protocol},
                  {"seconds", r.seconds},
                  {"reference", optional_json(r.reference)}};
  if (r.metric != kPerplexity) return json;
  for (const auto& [name, value] : r.protocol.items()) json[name] = value;
  json["tokens"] = r.n;
  json["nll"] = std::log(r.value);
  json["perplexity"] = r.value;
  json["reference_perplexity"] = optional_json(r.reference);
  return json;
}

Result result_from_json(const core::Json& json) {
  Result r;
  r.model = json.at("model").get<std::string>();
  r.method = json.at("method").get<std::string>();
  r.label = json.at("label").get<std::string>();
  r.bits_true = optional_number(json, "bits_true");
  r.bits_nominal = optional_number(json, "bits_nominal");
  r.task = json.at("task").get<std::string>();
  r.metric = json.at("metric").get<std::string>();
  r.value = json.at("value").get<double>();
  r.standard_error = optional_number(json, "stderr");
  r.n = core::whole_number(json.at("n"));
  r.protocol = json.at("protocol");
  if (!r.protocol.is_object()) throw core::FormatError("a result", "its protocol is no object");
  r.seconds = json.at("seconds").get<double>();
  r.reference = optional_number(json, "reference");
  return r;
}

std::optional<double> standard_error(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  if (values.size() < 2) return std::nullopt;
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (n - 1) / n);
}

std::string protocol_text(const core::Json& protocol) {
  std::string text;
  for (const auto& [name, value] : protocol.items()) {
    if (name == "text" || name == "text_sha256" || name == "data" || name == "data_sha256") continue;
    if (!text.empty()) text += ", ";
    text += name + " " + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return text;
}

}  // namespace voronoi::validation
