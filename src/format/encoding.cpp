#include "format/encoding.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/error.h"
#include "format/aqlm.h"
#include "format/e8p.h"
#include "format/format.h"
#include "format/gptvq.h"
#include "format/signed_levels.h"
#include "format/trellis.h"
#include "format/uniform.h"
#include "format/vptq.h"

namespace voronoi::format {
namespace {

using core::DType;
using core::FormatError;

const std::string& attribute(const std::map<std::string, std::string>& attributes, const std::string& name,
                             const std::string& file) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) throw FormatError(file, "attribute '" + name + "' of the quantized layer is missing");
  return found->second;
}

std::int64_t whole_number(const std::map<std::string, std::string>& attributes, const std::string& name,
                          const std::string& file) {
  const std::string& text = attribute(attributes, name, file);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw FormatError(file, "attribute '" + name + "' is '" + text.substr(0, 40) + "', not a whole number");
  return value;
}

DType number_type(const std::map<std::string, std::string>& attributes, const std::string& file) {
  const std::string& text = attribute(attributes, "dtype", file);
  const auto dtype = core::dtype_from_name(text);
  if (!dtype) throw FormatError(file, "attribute 'dtype' is '" + text.substr(0, 40) + "', not F16 or BF16");
  return *dtype;
}

const Format& find_format(const std::string& name, const std::string& file, std::span<const Format* const> formats) {
  std::string known;
  for (const Format* format : formats) {
    if (format->name() == name) return *format;
    known += (known.empty() ? "'" : ", '") + std::string(format->name()) + "'";
  }
  throw FormatError(file, "attribute 'encoding' is '" + name.substr(0, 40) + "', none of " + known);
}

const Format& format_of(const Encoding& encoding) {
  VORONOI_REQUIRE(encoding.format != nullptr, "an encoding of no format");
  return *encoding.format;
}

}  // namespace

std::span<const Format* const> known_formats() {
  static const Format* const formats[] = {&vptq_format(), &uniform_format(), &signed_levels_format(), &gptvq_format(),
                                          &e8p_format(),  &trellis_format(), &aqlm_format()};
  return formats;
}

std::string find_problem(const Encoding& encoding) { return format_of(encoding).find_problem(encoding); }

void decode(const Encoding& encoding, std::span<float> weight) {
  const std::string problem = find_problem(encoding);
  VORONOI_REQUIRE(problem.empty(), "an encoding that cannot be decoded: " + problem);
  VORONOI_REQUIRE(static_cast<std::int64_t>(weight.size()) == encoding.out_features * encoding.in_features,
                  "the weight is [out_features, in_features]");
  format_of(encoding).decode(encoding, weight);
}

std::int64_t stored_bits(const Encoding& encoding) {
  std::int64_t bits = 0;
  for (const NamedArray& array : encoding.arrays) bits += static_cast<std::int64_t>(8 * array.bytes.size());
  return bits;
}

double nominal_bits(const Encoding& encoding) { return format_of(encoding).nominal_bits(encoding); }

std::map<std::string, std::string> to_attributes(const Encoding& encoding) {
  std::map<std::string, std::string> attributes{{"encoding", std::string(format_of(encoding).name())},
                                                {"dtype", std::string(core::dtype_name(encoding.dtype))},
                                                {"out_features", std::to_string(encoding.out_features)},
                                                {"in_features", std::to_string(encoding.in_features)}};
  for (const auto& [name, value] : encoding.attributes) attributes[name] = std::to_string(value);
  return attributes;
}

Encoding from_arrays(const std::map<std::string, std::string>& attributes, std::vector<NamedArray> arrays,
                     const std::string& file, std::span<const Format* const> formats) {
  const Format& format = find_format(attribute(attributes, "encoding", file), file, formats);
  const FieldNames fields = format.fields();
  Encoding encoding;
  encoding.format = &format;
  encoding.out_features = whole_number(attributes, "out_features", file);
  encoding.in_features = whole_number(attributes, "in_features", file);
  encoding.dtype = number_type(attributes, file);
  for (const std::string& name : fields.attributes) encoding.attributes[name] = whole_number(attributes, name, file);
  encoding.arrays = std::move(arrays);
  if (const std::string problem = find_problem(encoding); !problem.empty()) throw FormatError(file, problem);
  // As make_encoding() leaves them.
  const auto place = [&](const NamedArray& array) {
    return std::find(fields.arrays.begin(), fields.arrays.end(), array.name) - fields.arrays.begin();
  };
  std::erase_if(encoding.arrays, [](const NamedArray& array) { return array.bytes.empty(); });
  std::sort(encoding.arrays.begin(), encoding.arrays.end(),
            [&](const NamedArray& a, const NamedArray& b) { return place(a) < place(b); });
  return encoding;
}

Encoding from_arrays(const std::map<std::string, std::string>& attributes, std::vector<NamedArray> arrays,
                     const std::string& file) {
  return from_arrays(attributes, std::move(arrays), file, known_formats());
}

}  // namespace voronoi::format
