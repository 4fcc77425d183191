#include "planning/bits.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/log.h"
#include "planning/model_sizes.h"
#include "quant/footprint.h"

namespace voronoi::planning {

void resolve_bits(run::Settings& o, const model::ModelConfig& config) {
  if (!o.bits || run::has_whole_bits(o.parameters)) return;
  const std::vector<quant::LayerCount> layers = layer_counts(config);
  const auto chosen = quant::choose_setting(o.parameters, *o.bits, layers);
  if (!chosen) {
    const auto least = quant::least_true_bits(o.parameters, layers);
    throw core::ConfigError(
        fmt::format("--bits {:g}: no codebooks make this model so small; {}", *o.bits,
                    least ? fmt::format("the least is {:.3f} true bits", *least) : "its layers are too small for any"));
  }
  o.parameters = *chosen;
  const quant::QuantParameters& p = o.parameters;
  core::log_info("--bits {:g}: vector length {}, {} centroids{}: {:.3f} true bits a weight (nominal {:.3f})", *o.bits,
                 p.vector_length, p.centroids,
                 p.residual_centroids > 0 ? fmt::format(" and {} for residuals", p.residual_centroids) : "",
                 quant::true_bits(p, layers), quant::planned_nominal_bits(p));
}

}  // namespace voronoi::planning
