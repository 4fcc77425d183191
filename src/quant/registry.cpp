// The methods by name: the one place that a new method is entered.
#include <array>
#include <functional>
#include <string>

#include "core/error_context.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/rtn.h"
#include "quant/quantizer.h"
#include "quant/soundness.h"
#include "quant/vq/voronoi.h"
#include "quant/vq/vptq.h"

namespace voronoi::quant {
namespace {

struct Entry {
  std::string_view name;
  const Quantizer& (*quantizer)();
};

constexpr std::array<Entry, 4> kMethods{
    {{"rtn", rtn_quantizer}, {"gptq", gptq_quantizer}, {"vptq", vptq_quantizer}, {"voronoi", voronoi_quantizer}}};

}  // namespace

QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                     const QuantParameters& parameters) {
  return core::with_context<core::NumericError>(input.name, [&] {
    require_sound_weight(input);
    QuantResult result = find_quantizer(parameters.method).quantize(context, team, input, parameters);
    require_sound_result(result);
    return result;
  });
}

const Quantizer& find_quantizer(std::string_view method) {
  std::string names;
  for (const Entry& entry : kMethods) {
    if (entry.name == method) return entry.quantizer();
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw core::ConfigError("method '" + std::string(method) + "' is unknown; it must be one of " + names);
}

std::vector<std::string> quantizer_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kMethods) names.emplace_back(entry.name);
  return names;
}

}  // namespace voronoi::quant
