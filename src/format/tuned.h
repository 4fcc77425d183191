// A packed linear whose numbers are being tuned: codebooks, scales and biases move, and codes on request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "backend/device.h"
#include "core/types.h"
#include "format/encoding.h"

namespace voronoi::format {

/// What a run of parameters is: tuning gives each kind a learning rate of its own.
enum class ParameterKind { codebook, scale, bias, factor };

/// Parameters [first, first + size) of a matrix are one array of its encoding.
struct ParameterRun {
  std::string_view array;  ///< its name there
  ParameterKind kind = ParameterKind::codebook;
  std::int64_t first = 0, size = 0;
  core::DType dtype = core::DType::f16;  ///< that it is stored in, of 16 bits
};

/// A linear [out, in]; all parameters of it are one fp32 vector, kept by the caller. Made by Format::tuned.
class TunedMatrix {
 public:
  virtual ~TunedMatrix() = default;
  TunedMatrix() = default;
  TunedMatrix(const TunedMatrix&) = delete;
  TunedMatrix& operator=(const TunedMatrix&) = delete;

  virtual const std::vector<ParameterRun>& runs() const = 0;
  std::int64_t n_parameters() const { return runs().empty() ? 0 : runs().back().first + runs().back().size; }
  /// As the encoding has them.
  virtual std::vector<float> initial() const = 0;
  /// What the codes take on the device.
  virtual std::int64_t size_bytes() const = 0;
  /// The codes leave the device for host memory, and have to come back before they are worked with.
  virtual void leave_device() = 0;
  /// Back again, if they are not there: beside the computing, seen after memory().uploads_join(). `stay`: without a
  /// copy that remains on the host.
  virtual void enter_device(bool stay) = 0;

  /// weight [out, in] row-major, of parameters [n_parameters()]; device memory, as below.
  virtual void decode(backend::Context& context, const float* parameters, float* weight) const = 0;
  /// gradient [n_parameters()] += the loss's derivative by the parameters, d_weight [out, in] being that by the weight.
  /// weight: what decode() made of the parameters.
  virtual void add_gradient(backend::Context& context, const float* parameters, const float* weight,
                            const float* d_weight, float* gradient) const = 0;
  /// The linear with these parameters, each rounded to the 16-bit type of its run. Throws NumericError, naming the
  /// array, for one that the type cannot hold or that is not finite.
  virtual Encoding rounded(std::span<const float> parameters) const = 0;

  /// Whether recode() can be called.
  virtual bool can_recode() const { return true; }
  /// All codes as bytes, of a size that stays; host memory, as below.
  virtual std::vector<std::byte> codes() const = 0;
  /// codes: as this matrix, or one made of the same encoding, gave them.
  virtual void set_codes(std::span<const std::byte> codes) = 0;
  /// Moves codes towards a dense weight. Of the vectors (what one code stands for: in a uniform format a weight) the
  /// ceil(share * their number) furthest from `target` [out, in] get the codes whose value with these parameters is the
  /// nearest, as far as the search finds it, and never one that is further than what they have. Ties go to the lower
  /// vector and code; where parameters or target are not finite the codes stay. Returns how many vectors changed. The
  /// same on any device and number of threads.
  virtual std::int64_t recode(backend::Context& context, std::span<const float> parameters,
                              std::span<const float> target, double share) = 0;
};

}  // namespace voronoi::format
