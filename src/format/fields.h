// Typed fields of a format, to and from its encodings: what the units of the formats share.
//
// Fields<Array> stands for a struct with extents (out_features, in_features, dtype, ...) and arrays, that lists both:
// static for_each_attribute(fields, visit) calls visit(name, member), for_each_array(fields, visit) calls visit(name,
// member, element type, function that gives the shape, to be called for sound extents). find_extent_problem(fields) and
// find_problem(view) say what is wrong with the values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "format/format.h"

namespace voronoi::format {

template <class T>
using Owned = std::vector<T>;
template <class T>
using View = std::span<const T>;

/// Elements a row of an array that has n_rows of them.
std::int64_t columns_of(const auto& array, std::int64_t n_rows) {
  return static_cast<std::int64_t>(array.size()) / n_rows;
}

template <class Fields>
FieldNames field_names() {
  FieldNames names;
  Fields fields;
  Fields::for_each_attribute(fields, [&](const char* name, auto&) { names.attributes.emplace_back(name); });
  Fields::for_each_array(fields, [&](const char* name, auto&, auto&&...) { names.arrays.emplace_back(name); });
  return names;
}

/// InternalError for extents with a problem.
template <class Fields>
Encoding make_encoding(const Format& format, const Fields& fields) {
  const std::string problem = find_extent_problem(fields);
  VORONOI_REQUIRE(problem.empty(), "an encoding that cannot be stored: " + problem);
  Encoding encoding{&format, fields.out_features, fields.in_features, fields.dtype, {}, {}};
  Fields::for_each_attribute(fields, [&](const char* name, const auto& member) { encoding.attributes[name] = member; });
  Fields::for_each_array(fields, [&](const char* name, const auto& member, core::DType dtype, const auto& shape_of) {
    if (member.empty()) return;
    const auto bytes = std::as_bytes(std::span(member));
    encoding.arrays.push_back({name, dtype, shape_of(), {bytes.begin(), bytes.end()}});
  });
  return encoding;
}

/// Fills the view, whose spans point into the encoding; what is missing stays 0 or empty. Returns what is wrong with
/// names, types and sizes in bytes.
template <class Fields>
std::string read_fields(const Encoding& encoding, Fields& view) {
  std::string problem;  // the first one
  const auto note = [&problem](const std::string& text) {
    if (problem.empty()) problem = text;
  };
  view.out_features = encoding.out_features;
  view.in_features = encoding.in_features;
  view.dtype = encoding.dtype;
  Fields::for_each_attribute(view, [&](const std::string& name, auto& member) {
    const auto found = encoding.attributes.find(name);
    if (found == encoding.attributes.end()) return note("attribute '" + name + "' is missing");
    member = found->second;
  });
  std::map<std::string, const NamedArray*> by_name;
  for (const NamedArray& array : encoding.arrays)
    if (!by_name.emplace(array.name, &array).second) note("array '" + array.name + "' is there twice");
  Fields::for_each_array(view, [&](const std::string& name, auto& member, core::DType dtype, const auto&) {
    using Element = typename std::remove_reference_t<decltype(member)>::element_type;
    const auto found = by_name.find(name);
    if (found == by_name.end()) return;  // as good as empty: find_problem(view) knows which arrays must not be
    const NamedArray& array = *found->second;
    by_name.erase(found);
    const auto count = core::element_count(array.shape);
    const auto bytes = count ? core::checked_multiply(*count, sizeof(Element)) : std::nullopt;
    if (array.dtype != dtype)
      return note("array '" + name + "' holds " + std::string(core::dtype_name(array.dtype)) + " where " +
                  std::string(core::dtype_name(dtype)) + " is due");
    if (!bytes || static_cast<std::size_t>(*bytes) != array.bytes.size())
      return note("array '" + name + "' of shape " + core::to_string(array.shape) + " has " +
                  std::to_string(array.bytes.size()) + " bytes");
    member = {reinterpret_cast<Element*>(array.bytes.data()), static_cast<std::size_t>(*count)};
  });
  for (const auto& [name, array] : by_name) note("array '" + name.substr(0, 80) + "' is none of this encoding");
  return problem;
}

/// Of a sound encoding.
template <class Fields>
Fields view_of(const Encoding& encoding) {
  Fields view;
  const std::string problem = read_fields(encoding, view);
  VORONOI_REQUIRE(problem.empty(), "an encoding that cannot be read: " + problem);
  return view;
}

/// Format::find_problem by the fields.
template <class Fields>
std::string find_encoding_problem(const Encoding& encoding) {
  Fields view;
  std::string problem = read_fields(encoding, view);
  if (problem.empty()) problem = find_problem(view);
  if (!problem.empty()) return problem;
  Fields::for_each_array(view, [&](const char* name, const auto& member, core::DType, const auto& shape_of) {
    const auto stored = std::find_if(encoding.arrays.begin(), encoding.arrays.end(),
                                     [name](const NamedArray& array) { return array.name == name; });
    if (member.empty() || stored->shape == shape_of()) return;
    problem = std::string("array '") + name + "' has shape " + core::to_string(stored->shape) + " where " +
              core::to_string(shape_of()) + " is due";
  });
  return problem;
}

}  // namespace voronoi::format
