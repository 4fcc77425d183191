// What is asked of an export, and what VPTQ's public checkpoint format can hold so that the public client computes it
// rightly.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/encoding.h"
#include "model/config.h"
#include "quant/parameters.h"

namespace voronoi::exporting {

/// Largest file of a checkpoint, one tensor excepted that is larger by itself.
inline constexpr std::int64_t kMaxFileBytes = 5'000'000'000;

/// safe: one codebook a layer, natural column order, no outliers: every known loader and port reads it. full: column
/// groups and outlier columns too, as far as the client's kernels compute them; needs a stored column order.
enum class Profile { safe, full };

std::optional<Profile> profile_from_name(std::string_view name);
std::string_view profile_name(Profile profile);

/// What is asked of an export. `layout` auto: that of the method, by the parameters' bits where several hold it.
struct Target {
  std::string layout = "auto";
  Profile profile = Profile::safe;
};

struct LayerShape {
  std::int64_t out_features = 0, in_features = 0;
};

/// Every reason why a run with these parameters could not be exported (empty: none), in the names of the command line.
/// The client has kernels for v in 4, 6, 8, 12, 16, index bits 8, 12..16 and residual bits 0, 2..12, 16.
std::vector<std::string> check_exportable(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                          Profile profile);

/// Every reason why the client could not load a model of this architecture with quantized linears in the layout of that
/// name (empty: none).
std::vector<std::string> check_exportable(const model::ModelConfig& config, std::string_view layout);

/// The same for a layer that is there.
std::vector<std::string> check_exportable(const format::Encoding& encoding, Profile profile);

/// The client's fused product (fewer than 3 tokens on a GPU) wants more input columns than this; other paths do not.
inline constexpr std::int64_t kFusedProductColumns = 256;

}  // namespace voronoi::exporting
