// Encodings as named arrays and attributes, and back with every check.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>
#include <type_traits>

#include "core/error.h"
#include "core/packing.h"
#include "quant/encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;
using core::FormatError;

std::string_view kind_of(const VqEncoding&) { return "vq"; }
std::string_view kind_of(const UniformEncoding&) { return "uniform"; }

// One list of fields an encoding, for both directions: `visit` is given the attribute's or array's name, the member,
// and for an array its element type and a function that gives its shape (to be called for encodings without a problem:
// extents of a file may overflow).
template <class Encoding, class Visit>
requires std::is_same_v<std::remove_const_t<Encoding>, VqEncoding>
void for_each_attribute(Encoding& e, const Visit& visit) {
  visit("out_features", e.out_features);
  visit("in_features", e.in_features);
  visit("vector_length", e.vector_length);
  visit("centroids", e.centroids);
  visit("residual_centroids", e.residual_centroids);
  visit("groups", e.groups);
  visit("outlier_size", e.outlier_size);
  visit("outlier_vector_length", e.outlier_vector_length);
  visit("outlier_centroids", e.outlier_centroids);
}

template <class Encoding, class Visit>
requires std::is_same_v<std::remove_const_t<Encoding>, UniformEncoding>
void for_each_attribute(Encoding& e, const Visit& visit) {
  visit("out_features", e.out_features);
  visit("in_features", e.in_features);
  visit("bits", e.bits);
  visit("group_size", e.group_size);
}

/// Elements a row of an array that has n_rows of them.
std::int64_t columns_of(const auto& array, std::int64_t n_rows) {
  return static_cast<std::int64_t>(array.size()) / n_rows;
}

template <class Encoding, class Visit>
requires std::is_same_v<std::remove_const_t<Encoding>, VqEncoding>
void for_each_array(Encoding& e, const Visit& visit) {
  using core::Shape;
  visit("indices", e.indices, DType::u32, [&e] {
    const std::int64_t vectors = core::ceil_div(e.out_features, e.vector_length);
    return Shape{e.groups, vectors, columns_of(e.indices, e.groups * vectors)};
  });
  visit("codebook", e.codebook, e.dtype, [&e] { return Shape{e.groups, e.centroids, e.vector_length}; });
  visit("residual_codebook", e.residual_codebook, e.dtype, [&e] {
    return Shape{e.groups, e.residual_centroids, e.vector_length};
  });
  visit("outlier_codebook", e.outlier_codebook, e.dtype, [&e] {
    return Shape{e.outlier_centroids, e.outlier_vector_length};
  });
  visit("outlier_indices", e.outlier_indices, DType::u16, [&e] {
    return Shape{columns_of(e.outlier_indices, e.outlier_size), e.outlier_size};
  });
  visit("scale", e.scale, e.dtype, [&e] { return Shape{e.in_features}; });
  visit("bias", e.bias, e.dtype, [&e] { return Shape{e.in_features}; });
  visit("perm", e.perm, DType::u16, [&e] { return Shape{e.in_features}; });
}

template <class Encoding, class Visit>
requires std::is_same_v<std::remove_const_t<Encoding>, UniformEncoding>
void for_each_array(Encoding& e, const Visit& visit) {
  using core::Shape;
  visit("codes", e.codes, DType::u32, [&e] { return Shape{e.out_features, columns_of(e.codes, e.out_features)}; });
  visit("scale", e.scale, e.dtype, [&e] { return Shape{e.out_features, columns_of(e.scale, e.out_features)}; });
  visit("zeros", e.zeros, DType::u32, [&e] { return Shape{e.out_features, columns_of(e.zeros, e.out_features)}; });
  visit("perm", e.perm, DType::u16, [&e] { return Shape{e.in_features}; });
}

const std::string& attribute(const std::map<std::string, std::string>& attributes, const std::string& name,
                             const std::string& file) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) throw FormatError(file, "attribute '" + name + "' of the quantized layer is missing");
  return found->second;
}

template <class Integer>
Integer parse(const std::string& text, const std::string& name, const std::string& file) {
  Integer value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw FormatError(file, "attribute '" + name + "' is '" + text.substr(0, 40) + "', not a whole number");
  return value;
}

