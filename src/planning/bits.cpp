#include "planning/bits.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/log.h"
#include "planning/model_sizes.h"
#include "quant/method.h"

namespace voronoi::planning {

void resolve_bits(run::Settings& o, const model::ModelConfig& config) {
  const quant::Method& method = quant::find_method(o.parameters.method);
  if (!o.bits || method.chosen_by_bits().empty()) return;
  const std::vector<quant::LayerCount> layers = layer_counts(config);
  const auto chosen = method.choose_setting(o.parameters, *o.bits, layers);
  if (!chosen) {
    const auto least = method.least_true_bits(o.parameters, layers);
    throw core::ConfigError(
        fmt::format("--bits {:g}: no setting of {} makes this model so small; {}", *o.bits, method.name(),
                    least ? fmt::format("the least is {:.3f} true bits", *least) : "its layers are too small for any"));
  }
  o.parameters = *chosen;
  core::log_info("--bits {:g}: {}: {:.3f} true bits a weight (nominal {:.3f})", *o.bits, method.setting(o.parameters),
                 quant::true_bits(o.parameters, layers), method.nominal_bits(o.parameters));
}

}  // namespace voronoi::planning
