// Quantized linears with random codes, of any format: what packed products and decoding are tested and measured on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/packing.h"
#include "format/aqlm.h"
#include "format/e8p.h"
#include "format/gptvq.h"
#include "format/signed_levels.h"
#include "format/trellis.h"
#include "format/uniform.h"
#include "format/vptq.h"

namespace voronoi::test {

struct PackedShape {
  std::int64_t out_features = 0, in_features = 0, v = 0;
  int main_bits = 0, residual_bits = 0;
  std::int64_t groups = 1, outlier_size = 0, v0 = 0, k0 = 0;
  bool permuted = false;
  core::DType dtype = core::DType::f16;
};

struct UniformShape {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 0;
  std::int64_t group_size = 0;
  bool permuted = false;
  core::DType dtype = core::DType::f16;
  bool scaled = false;  ///< columns have scales
};

struct SignedShape {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 0;
  format::LevelTable table = format::LevelTable::normal;
  std::int64_t group_size = 0;
  bool permuted = false;
  core::DType dtype = core::DType::f16;
  bool scaled = false;
};

struct GptvqShape {
  std::int64_t out_features = 0, in_features = 0, d = 1;
  int index_bits = 0;
  std::int64_t group_rows = 1, group_columns = 0, codebook_bits = 8, scale_block = 0;
  bool permuted = false;
  core::DType dtype = core::DType::f16;
  std::int64_t rank = 0;  ///< of a basis
};

struct AqlmShape {
  std::int64_t out_features = 0, in_features = 0, codebooks = 2, code_bits = 8, in_group = 8;
  core::DType dtype = core::DType::f16;
};

struct E8pShape {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 2;
  bool turned = true;
  core::DType dtype = core::DType::f16;
  bool factors = false;
};

struct TrellisShape {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 2, state_bits = 16, code = 0;
  bool turned = true;
  core::DType dtype = core::DType::f16;
  bool factors = false;
};

class RandomFields {
 public:
  RandomFields(std::int64_t out_features, std::int64_t in_features, core::DType dtype)
      : engine_(static_cast<std::uint32_t>(out_features * 31 + in_features)), dtype_(dtype) {}

  /// Bits of normal numbers.
  std::vector<std::uint16_t> values(std::int64_t n, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(n));
    for (std::uint16_t& value : bits) value = core::to_bits16(dtype_, normal(engine_));
    return bits;
  }
  /// Rows of n codes, each packed on its own.
  std::vector<std::uint32_t> codes(std::int64_t rows, std::int64_t n, int bits) {
    const std::int64_t words = core::packed_words(n, bits);
    std::vector<std::uint32_t> row_codes(static_cast<std::size_t>(n)), packed(static_cast<std::size_t>(rows * words));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::uint32_t& code : row_codes)
        code = static_cast<std::uint32_t>(engine_() & ((std::uint64_t{1} << bits) - 1));
      core::pack_row(row_codes, bits,
                     std::span(packed).subspan(static_cast<std::size_t>(row * words), static_cast<std::size_t>(words)));
    }
    return packed;
  }
  std::vector<std::uint16_t> below(std::int64_t n, std::int64_t limit) {
    std::vector<std::uint16_t> numbers(static_cast<std::size_t>(n));
    for (std::uint16_t& number : numbers)
      number = static_cast<std::uint16_t>(engine_() % static_cast<std::uint32_t>(limit));
    return numbers;
  }
  /// Bits of positive numbers around 1.
  std::vector<std::uint16_t> factors(std::int64_t n) {
    std::uniform_real_distribution<float> size(0.5F, 2.0F);
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(n));
    for (std::uint16_t& value : bits) value = core::to_bits16(dtype_, size(engine_));
    return bits;
  }
  std::vector<std::uint16_t> permutation(std::int64_t n) {
    std::vector<std::uint16_t> perm;
    for (std::int64_t i = 0; i < n; ++i) perm.push_back(static_cast<std::uint16_t>(i));
    std::shuffle(perm.begin(), perm.end(), engine_);
    return perm;
  }

 private:
  std::mt19937 engine_;
  core::DType dtype_;
};

