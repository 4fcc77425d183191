// What a storage format is: everything that the rest of the program may ask of a quantized linear.
//
// A format is one unit (format/<name>.h, .cpp), its kernels (kernels/<name>.h with a twin a device) and a line in
// known_formats(). Its typed fields are for those who fill them, the methods, and for exporters of public layouts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/device.h"
#include "core/types.h"
#include "format/encoding.h"
#include "format/tuned.h"

namespace voronoi::format {

/// A linear [out, in] packed in the memory of a device.
class PackedMatrix {
 public:
  explicit PackedMatrix(const Encoding& encoding)
      : out_features_(encoding.out_features), in_features_(encoding.in_features), dtype_(encoding.dtype) {}
  virtual ~PackedMatrix() = default;
  PackedMatrix(const PackedMatrix&) = delete;
  PackedMatrix& operator=(const PackedMatrix&) = delete;

  std::int64_t out_features() const { return out_features_; }
  std::int64_t in_features() const { return in_features_; }
  /// The 16-bit type it decodes to.
  core::DType dtype() const { return dtype_; }

  /// What it takes on the device.
  virtual std::int64_t size_bytes() const = 0;
  /// Most tokens of one multiply(); 0: it has to be decoded for any.
  virtual std::int64_t max_tokens() const = 0;
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), 1 <= n_tokens <= max_tokens(); fp32 x and sums
  /// in a fixed order. Device memory, of the context that holds the matrix, as below.
  virtual void multiply(backend::Context& context, std::int64_t n_tokens, const float* x, bool accumulate,
                        float* out) const = 0;
  /// weight [out, in] row-major, the bits of format::decode.
  virtual void decode_f32(backend::Context& context, float* weight) const = 0;
  /// The same rounded to dtype().
  virtual void decode_16(backend::Context& context, std::uint16_t* weight) const = 0;

 private:
  std::int64_t out_features_, in_features_;
  core::DType dtype_;
};

/// Names of what a format stores, in its order.
struct FieldNames {
  std::vector<std::string> attributes, arrays;
};

/// Stateless. `encoding`: of this format, and sound (find_problem() is empty) for all but find_problem.
class Format {
 public:
  virtual ~Format() = default;
  /// As files have it.
  virtual std::string_view name() const = 0;
  virtual FieldNames fields() const = 0;
  /// As format::find_problem.
  virtual std::string find_problem(const Encoding& encoding) const = 0;
  virtual double nominal_bits(const Encoding& encoding) const = 0;
  /// No decoded weight is above it in magnitude.
  virtual double decoded_bound(const Encoding& encoding) const = 0;
  /// weight: out_features * in_features elements.
  virtual void decode(const Encoding& encoding, std::span<float> weight) const = 0;
  /// Copies it to the device; the context must outlive the matrix.
  virtual std::unique_ptr<PackedMatrix> upload(backend::Context& context, const Encoding& encoding) const = 0;
  /// With parameters to tune; null: the format has none. The codes are copied to the device, the context must outlive
  /// the matrix.
  virtual std::unique_ptr<TunedMatrix> tuned(backend::Context& context, const Encoding& encoding) const = 0;
};

/// Those that files may name.
std::span<const Format* const> known_formats();

}  // namespace voronoi::format
