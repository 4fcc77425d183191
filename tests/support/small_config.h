// config.json of a model whose shapes are odd on purpose: two blocks, with biases, a tied head.
#pragma once

#include <string>

#include "core/json.h"

namespace voronoi::test {

inline core::Json small_config(const std::string& dtype = "float16") {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 24},
          {"intermediate_size", 44},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"vocab_size", 11},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"max_position_embeddings", 64},
          {"attention_bias", true},
          {"tie_word_embeddings", true},
          {"torch_dtype", dtype}};
}

}  // namespace voronoi::test
