#include "format/tuned_arrays.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/error.h"

namespace voronoi::format {
namespace {

constexpr std::size_t kNumberBytes = sizeof(std::uint16_t);

NamedArray* find_array(Encoding& encoding, std::string_view name) {
  const auto found = std::find_if(encoding.arrays.begin(), encoding.arrays.end(),
                                  [name](const NamedArray& array) { return array.name == name; });
  return found == encoding.arrays.end() ? nullptr : &*found;
}

}  // namespace

TunedArrays::TunedArrays(backend::Context& context, const Encoding& encoding,
                         std::initializer_list<std::pair<std::string_view, ParameterKind>> parameters,
                         std::initializer_list<std::string_view> codes)
    : context_(context), encoding_{encoding.format, encoding.out_features, encoding.in_features,
                                   encoding.dtype,  encoding.attributes,   {}} {
  const auto is_parameter = [&parameters](const NamedArray& array) {
    return std::any_of(parameters.begin(), parameters.end(),
                       [&array](const auto& parameter) { return parameter.first == array.name; });
  };
  for (const NamedArray& array : encoding.arrays) {
    encoding_.arrays.push_back({array.name, array.dtype, array.shape, {}});
    if (is_parameter(array))
      encoding_.arrays.back().bytes = array.bytes;
    else
      fixed_[array.name].device = backend::Array<std::byte>(context, std::span<const std::byte>(array.bytes));
  }
  std::int64_t first = 0;
  for (const auto& parameter : parameters) {
    const NamedArray* array = find_array(encoding_, parameter.first);
    if (array == nullptr) continue;
    const auto size = static_cast<std::int64_t>(array->bytes.size() / kNumberBytes);
    runs_.push_back({parameter.first, parameter.second, first, size, array->dtype});
    first += size;
  }
  for (const std::string_view name : codes)
    if (fixed_.contains(std::string(name))) codes_.emplace_back(name);
}

std::int64_t TunedArrays::size_bytes() const {
  std::int64_t total = 0;
  for (const auto& [name, array] : fixed_) total += std::max(array.device.size(), std::ssize(array.host));
  return total;
}

std::vector<std::byte> TunedArrays::codes() const {
  std::vector<std::byte> all;
  for (const std::string& name : codes_) {
    const std::vector<std::byte> bytes = fixed_.at(name).bytes();
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

void TunedArrays::set_codes(std::span<const std::byte> codes) {
  for (const std::string& name : codes_) {
    Fixed& array = fixed_.at(name);
    const auto size = static_cast<std::size_t>(array.size());
    VORONOI_REQUIRE(codes.size() >= size, "codes of another linear");
    array.assign(codes.first(size));
    codes = codes.subspan(size);
  }
  VORONOI_REQUIRE(codes.empty(), "codes of another linear");
}

void TunedArrays::leave_device() {
  for (auto& [name, array] : fixed_) {
    if (array.host.empty()) array.host = array.device.to_host();
    array.device = {};
  }
}

void TunedArrays::enter_device(bool stay) {
  for (auto& [name, array] : fixed_) {
    if (array.host.empty()) continue;
    if (array.device.empty()) {
      array.device = backend::Array<std::byte>(context_, std::ssize(array.host));
      context_.memory().upload(context_.exec(), array.host.data(), array.device.size(), array.device.data());
    }
    if (stay) array.host = {};
  }
}

std::vector<float> TunedArrays::initial() const {
  std::vector<float> values(static_cast<std::size_t>(n_parameters()));
  for (const NamedArray& array : encoding_.arrays)
    if (float* part = part_of(values.data(), array.name); part != nullptr)
      core::convert_to_f32(array.dtype, array.bytes.data(),
                           static_cast<std::int64_t>(array.bytes.size() / kNumberBytes), part);
  return values;
}

Encoding TunedArrays::rounded(std::span<const float> parameters) const {
  VORONOI_REQUIRE(static_cast<std::int64_t>(parameters.size()) == n_parameters(), "parameters of another number");
  Encoding encoding = encoding_;
  for (NamedArray& array : encoding.arrays)
    if (const auto found = fixed_.find(array.name); found != fixed_.end())
      array.bytes = found->second.host.empty() ? found->second.device.to_host() : found->second.host;
  for (const ParameterRun& run : runs_) {
    NamedArray& array = *find_array(encoding, run.array);
    for (std::int64_t i = 0; i < run.size; ++i) {
      const float value = parameters[static_cast<std::size_t>(run.first + i)];
      const std::uint16_t bits = core::to_bits16(run.dtype, value);
      if (!std::isfinite(core::from_bits16(run.dtype, bits)))
        throw core::NumericError("the tuned " + std::string(run.array) + "[" + std::to_string(i) + "] is " +
                                 std::to_string(value) + ", which " + std::string(core::dtype_name(run.dtype)) +
                                 " cannot hold; a lower learning rate keeps it in range");
      std::memcpy(array.bytes.data() + static_cast<std::size_t>(i) * kNumberBytes, &bits, kNumberBytes);
    }
  }
  return encoding;
}

}  // namespace voronoi::format