inline format::Encoding random_packed(const PackedShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  format::VqEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.vector_length = s.v;
  e.centroids = std::int64_t{1} << s.main_bits;
  e.residual_centroids = s.residual_bits > 0 ? std::int64_t{1} << s.residual_bits : 0;
  e.groups = s.groups;
  e.outlier_size = s.outlier_size;
  e.outlier_vector_length = s.v0;
  e.outlier_centroids = s.k0;
  e.dtype = s.dtype;
  e.indices = random.codes(s.groups * e.vector_rows(), e.group_size(), s.main_bits + s.residual_bits);
  e.codebook = random.values(s.groups * e.centroids * s.v, 0.1F, 1.0F);
  e.residual_codebook = random.values(s.groups * e.residual_centroids * s.v, 0.0F, 0.1F);
  if (s.outlier_size > 0) {
    e.outlier_codebook = random.values(s.k0 * s.v0, 0.0F, 2.0F);
    e.outlier_indices = random.below(e.outlier_vector_rows() * s.outlier_size, s.k0);
  }
  e.scale = random.values(s.in_features, 1.0F, 0.3F);
  e.bias = random.values(s.in_features, 0.0F, 0.1F);
  if (s.permuted) e.perm = random.permutation(s.in_features);
  return format::to_encoding(e);
}

inline format::Encoding random_packed(const UniformShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  const std::int64_t n_groups = core::ceil_div(s.in_features, s.group_size);
  format::UniformEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.bits = s.bits;
  e.group_size = s.group_size;
  e.dtype = s.dtype;
  e.codes = random.codes(s.out_features, s.in_features, s.bits);
  e.zeros = random.codes(s.out_features, n_groups, s.bits);
  e.scale = random.values(s.out_features * n_groups, 0.1F, 0.03F);
  if (s.permuted) e.perm = random.permutation(s.in_features);
  if (s.scaled) e.column_scale = random.factors(s.in_features);
  return format::to_encoding(e);
}

inline format::Encoding random_packed(const SignedShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  format::SignedLevelsEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.bits = s.bits;
  e.group_size = s.group_size;
  e.table = static_cast<std::int64_t>(s.table);
  e.dtype = s.dtype;
  e.codes = random.codes(s.out_features, s.in_features, s.bits);
  e.scale = random.values(2 * s.out_features * core::ceil_div(s.in_features, s.group_size), 0.1F, 0.02F);
  if (s.permuted) e.perm = random.permutation(s.in_features);
  if (s.scaled) e.column_scale = random.factors(s.in_features);
  return format::to_encoding(e);
}

inline format::Encoding random_packed(const GptvqShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  format::GptvqEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.vector_columns = s.d;
  e.centroids = std::int64_t{1} << s.index_bits;
  e.group_rows = s.group_rows;
  e.group_columns = s.group_columns;
  e.codebook_bits = s.codebook_bits;
  e.scale_block = s.scale_block;
  e.dtype = s.dtype;
  const std::int64_t books = e.row_groups() * e.strips();
  e.indices = random.codes(s.out_features, e.vectors(), s.index_bits);
  if (s.codebook_bits == 16)
    e.codebook = random.values(books * e.stored_size(s.rank), 0.1F, 1.0F);
  else {
    for (const std::uint16_t value : random.below(books * e.stored_size(s.rank), 256))
      e.codebook8.push_back(static_cast<std::uint8_t>(value));
    e.codebook_scale = random.values(books, 1.0F, 0.2F);
  }
  e.codebook_basis = random.values(s.rank * e.centroids, 0.0F, 0.5F);
  if (s.scale_block > 0) {
    e.block_codes = random.codes(s.out_features, e.blocks(), 4);
    for (std::int64_t block = 0; block < e.blocks(); ++block) {
      e.block_grid.push_back(core::to_bits16(s.dtype, 0.25F + 0.01F * static_cast<float>(block)));
      e.block_grid.push_back(core::to_bits16(s.dtype, 1.1F));
    }
  }
  if (s.permuted) e.perm = random.permutation(s.in_features);
  return format::to_encoding(e);
}

/// Factors of both sides, F16 whatever the weights are.
void add_factors(auto& e) {
  RandomFields random(e.out_features, e.in_features, core::DType::f16);
  e.in_factor = random.values(e.in_features, 1, 0.2F);
  e.out_factor = random.values(e.out_features, 1, 0.2F);
}

inline format::Encoding random_packed(const E8pShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  format::E8pEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.bits = s.bits;
  e.dtype = s.dtype;
  const format::E8pElements due = elements_due(e);
  e.codes = random.below(due.codes, 65536);
  for (const std::uint16_t code : random.below(due.e8_residual, 256))
    e.e8_residual.push_back(static_cast<std::uint8_t>(code));
  e.e8p_residual = random.below(due.e8p_residual, 65536);
  if (s.turned) {
    e.in_signs = random.codes(1, s.in_features, 1);
    e.out_signs = random.codes(1, s.out_features, 1);
  }
  e.scale = {0.03F};
  if (s.factors) add_factors(e);
  return format::to_encoding(e);
}

