// Centroids as the loops of kernels/cpu/vq_simd.h read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/types.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vq_simd.h"

namespace voronoi::kernels::vq {

class PackedPanels {
 public:
  /// centroids [k, dim]. Half norms over the first `valid` dimensions only: with the point's other components at zero,
  /// the score is that of a shorter vector.
  PackedPanels(std::int64_t dim, std::int64_t valid, std::int64_t k, const float* centroids)
      : storage_(core::ceil_div(k, kPanel) * (dim + 1) * kPanel) {
    view_.dim = dim;
    view_.k = k;
    view_.count = core::ceil_div(k, kPanel);
    view_.data = storage_.data();
    for (std::int64_t i = 0; i < view_.count; ++i) {
      float* panel = storage_.data() + i * (dim + 1) * kPanel;
      const std::int64_t used = std::min(kPanel, k - i * kPanel);
      double half[kPanel] = {};
      for (std::int64_t d = 0; d < dim; ++d)
        for (std::int64_t j = 0; j < kPanel; ++j) {
          const float c = j < used ? centroids[(i * kPanel + j) * dim + d] : 0.0F;
          panel[d * kPanel + j] = c;
          if (d < valid) half[j] += 0.5 * static_cast<double>(c) * static_cast<double>(c);
        }
      for (std::int64_t j = 0; j < kPanel; ++j)
        panel[dim * kPanel + j] = j < used ? static_cast<float>(half[j]) : std::numeric_limits<float>::infinity();
    }
  }
  const Panels& view() const { return view_; }

 private:
  Panels view_;
  Scratch<float> storage_;
};

}  // namespace voronoi::kernels::vq
