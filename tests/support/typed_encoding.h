// Encodings as their formats' typed fields, and decoded.
#pragma once

#include <vector>

#include "format/aqlm.h"
#include "format/gptvq.h"
#include "format/signed_levels.h"
#include "format/uniform.h"
#include "format/vptq.h"

namespace voronoi::test {

inline format::VqEncoding vq_of(const format::Encoding& encoding) {
  const format::VqView view = format::vq_view(encoding);
  const auto owned = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  return {view,
          owned(view.indices),
          owned(view.codebook),
          owned(view.residual_codebook),
          owned(view.outlier_codebook),
          owned(view.outlier_indices),
          owned(view.scale),
          owned(view.bias),
          owned(view.perm)};
}

inline format::UniformEncoding uniform_of(const format::Encoding& encoding) {
  const format::UniformView view = format::uniform_view(encoding);
  const auto owned = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  return {view, owned(view.codes), owned(view.scale), owned(view.zeros), owned(view.perm), owned(view.column_scale)};
}

inline format::SignedLevelsEncoding signed_levels_of(const format::Encoding& encoding) {
  const format::SignedLevelsView view = format::signed_levels_view(encoding);
  const auto owned = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  return {view, owned(view.codes), owned(view.scale), owned(view.perm), owned(view.column_scale)};
}

inline format::GptvqEncoding gptvq_of(const format::Encoding& encoding) {
  const format::GptvqView view = format::gptvq_view(encoding);
  const auto owned = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  return {view,
          owned(view.indices),
          owned(view.codebook),
          owned(view.codebook8),
          owned(view.codebook_scale),
          owned(view.codebook_basis),
          owned(view.block_codes),
          owned(view.block_grid),
          owned(view.perm)};
}

inline format::AqlmEncoding aqlm_of(const format::Encoding& encoding) {
  const format::AqlmView view = format::aqlm_view(encoding);
  const auto owned = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  return {view, owned(view.codes8), owned(view.codes16), owned(view.codebook), owned(view.scale)};
}

inline std::vector<float> decoded(const format::Encoding& encoding) {
  std::vector<float> weight(static_cast<std::size_t>(encoding.out_features * encoding.in_features));
  format::decode(encoding, weight);
  return weight;
}

}  // namespace voronoi::test
