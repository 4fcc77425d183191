// What the methods of vector quantization share: their parameters, and what follows from VPTQ's stored form and passes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/method.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {

class VectorMethod : public Method {
 public:
  const std::vector<Parameter>& parameters() const override;
  void check(const QuantParameters& parameters, Problems& problems) const override;
  void check_shape(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                   Problems& problems) const override;
  std::string setting(const QuantParameters& parameters) const override;
  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override;
  double nominal_bits(const QuantParameters& parameters) const override;
  std::optional<PublicLayout> public_layout(const QuantParameters& parameters) const override;
  std::vector<std::string> chosen_by_bits() const override;
  /// See quant/vq/setting.h.
  std::optional<QuantParameters> choose_setting(const QuantParameters& base, double wanted,
                                                std::span<const LayerCount> layers) const override;
  std::optional<double> least_true_bits(const QuantParameters& base, std::span<const LayerCount> layers) const override;
  std::vector<QuantParameters> settings(const QuantParameters& base, std::span<const LayerCount> layers) const override;
  QuantParameters quick_setting(const QuantParameters& base) const override;
  double expected_error(const QuantParameters& parameters) const override;
  /// k-means and VPTQ's passes.
  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override;
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& on_rank,
                       core::MemoryPeak& peak) const override;
  bool takes_row_groups() const override { return true; }

 protected:
  /// Main candidates in the search with a residual codebook.
  virtual std::int64_t candidates(const QuantParameters& /*parameters*/) const { return 1; }
};

}  // namespace voronoi::quant
