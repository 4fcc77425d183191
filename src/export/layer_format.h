// One quantized linear in VPTQ's public format: its tensors and its entry in config.json, both ways.
//
// Tensors (after the module path): .indices I32 [G, R, P]; .centroids.weight [G, k*v]; .res_centroids.weight [G, kr*v];
// .weight_scale, .weight_bias [in], natural column order; .perm I16 [in] (bits of uint16); .outlier_centroids.weight
// [1, k0*v0]; .outlier_indices I16 [1, ceil(out/v0), outlier_size]. R = ceil(out/v), P = ceil(group_size*T/32); value j
// of a row is main | residual << b, T = b + c bits each, least significant bit first. Read from the layer class of the
// `vptq` package 0.0.5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/types.h"
#include "export/layer_tensor.h"
#include "format/vptq.h"
#include "model/config.h"
#include "model/safetensors_folder.h"

namespace voronoi::exporting {

std::vector<LayerTensor> layer_tensors(const std::string& linear, const format::VqView& encoding);

/// Exactly the keys that `vptq`'s own loader takes.
core::Json layer_entry(const format::VqView& encoding, bool has_bias);

/// What config.json says of a layer.
struct LayerSettings {
  /// Extents only: arrays are empty, dtype is that of the centroids once the tensors were checked.
  format::VqEncoding extents;
  bool norm = true, perm = false, packed = true;
};

/// Checks types, ranges and agreement with `linear`. `where`: the key path in messages. Throws FormatError.
LayerSettings parse_layer_entry(const core::Json& entry, const model::LinearSpec& linear, const std::string& file,
                                const std::string& where);

/// Checks presence, type and shape of every tensor of the layer and sets settings.extents.dtype; reads no data. Returns
/// the bits stored for the layer. Throws FormatError naming file and tensor.
std::int64_t check_layer_tensors(const model::SafetensorsFolder& folder, const std::string& linear,
                                 LayerSettings& settings);

/// Every tensor that read_layer() reads.
std::vector<std::string> layer_tensor_names(const std::string& linear, const LayerSettings& settings);

/// The layer whole, packed, every index and number checked; settings as check_layer_tensors() left them. A layer
/// without stored scales gets scales 1 and biases 0. Throws FormatError naming file and tensor.
format::VqEncoding read_layer(const model::SafetensorsFolder& folder, const std::string& linear,
                              const LayerSettings& settings);

}  // namespace voronoi::exporting
