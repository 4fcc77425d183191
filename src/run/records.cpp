#include "run/records.h"

#include <fmt/format.h>

#include <optional>
#include <type_traits>
#include <utility>

#include "core/error.h"

namespace voronoi::run {
namespace {

core::Json value_to_json(const std::vector<GivenOption>& options) {
  core::Json json = core::Json::array();
  for (const GivenOption& option : options) {
    json.push_back({{"name", option.name}, {"value", option.value}});
    if (option.path) json.back()["path"] = true;
  }
  return json;
}

template <class T>
core::Json value_to_json(const T& value) {
  return value;
}

void value_from_json(const core::Json& json, std::int64_t& value) { value = core::whole_number(json); }
void value_from_json(const core::Json& json, core::Json& value) { value = json; }
void value_from_json(const core::Json& json, std::vector<GivenOption>& options) {
  for (const core::Json& entry : json)
    options.push_back(
        {entry.at("name").get<std::string>(), entry.at("value").get<std::string>(), entry.value("path", false)});
}

template <class T>
void value_from_json(const core::Json& json, T& value) {
  value = json.get<T>();
}

class Writer {
 public:
  explicit Writer(core::Json& json) : json_(json) {}
  template <class T>
  void operator()(const char* key, const T& value) {
    json_[key] = value_to_json(value);
  }
  template <class T>
  void later(const char* key, const T& value) {
    core::Json written = value_to_json(value);
    if (written != value_to_json(T{})) json_[key] = std::move(written);
  }

 private:
  core::Json& json_;
};

class Reader {
 public:
  explicit Reader(const core::Json& json) : json_(json) {}
  template <class T>
  void operator()(const char* key, T& value) {
    value_from_json(json_.at(key), value);
  }
  template <class T>
  void later(const char* key, T& value) {
    if (json_.contains(key)) value_from_json(json_.at(key), value);
  }

 private:
  const core::Json& json_;
};

template <class T>
T read_fields(const core::Json& json) {
  T record;
  Reader reader(json);
  T::each(record, reader);
  return record;
}

/// Nothing when no type of the variant has this name.
template <std::size_t I = 0>
std::optional<Record> read_record(std::string_view type, const core::Json& json) {
  if constexpr (I == std::variant_size_v<Record>) {
    return std::nullopt;
  } else {
    using T = std::variant_alternative_t<I, Record>;
    if (type == T::kType) return read_fields<T>(json);
    return read_record<I + 1>(type, json);
  }
}

}  // namespace

core::Json to_json(const Record& record) {
  return std::visit(
      [](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        core::Json json{{"type", T::kType}};
        Writer writer(json);
        T::each(value, writer);
        return json;
      },
      record);
}

Record record_from_json(const core::Json& json, const std::string& file, std::size_t line) {
  try {
    const auto type = json.at("type").get<std::string>();
    if (std::optional<Record> record = read_record(type, json)) return *std::move(record);
    throw core::FormatError(
        file,
        fmt::format("line {} is a record of type {}, which this version does not know: another version of the program "
                    "wrote it; use that one, or start a new run directory",
                    line, core::quote_text(type)));
  } catch (const core::Json::exception& error) {
    throw core::FormatError(file, fmt::format("line {}: the record lacks what its type needs: {}; the journal is of "
                                              "another version or was edited: start a new run directory",
                                              line, error.what()));
  }
}

LayerRecord layer_from_json(const core::Json& json) { return read_fields<LayerRecord>(json); }

}  // namespace voronoi::run
