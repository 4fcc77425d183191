// Strict JSON for files that may be hostile: no duplicate keys, bounded depth, no NaN, nothing after the value.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/printable.h"

namespace voronoi::core {

/// Objects keep the order of the file; looking a key up is linear in their size: iterate over large ones.
using Json = nlohmann::ordered_json;

/// Parses a whole text. Throws FormatError naming `file` and the byte of the fault.
/// max_depth bounds nesting, so that a hostile file cannot exhaust the stack.
Json parse_json(std::string_view text, std::string_view file, int max_depth = 100);

/// parse_json of a file's content.
Json read_json_file(const std::string& path, int max_depth = 100);

/// The object with a member "sha256" added: the digest of its compact dump without that member.
Json seal_json(Json object);
/// read_json_file of a sealed object, checked and without its seal. Every FormatError ends in "; remedy".
Json read_sealed_json(const std::string& path, std::string_view remedy);

/// A whole number of 64 bits with sign. Throws Json::exception for anything else: get<std::int64_t>() converts floats,
/// which is undefined beyond 64 bits, and wraps.
std::int64_t whole_number(const Json& value);
/// value[key], or `otherwise` where it is absent.
std::int64_t whole_number_or(const Json& value, const char* key, std::int64_t otherwise);

}  // namespace voronoi::core
