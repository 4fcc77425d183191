// A packed linear in the memory of a device.
#pragma once

#include <cstdint>
#include <span>

#include "backend/tensor.h"
#include "kernels/dequant.h"

namespace voronoi::backend {

using kernels::PackedLinear;

/// Owns copies of a host linear's arrays; move-only; the context must outlive it.
class PackedWeight {
 public:
  PackedWeight() = default;
  /// host: arrays in host memory, sound (quant::find_problem of its encoding is empty).
  PackedWeight(Context& context, const PackedLinear& host);

  bool empty() const { return words_.empty(); }
  /// Valid while this lives and is not moved from.
  const PackedLinear& view() const { return view_; }
  std::int64_t size_bytes() const;

 private:
  PackedLinear view_;
  Array<std::uint32_t> words_;
  Array<std::uint16_t> codebook_, residual_codebook_, outlier_codebook_, outlier_indices_, scale_, bias_, perm_;
};

}  // namespace voronoi::backend
