#include "quant/gptvq/codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/index.h"
#include "core/types.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr float kByteSteps = 127.0F;

/// The bits of the least number of a 16-bit type that is no less than value, where the nearest is less.
std::uint16_t bits_above(core::DType dtype, float value) {
  const std::uint16_t bits = core::to_bits16(dtype, value);
  return core::from_bits16(dtype, bits) < value ? static_cast<std::uint16_t>(bits + 1) : bits;
}

}  // namespace

GptvqCodes::GptvqCodes(const format::GptvqExtents& of_operator, const GptvqGroups& of_member)
    : extents(of_operator),
      groups(of_member),
      indices(index(groups.rows * extents.vectors())),
      book_values(index(groups.count * extents.strips() * extents.book_size())) {
  if (extents.codebook_bits == 16)
    codebook.resize(book_values.size());
  else {
    codebook8.resize(book_values.size());
    book_scales.resize(index(groups.count * extents.strips()));
  }
  if (extents.scale_block > 0) {
    block_codes.resize(index(groups.rows * extents.blocks()));
    block_scales.resize(block_codes.size());
  }
}

void GptvqCodes::store(std::int64_t book, std::span<const float> fitted) {
  const std::size_t first = index(book * extents.stored_size(rank()));
  // No weight is larger; what the errors of others have grown beyond it is cut off.
  const auto bounded = [](float value) { return std::clamp(value, -core::kLargestF16, core::kLargestF16); };
  if (extents.codebook_bits == 16)
    for (std::size_t i = 0; i < fitted.size(); ++i)
      codebook[first + i] = core::to_bits16(extents.dtype, bounded(fitted[i]));
  else {
    float largest = 0;
    for (const float value : fitted) largest = std::max(largest, std::fabs(bounded(value)));
    const std::uint16_t scale = bits_above(extents.dtype, largest);
    book_scales[index(book)] = scale;
    const float step = core::from_bits16(extents.dtype, scale) * kernels::kByteStep;
    for (std::size_t i = 0; i < fitted.size(); ++i) {
      float steps = step > 0 ? std::rint(bounded(fitted[i]) / step) : 0.0F;
      if (!(std::fabs(steps) <= kByteSteps)) steps = std::copysign(kByteSteps, steps);
      if (std::fabs(step * steps) > core::kLargestF16) steps -= std::copysign(1.0F, steps);
      codebook8[first + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(steps));
    }
  }
  const std::vector<float> stored = stored_values(book);
  const auto values = std::span(book_values).subspan(index(book * extents.book_size()), index(extents.book_size()));
  if (basis.empty())
    std::copy(stored.begin(), stored.end(), values.begin());
  else
    format::expand_book(extents.dtype, stored, basis_values, values);
}

std::vector<float> GptvqCodes::stored_values(std::int64_t book) const {
  std::vector<float> stored(index(extents.stored_size(rank())));
  const std::size_t first = index(book) * stored.size();
  if (extents.codebook_bits == 16) {
    for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = core::from_bits16(extents.dtype, codebook[first + i]);
    return stored;
  }
  const float step = core::from_bits16(extents.dtype, book_scales[index(book)]) * kernels::kByteStep;
  for (std::size_t i = 0; i < stored.size(); ++i)
    stored[i] = step * static_cast<float>(static_cast<std::int8_t>(codebook8[first + i]));
  return stored;
}

void GptvqCodes::compress(std::span<const float> new_basis, std::int64_t codebook_bits) {
  basis.clear();
  basis_values.clear();
  for (const float value : new_basis) {
    basis.push_back(core::to_bits16(extents.dtype, value));
    basis_values.push_back(core::from_bits16(extents.dtype, basis.back()));
  }
  extents.codebook_bits = codebook_bits;
  const std::size_t books = index(groups.count * extents.strips()), values = books * index(rank());
  codebook.assign(codebook_bits == 16 ? values : 0, 0);
  codebook8.assign(codebook_bits == 16 ? 0 : values, 0);
  book_scales.assign(codebook_bits == 16 ? 0 : books, 0);
}

GptvqCodes::Books GptvqCodes::keep(std::int64_t first, std::int64_t end) const {
  const auto part = [&](const auto& all, std::int64_t size) {
    if (all.empty()) return all;
    return std::remove_cvref_t<decltype(all)>(all.begin() + first * size, all.begin() + end * size);
  };
  const std::int64_t stored = extents.stored_size(rank());
  return {part(book_values, extents.book_size()), part(codebook, stored), part(book_scales, 1),
          part(codebook8, stored)};
}

void GptvqCodes::restore(std::int64_t first, const Books& kept) {
  const auto put = [&](const auto& part, std::int64_t size, auto& all) {
    if (!part.empty()) std::copy(part.begin(), part.end(), all.begin() + first * size);
  };
  const std::int64_t stored = extents.stored_size(rank());
  put(kept.values, extents.book_size(), book_values);
  put(kept.codebook, stored, codebook);
  put(kept.scales, 1, book_scales);
  put(kept.codebook8, stored, codebook8);
}

std::vector<std::uint16_t> block_grid_of(const format::GptvqExtents& extents, std::span<const float> weight,
                                         std::span<const std::int32_t> perm) {
  std::vector<std::uint16_t> grid;
  const std::int64_t n = extents.in_features;
  for (std::int64_t block = 0; block < extents.blocks(); ++block) {
    const std::int64_t begin = block * extents.scale_block, end = std::min(n, begin + extents.scale_block);
    float low = std::numeric_limits<float>::infinity(), high = 0;
    for (std::int64_t row = 0; row < extents.out_features; ++row) {
      float largest = 0;
      for (std::int64_t c = begin; c < end; ++c)
        largest = std::max(largest, std::fabs(weight[index(row * n + perm[index(c)])]));
      if (largest > 0) low = std::min(low, largest);
      high = std::max(high, largest);
    }
    if (!(high > 0)) low = high = 1;
    // What the type cannot hold is nothing that its codebook could hold either.
    std::uint16_t base = std::max<std::uint16_t>(1, core::to_bits16(extents.dtype, low));
    if (core::from_bits16(extents.dtype, base) > core::kLargestF16) --base;
    const float span = high / std::min(high, core::from_bits16(extents.dtype, base));
    std::uint16_t ratio =
        core::to_bits16(extents.dtype, std::pow(span, 1.0F / static_cast<float>(format::kMostBlockCode)));
    const auto top = [&] {
      return kernels::block_scale(core::from_bits16(extents.dtype, base), core::from_bits16(extents.dtype, ratio),
                                  format::kMostBlockCode);
    };
    while (!(top() <= core::kLargestF16)) --ratio;  // a rounding beyond what may be stored
    grid.push_back(base);
    grid.push_back(ratio);
  }
  return grid;
}

std::uint16_t block_code(float base, float ratio, float largest) {
  if (!(largest > base) || !(ratio > 1)) return 0;
  const float steps = std::rint(std::log(largest / base) / std::log(ratio));
  return static_cast<std::uint16_t>(std::clamp(steps, 0.0F, static_cast<float>(format::kMostBlockCode)));
}

}  // namespace voronoi::quant
