// The small models of random weights with outputs of the real implementations, and those of further architectures.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/data.h"

namespace voronoi::test {

/// Where a model's files lie; below `kind`, "models" or "gradients".
inline std::string tiny_folder(const std::string& model, const std::string& kind = "models") {
  const std::string folder = kind + "/tiny-random/";
  return has_data("models/tiny-random/" + model) ? folder + model : kind + "/tiny-random-more/" + model;
}

/// Further architectures.
inline const std::vector<const char*>& more_models() {
  static const std::vector<const char*> names{"granite",           "olmo2",
                                              "llama-dynamic",     "phi3-longrope",
                                              "phi4-mini",         "glm4",
                                              "cohere2",           "gemma3",
                                              "gemma3-vision",     "qwen3-vl",
                                              "glm4-moe",          "gpt-oss",
                                              "llama4-scout",      "llama4-maverick",
                                              "deepseek-v3",       "deepseek-v3-noqlora",
                                              "llama-fp8-block",   "llama-fp8-block128",
                                              "llama-fp8-channel", "deepseek-v3-fp8",
                                              "gpt-oss-mxfp4",     "qwen3-next"};
  return names;
}

inline std::string tiny_test_name(const ::testing::TestParamInfo<const char*>& parameter) {
  std::string name = parameter.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace voronoi::test
