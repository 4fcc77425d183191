// What the methods share that quantize a linear between two random rotations (QuIP#, arXiv 2402.04396): signs from the
// seed, the site's input turned once for all of its linears, the scale, and the error in the turned metric.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format/hadamard.h"
#include "quant/quantizer.h"
#include "quant/site.h"

namespace voronoi::quant {

/// Hadamard matrices and signs of n coordinates: one bit each, from the stream of the side's name.
format::HostRotation random_rotation(std::uint64_t seed, const std::string& side, std::int64_t n);

class HadamardInput final : public InputRotation {
 public:
  HadamardInput(std::uint64_t seed, const std::string& site, std::int64_t n)
      : rotation_(random_rotation(seed, site + ":in", n)) {}
  const format::HostRotation& rotation() const { return rotation_; }
  void apply(core::ThreadPool& pool, std::int64_t rows, std::span<float> vectors) const override;

 private:
  format::HostRotation rotation_;
};

/// What Method::prepare_site returns.
std::unique_ptr<SiteState> turned_site(std::uint64_t seed, const SiteInput& site);

/// A linear's weight, turned on both sides.
class TurnedWeight {
 public:
  /// input.weight is turned on the input's side already, where the site is.
  TurnedWeight(backend::Context& context, const QuantInput& input, std::uint64_t seed);

  /// Of the format's arrays; empty: the side is not turned.
  std::vector<std::uint32_t> in_signs() const;
  const std::vector<std::uint32_t>& out_signs() const { return out_.signs(); }
  /// Divides the weight by its root mean square over `unit`, and returns that scale. Once.
  float bring_to(double unit);
  /// [out, in] on the host.
  std::span<const float> values() const { return weight_; }
  /// Damping, dead columns, parts that a side's rotation does not mix (1 unless no matrix of its size is known).
  void add_statistics(std::map<std::string, double>& statistics) const;

 private:
  const QuantInput& input_;
  const HadamardInput* in_;
  format::HostRotation out_;
  std::vector<float> weight_;
};

/// Collective: relative_hessian_error on the turned input, as the Hessian is.
double turned_error(backend::Context& context, core::Team& team, const QuantInput& input,
                    const format::Encoding& encoding);

/// Operations of turning both sides there and back, a weight.
double turning_flops(std::int64_t out_features, std::int64_t in_features);

}  // namespace voronoi::quant
