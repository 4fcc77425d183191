#include "quant/vq/vptq_method.h"

#include "quant/vq/vector_method.h"
#include "quant/vq/vptq.h"

namespace voronoi::quant {
namespace {

class Vptq final : public VectorMethod {
 public:
  std::string_view name() const override { return "vptq"; }
  std::string_view summary() const override { return "vectors of a column by k-means, columns as in gptq"; }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    return run_vptq(context, team, input, parameters);
  }
};

}  // namespace

const Method& vptq_method() {
  static const Vptq method;
  return method;
}

}  // namespace voronoi::quant
