#include "model/weight_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace voronoi::model {
namespace {

// Bit patterns of magnitudes order like the magnitudes themselves, infinities and NaNs last: one integer maximum over a
// chunk finds every bad value, and the loops below vectorize.
constexpr std::int32_t kMagnitude = 0x7FFFFFFF;
constexpr std::int32_t kMaxWeightBits = std::bit_cast<std::int32_t>(kMaxWeight);
constexpr std::int64_t kChunk = 4096;  // elements: source and result stay in the first-level cache

template <class T>
T load(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

std::int32_t convert_bf16(const std::byte* source, std::int64_t n, float* out) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = static_cast<std::int32_t>(std::uint32_t{load<std::uint16_t>(source + 2 * i)} << 16);
    out[i] = std::bit_cast<float>(bits);
    largest = std::max(largest, bits & kMagnitude);
  }
  return largest;
}

/// Exponent and mantissa shifted into place and rescaled by 2^112 are exact for normal and subnormal halves; an
/// infinity or a NaN comes out as 65536 or more, which counts as too large.
std::int32_t convert_f16(const std::byte* source, std::int64_t n, float* out) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t half = load<std::uint16_t>(source + 2 * i);
    const float magnitude = std::bit_cast<float>((half & 0x7FFFU) << 13) * 0x1p112F;
    const auto magnitude_bits = std::bit_cast<std::uint32_t>(magnitude);
    out[i] = std::bit_cast<float>(magnitude_bits | ((half & 0x8000U) << 16));
    largest = std::max(largest, static_cast<std::int32_t>(magnitude_bits));
  }
  return largest;
}

std::int32_t convert_f32(const std::byte* source, std::int64_t n, float* out) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = load<std::int32_t>(source + 4 * i);
    out[i] = std::bit_cast<float>(bits);
    largest = std::max(largest, bits & kMagnitude);
  }
  return largest;
}

std::int32_t convert_f64(const std::byte* source, std::int64_t n, float* out) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(load<double>(source + 8 * i));
    largest = std::max(largest, std::bit_cast<std::int32_t>(out[i]) & kMagnitude);
  }
  return largest;
}

template <class Name>
std::string joined(const std::vector<Name>& names, std::size_t n_shown) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), n_shown); ++i) text += (i ? ", " : "") + std::string(names[i]);
  if (names.size() > n_shown) text += fmt::format(" and {} more", names.size() - n_shown);
  return text;
}

}  // namespace

bool convert_finite(core::DType dtype, const std::byte* bytes, std::span<float> out) {
  const auto convert = [dtype] {
    switch (dtype) {
      case core::DType::bf16:
        return convert_bf16;
      case core::DType::f16:
        return convert_f16;
      case core::DType::f32:
        return convert_f32;
      case core::DType::f64:
        return convert_f64;
      default:
        throw core::InternalError("convert_finite: " + std::string(core::dtype_name(dtype)) + " is not a float type");
    }
  }();
  const std::int64_t size = core::dtype_size(dtype), n = static_cast<std::int64_t>(out.size());
  std::int32_t largest = 0;
  for (std::int64_t begin = 0; begin < n; begin += kChunk)
    largest = std::max(largest, convert(bytes + begin * size, std::min(kChunk, n - begin), out.data() + begin));
  return largest <= kMaxWeightBits;
}

bool all_finite(std::span<const float> values) {
  std::int32_t largest = 0;
  for (const float value : values) largest = std::max(largest, std::bit_cast<std::int32_t>(value) & kMagnitude);
  return largest <= kMaxWeightBits;
}

void round_to_half(std::span<float> values) {
  // Below 2^-14 halves are multiples of 2^-24, the spacing of floats in [0.5, 1).
  for (float& value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    // A NaN becomes an infinity: adding to its mantissa could carry into the sign.
    const std::uint32_t sign = bits & 0x80000000U, magnitude = std::min(bits & 0x7FFFFFFFU, 0x7F800000U);
    const std::uint32_t normal = (magnitude + 0xFFFU + ((magnitude >> 13) & 1U)) & ~0x1FFFU;
    const auto subnormal = std::bit_cast<std::uint32_t>((std::bit_cast<float>(magnitude) + 0.5F) - 0.5F);
    value = std::bit_cast<float>((magnitude < 0x38800000U ? subnormal : normal) | sign);
  }
}

BadValues bad_values(std::string_view file, std::string_view tensor, const core::Shape& shape,
                     const std::function<double(std::int64_t)>& value) {
  const std::int64_t n = core::element_count(shape).value_or(0);
  for (std::int64_t i = 0; i < n; ++i) {
    const double found = value(i);
    if (std::abs(found) <= static_cast<double>(kMaxWeight)) continue;
    core::Shape place(shape.size());
    std::int64_t rest = i;
    for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) place[d] = rest % shape[d];
    return {file,
            fmt::format("tensor {}: element {} is {}; a finite value of magnitude at most {} (the range of F16) is "
                        "wanted: the file is damaged or the model cannot be stored in 16 bits",
                        tensor, core::to_string(place), found, kMaxWeight)};
  }
  throw core::InternalError("bad_values: no bad value in " + std::string(tensor));
}

void require_tensors(const ModelConfig& config, const std::string& file, const std::vector<std::string_view>& stored,
                     const FindShape& find) {
  const std::size_t n_tensors = stored.size();
  // A layer has several tensors of its own: with one layer more than there are tensors some are missing, however many
  // more are claimed.
  ModelConfig bounded = config;
  if (std::cmp_greater(config.n_layers, n_tensors)) bounded.n_layers = static_cast<std::int64_t>(n_tensors) + 1;
  std::vector<std::string> missing;
  for (const TensorSpec& spec : expected_tensors(bounded)) {
    const auto shape = find(spec.name);
    if (!shape)
      missing.push_back(spec.name);
    else if (*shape != spec.shape)
      throw core::FormatError(file, fmt::format("tensor {}: has shape {}, the config asks for {}", spec.name,
                                                core::to_string(*shape), core::to_string(spec.shape)));
  }
  if (!missing.empty())
    throw core::FormatError(file, fmt::format("the config asks for {} layers and {} missing tensor{}: {}; there are {}",
                                              config.n_layers, missing.size(), missing.size() == 1 ? "" : "s",
                                              joined(missing, 8), stored.empty() ? "no tensors" : joined(stored, 3)));
}

void add_samples(core::Sha256& hash, std::string_view name, std::span<const std::byte> file,
                 std::span<const std::byte> header) {
  constexpr std::size_t kPage = 4096, kPages = 64;
  hash.update(fmt::format("{} {} {} {}\n", name.size(), name, file.size(), header.size()));
  hash.update(header);
  if (file.size() <= kPage * (kPages + 1)) {
    hash.update(file);
    return;
  }
  for (std::size_t i = 0; i < kPages; ++i) {
    const std::size_t offset = std::min(file.size() / kPages * i, file.size() - kPage);
    hash.update(file.subspan(offset, kPage));
  }
  hash.update(file.last(kPage));
}

}  // namespace voronoi::model