inline format::Encoding random_packed(const TrellisShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  format::TrellisEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.bits = s.bits;
  e.state_bits = s.state_bits;
  e.code = s.code;
  e.dtype = s.dtype;
  e.codes = random.below(elements_due(e).codes, 65536);
  if (s.turned) {
    e.in_signs = random.codes(1, s.in_features, 1);
    e.out_signs = random.codes(1, s.out_features, 1);
  }
  e.scale = {0.03F};
  if (s.factors) add_factors(e);
  return format::to_encoding(e);
}

inline format::Encoding random_packed(const AqlmShape& s) {
  RandomFields random(s.out_features, s.in_features, s.dtype);
  format::AqlmEncoding e;
  e.out_features = s.out_features;
  e.in_features = s.in_features;
  e.codebooks = s.codebooks;
  e.code_bits = s.code_bits;
  e.in_group = s.in_group;
  e.dtype = s.dtype;
  for (const std::uint16_t code : random.below(s.out_features * e.groups() * s.codebooks, e.centroids())) {
    const std::uint16_t stored = format::stored_code(s.code_bits, code);
    if (s.code_bits <= 8)
      e.codes8.push_back(static_cast<std::uint8_t>(stored));
    else
      e.codes16.push_back(stored);
  }
  e.codebook = random.values(s.codebooks * e.centroids() * s.in_group, 0.1F, 1.0F);
  e.scale = random.values(s.out_features, 1.0F, 0.3F);
  return format::to_encoding(e);
}

/// For tests with such a parameter.
struct PackedCase {
  std::string text;
  format::Encoding encoding;
};
inline void PrintTo(const PackedCase& tested, std::ostream* out) { *out << tested.text; }

inline std::string shape_ending(bool permuted, core::DType dtype, bool scaled = false) {
  return std::string(permuted ? ", perm" : "") + (scaled ? ", scaled" : "") +
         (dtype == core::DType::bf16 ? ", bf16" : ", f16");
}

inline PackedCase case_of(const PackedShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) + ", v " + std::to_string(s.v) +
              ", bits " + std::to_string(s.main_bits) + " + " + std::to_string(s.residual_bits) + ", groups " +
              std::to_string(s.groups) + ", outliers " + std::to_string(s.outlier_size) +
              shape_ending(s.permuted, s.dtype),
          random_packed(s)};
}

inline PackedCase case_of(const GptvqShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) + ", gptvq, d " + std::to_string(s.d) +
              ", bits " + std::to_string(s.index_bits) + ", groups of " + std::to_string(s.group_rows) + " x " +
              std::to_string(s.group_columns) + ", books of " + std::to_string(s.codebook_bits) + ", blocks of " +
              std::to_string(s.scale_block) + shape_ending(s.permuted, s.dtype),
          random_packed(s)};
}

inline PackedCase case_of(const AqlmShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) + ", aqlm, " +
              std::to_string(s.codebooks) + " x " + std::to_string(s.code_bits) + ", groups of " +
              std::to_string(s.in_group) + shape_ending(false, s.dtype),
          random_packed(s)};
}

inline PackedCase case_of(const UniformShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) + ", uniform, bits " +
              std::to_string(s.bits) + ", groups of " + std::to_string(s.group_size) +
              shape_ending(s.permuted, s.dtype, s.scaled),
          random_packed(s)};
}

inline PackedCase case_of(const SignedShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) +
              (s.table == format::LevelTable::normal ? ", NF" : ", FP") + std::to_string(s.bits) + ", groups of " +
              std::to_string(s.group_size) + shape_ending(s.permuted, s.dtype, s.scaled),
          random_packed(s)};
}

inline PackedCase case_of(const E8pShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) + ", lattice, bits " +
              std::to_string(s.bits) + (s.turned ? "" : ", not turned") + (s.factors ? ", factors" : "") +
              shape_ending(false, s.dtype),
          random_packed(s)};
}

inline PackedCase case_of(const TrellisShape& s) {
  return {std::to_string(s.out_features) + " x " + std::to_string(s.in_features) + ", trellis, bits " +
              std::to_string(s.bits) + " of " + std::to_string(s.state_bits) + ", code " + std::to_string(s.code) +
              (s.turned ? "" : ", not turned") + (s.factors ? ", factors" : "") + shape_ending(false, s.dtype),
          random_packed(s)};
}

}  // namespace voronoi::test
