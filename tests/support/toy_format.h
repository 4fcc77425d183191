// A format of the tests alone: signs and one scale a row. Nothing in the program knows it, and all of it can be used.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "core/packing.h"
#include "format/format.h"

namespace voronoi::test {

/// What was asked of its matrices.
struct ToyCounts {
  int products = 0, decodings = 0;
};

class ToyFormat final : public format::Format {
 public:
  static const ToyFormat& instance() {
    static const ToyFormat format;
    return format;
  }
  static ToyCounts& counts() {
    static ToyCounts counts;
    return counts;
  }
  static constexpr std::int64_t kTokens = 4;

  /// Signs of a matrix [out, in], scaled by the mean magnitude of a row.
  static format::Encoding encode(std::int64_t out_features, std::int64_t in_features, std::span<const float> weight) {
    const std::int64_t words = core::packed_words(in_features, 1);
    std::vector<std::uint32_t> signs(static_cast<std::size_t>(out_features * words)),
        row(static_cast<std::size_t>(in_features));
    std::vector<float> scales;
    for (std::int64_t r = 0; r < out_features; ++r) {
      float sum = 0;
      for (std::int64_t c = 0; c < in_features; ++c) {
        const float value = weight[static_cast<std::size_t>(r * in_features + c)];
        row[static_cast<std::size_t>(c)] = value < 0 ? 1 : 0;
        sum += value < 0 ? -value : value;
      }
      scales.push_back(sum / static_cast<float>(in_features));
      core::pack_row(row, 1,
                     std::span(signs).subspan(static_cast<std::size_t>(r * words), static_cast<std::size_t>(words)));
    }
    const auto bytes = [](const auto& values) {
      const auto raw = std::as_bytes(std::span(values));
      return std::vector<std::byte>(raw.begin(), raw.end());
    };
    format::Encoding encoding{&instance(), out_features, in_features, core::DType::f16, {{"words", words}}, {}};
    encoding.arrays.push_back({"signs", core::DType::u32, {out_features, words}, bytes(signs)});
    encoding.arrays.push_back({"scales", core::DType::f32, {out_features}, bytes(scales)});
    return encoding;
  }

  std::string_view name() const override { return "toy"; }
  format::FieldNames fields() const override { return {{"words"}, {"signs", "scales"}}; }
  std::string find_problem(const format::Encoding& e) const override {
    if (e.attributes.at("words") != core::packed_words(e.in_features, 1)) return "words is wrong";
    return e.arrays.size() == 2 ? "" : "two arrays are wanted";
  }
  double nominal_bits(const format::Encoding&) const override { return 1; }
  double decoded_bound(const format::Encoding&) const override { return 1; }
  void decode(const format::Encoding& e, std::span<float> weight) const override {
    std::vector<std::uint32_t> signs(e.arrays[0].bytes.size() / sizeof(std::uint32_t)),
        row(static_cast<std::size_t>(e.in_features));
    std::vector<float> scales(static_cast<std::size_t>(e.out_features));
    std::memcpy(signs.data(), e.arrays[0].bytes.data(), e.arrays[0].bytes.size());
    std::memcpy(scales.data(), e.arrays[1].bytes.data(), e.arrays[1].bytes.size());
    const auto words = static_cast<std::size_t>(e.attributes.at("words"));
    for (std::size_t r = 0; r < scales.size(); ++r) {
      core::unpack_row(std::span(signs).subspan(r * words, words), 1, row);
      for (std::size_t c = 0; c < row.size(); ++c) weight[r * row.size() + c] = row[c] == 0 ? scales[r] : -scales[r];
    }
  }
  std::unique_ptr<format::PackedMatrix> upload(backend::Context&, const format::Encoding& e) const override {
    return std::make_unique<Matrix>(e);
  }
  std::unique_ptr<format::TunedMatrix> tuned(backend::Context&, const format::Encoding&) const override {
    return nullptr;
  }

 private:
  /// On the host alone.
  class Matrix final : public format::PackedMatrix {
   public:
    explicit Matrix(const format::Encoding& e) : PackedMatrix(e), encoding_(e) {}
    std::int64_t size_bytes() const override { return format::stored_bits(encoding_) / 8; }
    std::int64_t max_tokens() const override { return kTokens; }
    void multiply(backend::Context&, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) const override {
      ++counts().products;
      const std::vector<float> weight = decoded();
      for (std::int64_t t = 0; t < n_tokens; ++t)
        for (std::int64_t r = 0; r < out_features(); ++r) {
          float sum = accumulate ? out[t * out_features() + r] : 0;
          for (std::int64_t c = 0; c < in_features(); ++c)
            sum += weight[static_cast<std::size_t>(r * in_features() + c)] * x[t * in_features() + c];
          out[t * out_features() + r] = sum;
        }
    }
    void decode_f32(backend::Context&, float* weight) const override {
      ++counts().decodings;
      const std::vector<float> values = decoded();
      std::copy(values.begin(), values.end(), weight);
    }
    void decode_16(backend::Context&, std::uint16_t* weight) const override {
      ++counts().decodings;
      for (const float value : decoded()) *weight++ = core::to_bits16(dtype(), value);
    }

   private:
    std::vector<float> decoded() const {
      std::vector<float> weight(static_cast<std::size_t>(out_features() * in_features()));
      format::decode(encoding_, weight);
      return weight;
    }
    format::Encoding encoding_;
  };
};

}  // namespace voronoi::test
