// The architectures of GGUF files as data: which of the families of config.json each is, and what of its metadata,
// tensors and their layout differs from the others. Names and conventions are those of llama.cpp (its
// general.architecture, gguf-py's tables of keys and tensors, its converter of Hugging Face models). Private to
// model/gguf*.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "model/config.h"
#include "model/gguf.h"

namespace voronoi::model {

/// A key behind "ARCH." and the one of config.json that takes its value. decimal: an F32 as the decimal number that it
/// stands for. known: no value is taken, or elsewhere.
struct GgufKey {
  enum class Kind : std::uint8_t { integer, decimal, boolean, known };
  std::string_view gguf, ours;
  Kind kind = Kind::integer;
  bool required = false;
};

struct GgufFamily {
  std::string_view arch, model_type;
  bool mixture = false;            ///< "expert_count" is above 0
  std::string_view stated = "{}";  ///< of config.json, what the architecture itself says; keys below go over it
  std::span<const GgufKey> keys = {};
  /// Rows of q and k lie as ggml's rope of neighbouring pairs wants them, where config.json's class turns halves.
  bool paired_rows = false;
  bool norms_plus_one = false;        ///< norms are stored as 1 + w, the weights of config.json's class being w
  std::string_view norm_eps = "rms";  ///< "rms": attention.layer_norm_rms_epsilon; "layer": ...layer_norm_epsilon
  bool bias_key = true;               ///< config.json says whether there are biases of attention
  bool partial_rotary = false;        ///< rope.dimension_count may be less than a head
  bool latent = false;                ///< sizes of latent attention instead of heads
  /// Layers but each `window_period`-th see a window, unless attention.sliding_window_pattern says otherwise; 0: what
  /// config.json's class does.
  std::int64_t window_period = 0;
  bool window_needed = false;   ///< attention.sliding_window must be there
  std::int64_t wide_layers = 0; /**< with so many layers q.k is divided by sqrt(hidden / heads), else by sqrt(head_dim);
                                   0: not Gemma's */
  bool dense_by_tensors = false;                    ///< layers without a router are dense
  std::string_view feed_forward_norm = "ffn_norm";  ///< before the feed-forward part
};

/// That of a file; throws FormatError naming an architecture that is not read, with those that are.
const GgufFamily& gguf_family(const GgufFile& file);

/// Keys that no architecture needs a row for.
std::span<const GgufKey> common_gguf_keys();

/// The metadata in the terms of config.json; `config`: the same, parsed and checked. Throws FormatError.
core::Json gguf_config(const GgufFile& file, const GgufFamily& family, ModelConfig& config);

/// Where the file has one of expected_tensors(): a tensor, or one expert of it.
struct GgufPlace {
  std::string stored;        ///< empty: GGUF has none such
  std::int64_t expert = -1;  ///< of [experts, ...]
};
GgufPlace gguf_place(const ModelConfig& config, const GgufFamily& family, std::string_view name);

/// The two tensors that newer files of latent attention have in the place of the one that makes keys and values: of
/// "...kv_b_proj.weight" k [heads, kv_rank, nope] and v [heads, value, kv_rank]. Empty for all other names.
std::vector<std::string> gguf_split_names(std::string_view name);

/// The number that an F32 was written for: 1e-5, not 9.99999974e-06.
double as_decimal(double value);

}  // namespace voronoi::model
