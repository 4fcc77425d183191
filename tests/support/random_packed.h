// A packed linear with random contents, host memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/packing.h"
#include "kernels/dequant.h"

namespace voronoi::test {

struct PackedShape {
  std::int64_t out_features = 0, in_features = 0, v = 0;
  int main_bits = 0, residual_bits = 0;
  std::int64_t groups = 1, outlier_size = 0, v0 = 0, k0 = 0;
  bool permuted = false;
  core::DType dtype = core::DType::f16;
};

struct RandomPacked {
  explicit RandomPacked(const PackedShape& s) {
    std::mt19937 engine(static_cast<std::uint32_t>(s.out_features * 31 + s.in_features));
    const auto values = [&](std::int64_t n, float mean, float deviation) {
      std::normal_distribution<float> normal(mean, deviation);
      std::vector<std::uint16_t> bits(static_cast<std::size_t>(n));
      for (std::uint16_t& value : bits) value = core::to_bits16(s.dtype, normal(engine));
      return bits;
    };
    view.out_features = s.out_features;
    view.in_features = s.in_features;
    view.v = s.v;
    view.main_bits = s.main_bits;
    view.residual_bits = s.residual_bits;
    view.groups = s.groups;
    view.group_size = (s.in_features - s.outlier_size) / s.groups;
    view.outlier_size = s.outlier_size;
    view.v0 = s.v0;
    view.k0 = s.k0;
    view.dtype = s.dtype;
    const int bits = s.main_bits + s.residual_bits;
    const std::int64_t rows = s.groups * core::ceil_div(s.out_features, s.v);
    const std::int64_t words = core::packed_words(view.group_size, bits);
    std::vector<std::uint32_t> codes(static_cast<std::size_t>(view.group_size));
    indices.resize(static_cast<std::size_t>(rows * words));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::uint32_t& code : codes) code = static_cast<std::uint32_t>(engine() & ((std::uint64_t{1} << bits) - 1));
      core::pack_row(
          codes, bits,
          std::span(indices).subspan(static_cast<std::size_t>(row * words), static_cast<std::size_t>(words)));
    }
    codebook = values(s.groups * s.v << s.main_bits, 0.1F, 1.0F);
    if (s.residual_bits > 0) residual_codebook = values(s.groups * s.v << s.residual_bits, 0.0F, 0.1F);
    outlier_codebook = values(s.k0 * s.v0, 0.0F, 2.0F);
    if (s.outlier_size > 0) {
      outlier_indices.resize(static_cast<std::size_t>(core::ceil_div(s.out_features, s.v0) * s.outlier_size));
      for (std::uint16_t& code : outlier_indices)
        code = static_cast<std::uint16_t>(engine() % static_cast<std::uint32_t>(s.k0));
    }
    scale = values(s.in_features, 1.0F, 0.3F);
    bias = values(s.in_features, 0.0F, 0.1F);
    if (s.permuted) {
      for (std::int64_t i = 0; i < s.in_features; ++i) perm.push_back(static_cast<std::uint16_t>(i));
      std::shuffle(perm.begin(), perm.end(), engine);
    }
    const auto pointer = [](const auto& array) { return array.empty() ? nullptr : array.data(); };
    view.indices = pointer(indices);
    view.codebook = pointer(codebook);
    view.residual_codebook = pointer(residual_codebook);
    view.outlier_codebook = pointer(outlier_codebook);
    view.outlier_indices = pointer(outlier_indices);
    view.scale = pointer(scale);
    view.bias = pointer(bias);
    view.perm = pointer(perm);
  }
  RandomPacked(const RandomPacked&) = delete;
  RandomPacked& operator=(const RandomPacked&) = delete;

  std::vector<std::uint32_t> indices;
  std::vector<std::uint16_t> codebook, residual_codebook, outlier_codebook, outlier_indices, scale, bias, perm;
  kernels::PackedLinear view;
};

}  // namespace voronoi::test
