// What every weight source shares: checked conversion to float, the check of names and shapes, sampled fingerprints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/hash.h"
#include "core/types.h"
#include "model/config.h"
#include "model/weights.h"

namespace voronoi::model {

/// Largest magnitude a weight may have: that of F16.
inline constexpr float kMaxWeight = core::kLargestF16;

/// out = elements of `bytes` (F32, F16, BF16 or F64) as floats. False when one is not finite or above kMaxWeight; such
/// an element of out is then not finite or above kMaxWeight as well.
bool convert_finite(core::DType dtype, const std::byte* bytes, std::span<float> out);

/// True when every value is finite and at most kMaxWeight in magnitude.
bool all_finite(std::span<const float> values);

/// Values rounded to F16 and back, ties to even; what F16 cannot hold, NaNs too, comes out above kMaxWeight.
void round_to_half(std::span<float> values);

/// The error that names file, tensor, position and value of the first bad value; call it when one is known to be there.
BadValues bad_values(std::string_view file, std::string_view tensor, const core::Shape& shape,
                     const std::function<double(std::int64_t)>& value);

/// What a file says of a tensor: nothing when it has none of that name.
using FindShape = std::function<std::optional<core::Shape>(const std::string& name)>;

/// Checks that all of expected_tensors() are there in the right shape, in time and memory bounded by the number of
/// names (of the tensors that exist, as they are stored) whatever the config claims. Throws FormatError naming `file`,
/// the tensors and what is there.
void require_tensors(const ModelConfig& config, const std::string& file, const std::vector<std::string_view>& stored,
                     const FindShape& find);

/// Adds a file's name, size, header and 65 pages of 4 KiB at fixed relative places to a fingerprint.
void add_samples(core::Sha256& hash, std::string_view name, std::span<const std::byte> file,
                 std::span<const std::byte> header);

}  // namespace voronoi::model