DType parse_dtype(const std::string& text, const std::string& file) {
  const auto dtype = core::dtype_from_name(text);
  if (!dtype) throw FormatError(file, "attribute 'dtype' is '" + text.substr(0, 40) + "', not F16 or BF16");
  return *dtype;
}

template <class Kind>
Kind read(const std::map<std::string, std::string>& attributes, const std::vector<NamedArray>& arrays,
          const std::string& file) {
  Kind e;
  for_each_attribute(e, [&](const std::string& name, auto& member) {
    member = parse<std::remove_reference_t<decltype(member)>>(attribute(attributes, name, file), name, file);
  });
  e.dtype = parse_dtype(attribute(attributes, "dtype", file), file);

  std::map<std::string, const NamedArray*> by_name;
  for (const NamedArray& array : arrays)
    if (!by_name.emplace(array.name, &array).second)
      throw FormatError(file, "array '" + array.name + "' is there twice");
  std::set<std::string> known;
  for_each_array(e, [&](const std::string& name, auto& member, DType dtype, const auto&) {
    using Element = typename std::remove_reference_t<decltype(member)>::value_type;
    known.insert(name);
    const auto found = by_name.find(name);
    if (found == by_name.end()) return;  // as good as empty: find_problem knows which arrays must not be
    const NamedArray& array = *found->second;
    if (array.dtype != dtype)
      throw FormatError(file, "array '" + name + "' holds " + std::string(core::dtype_name(array.dtype)) + " where " +
                                  std::string(core::dtype_name(dtype)) + " is due");
    const auto count = core::element_count(array.shape);
    const auto bytes = count ? core::checked_multiply(*count, sizeof(Element)) : std::nullopt;
    if (!bytes || static_cast<std::size_t>(*bytes) != array.bytes.size())
      throw FormatError(file, "array '" + name + "' of shape " + core::to_string(array.shape) + " has " +
                                  std::to_string(array.bytes.size()) + " bytes");
    member.resize(static_cast<std::size_t>(*count));
    if (*count > 0) std::memcpy(member.data(), array.bytes.data(), array.bytes.size());
  });
  for (const auto& [name, array] : by_name)
    if (!known.contains(name)) throw FormatError(file, "array '" + name.substr(0, 80) + "' is none of this encoding");

  if (const std::string problem = find_problem(e); !problem.empty()) throw FormatError(file, problem);
  for_each_array(e, [&](const std::string& name, auto& member, DType, const auto& shape_of) {
    if (member.empty()) return;
    const core::Shape shape = shape_of();
    if (by_name.at(name)->shape != shape)
      throw FormatError(file, "array '" + name + "' has shape " + core::to_string(by_name.at(name)->shape) + " where " +
                                  core::to_string(shape) + " is due");
  });
  return e;
}

}  // namespace

std::vector<NamedArray> to_arrays(const Encoding& encoding) {
  std::vector<NamedArray> arrays;
  const std::string problem = find_problem(encoding);
  VORONOI_REQUIRE(problem.empty(), "an encoding that cannot be stored: " + problem);
  const auto append = [&arrays](const std::string& name, const auto& member, DType dtype, const auto& shape_of) {
    if (member.empty()) return;
    const auto bytes = std::as_bytes(std::span(member));
    arrays.push_back({name, dtype, shape_of(), {bytes.begin(), bytes.end()}});
  };
  std::visit([&append](const auto& e) { for_each_array(e, append); }, encoding);
  return arrays;
}

std::map<std::string, std::string> to_attributes(const Encoding& encoding) {
  std::map<std::string, std::string> attributes;
  std::visit(
      [&attributes](const auto& e) {
        attributes["encoding"] = kind_of(e);
        attributes["dtype"] = core::dtype_name(e.dtype);
        for_each_attribute(e, [&attributes](const std::string& name, const auto& member) {
          attributes[name] = std::to_string(member);
        });
      },
      encoding);
  return attributes;
}

Encoding from_arrays(const std::map<std::string, std::string>& attributes, const std::vector<NamedArray>& arrays,
                     const std::string& file) {
  const std::string& kind = attribute(attributes, "encoding", file);
  if (kind == "vq") return read<VqEncoding>(attributes, arrays, file);
  if (kind == "uniform") return read<UniformEncoding>(attributes, arrays, file);
  throw FormatError(file, "attribute 'encoding' is '" + kind.substr(0, 40) + "', neither 'vq' nor 'uniform'");
}

}  // namespace voronoi::quant
