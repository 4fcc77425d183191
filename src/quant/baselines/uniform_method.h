// What the methods of codes of single weights share: their parameters, and what follows from the stored form.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quant/method.h"

namespace voronoi::quant {

struct UniformParameters {
  int bits = 2;
  std::int64_t group_size = 64;  ///< columns that share a scale; 0 for whole rows
};

/// `base` with each number of bits from least to most that all layers can have.
std::vector<QuantParameters> settings_of_bits(const QuantParameters& base, int least, int most,
                                              std::span<const LayerCount> layers);

class UniformMethod : public Method {
 public:
  const std::vector<Parameter>& parameters() const override;
  std::string setting(const QuantParameters& parameters) const override;
  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override;
  double nominal_bits(const QuantParameters& parameters) const override;
  std::optional<UniformLayout> uniform_layout(const QuantParameters& parameters) const override;
  /// Those of divided_bits().
  std::vector<QuantParameters> settings(const QuantParameters& base, std::span<const LayerCount> layers) const override;
  std::optional<QuantParameters> choose_setting(const QuantParameters& base, double wanted,
                                                std::span<const LayerCount> layers) const override;
  std::optional<double> least_true_bits(const QuantParameters& base, std::span<const LayerCount> layers) const override;
  /// The square of a grid's step.
  double expected_error(const QuantParameters& parameters) const override;
  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override;
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& on_rank,
                       core::MemoryPeak& peak) const override;

 protected:
  /// Products with the Hessian, those of the reported error included.
  virtual double products() const = 0;
  /// Whether a permutation of the columns is stored.
  virtual bool stores_order(const QuantParameters& parameters) const = 0;
  /// The least and the most bits that allocation and --bits choose among.
  virtual std::pair<int, int> divided_bits() const { return {2, 8}; }
  /// Of a group, before it is packed.
  virtual std::int64_t grid_bytes() const { return 6; }
  /// Bytes of this rank's codes and grids before they are packed.
  std::int64_t code_bytes(const QuantParameters& parameters, const OperatorOnRank& on_rank) const;
};

}  // namespace voronoi::quant
