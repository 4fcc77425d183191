#include "validation/requests_file.h"

#include "core/error.h"
#include "core/json.h"
#include "validation/text_filter.h"

namespace voronoi::validation {
namespace {

std::vector<std::int32_t> ids_at(const core::Json& json, const char* key, const std::string& place) {
  std::vector<std::int32_t> ids;
  const core::Json& list = json.at(key);
  const auto fail = [&] { throw core::FormatError(place, std::string("its \"") + key + "\" is no list of token ids"); };
  if (!list.is_array()) fail();
  for (const core::Json& id : list) {
    if (!id.is_number_integer()) fail();
    const std::int64_t value =
        id.is_number_unsigned() && id.get<std::uint64_t>() > INT32_MAX ? -1 : core::whole_number(id);
    if (value < 0 || value > INT32_MAX) fail();
    ids.push_back(static_cast<std::int32_t>(value));
  }
  return ids;
}

RequestLine parse_request(std::string_view line, const std::string& place) {
  const core::Json json = core::parse_json(line, place);
  const auto is_text = [&](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string();
  };
  RequestLine request;
  request.place = place;
  if (json.is_object() && json.contains("context_ids") && json.contains("continuation_ids")) {
    request.kind = RequestLine::Kind::ids;
    request.ids = {place, ids_at(json, "context_ids", place), ids_at(json, "continuation_ids", place)};
  } else if (json.is_object() && is_text("context") && is_text("continuation")) {
    request.context = json.at("context").get<std::string>();
    request.continuation = json.at("continuation").get<std::string>();
  } else if (json.is_object() && is_text("text")) {
    request.kind = RequestLine::Kind::text;
    request.continuation = json.at("text").get<std::string>();
  } else {
    throw core::FormatError(place,
                            "is no request: it needs the texts \"context\" and \"continuation\", or lists of ids "
                            "\"context_ids\" and \"continuation_ids\", or a \"text\"");
  }
  return request;
}

}  // namespace

std::vector<RequestLine> parse_requests(std::string_view lines, const std::string& file) {
  std::vector<RequestLine> requests;
  for (std::int64_t number = 1; !lines.empty(); ++number) {
    const std::string_view line = take_line(lines);
    if (!stripped(line).empty()) requests.push_back(parse_request(line, file + ": line " + std::to_string(number)));
  }
  if (requests.empty()) throw core::FormatError(file, "holds no requests; it has one JSON object a line");
  return requests;
}

std::string answers_text(std::span<const RequestAnswer> answers) {
  std::string text;
  for (const RequestAnswer& answer : answers)
    text += core::Json{{"loglikelihood", answer.likelihood.log_likelihood},
                       {"is_greedy", answer.likelihood.is_greedy},
                       {"tokens", answer.n_tokens}}
                .dump() +
            "\n";
  return text;
}

}  // namespace voronoi::validation
