#include "quant/vq/voronoi_method.h"

#include "quant/vq/vector_cost.h"
#include "quant/vq/vector_method.h"
#include "quant/vq/voronoi.h"

namespace voronoi::quant {
namespace {

// As often as the steps of a round were seen to run before their rules stopped them, on the layers of SmolLM2-135M at 2
// to 4 bits; codebooks and columns are fitted apart.
constexpr double kUsualFitSteps = 4, kUsualSweeps = 3.5;

class Voronoi final : public VectorMethod {
 public:
  std::string_view name() const override { return "voronoi"; }
  std::string_view summary() const override {
    return "vptq, then rounds of refitted codebooks and columns coded anew by the true error";
  }

  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> parameters = [this] {
      std::vector<Parameter> list = VectorMethod::parameters();
      list.push_back(integer_parameter("rounds", "rounds of codebook refit and column sweeps",
                                       &VoronoiParameters::rounds, 0, 100));
      list.push_back(integer_parameter("candidates", "main candidates in the joint residual search",
                                       &VoronoiParameters::candidates, 1, 16));
      return list;
    }();
    return parameters;
  }

  QuantParameters quick_setting(const QuantParameters& base) const override {
    QuantParameters quick = VectorMethod::quick_setting(base);
    quick.get<VoronoiParameters>().rounds = 0;
    return quick;
  }

  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    const VqGeometry g = make_geometry(parameters, out_features, in_features);
    OperatorWork work = VectorMethod::work(parameters, out_features, in_features);
    const auto rounds = static_cast<double>(parameters.get<VoronoiParameters>().rounds);
    work.refine = refine_work(parameters, out_features, in_features,
                              {rounds, 2 * kUsualFitSteps * rounds, kUsualSweeps * rounds, true});
    for (const std::int64_t unknowns : {(g.k + g.kr) * g.v * g.groups, 2 * in_features})
      work.sums.push_back({static_cast<double>(unknowns), rounds * (kUsualFitSteps + 2)});
    return work;
  }

  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    VectorMethod::consider_memory(parameters, r, peak);
    const VqGeometry g = make_geometry(parameters, r.out_features, r.in_features);
    const VectorMemory memory = vector_memory(g, r);
    const std::int64_t unknowns = 8 * g.v * (g.k + g.kr) * g.groups, gradients = 4 * memory.weights,
                       snapshot = memory.codes + memory.books,
                       exchanged = r.team_size > 1 ? unknowns * (2 * memory.mine + 3) : 0;
    peak.consider(memory.held + gradients + snapshot + memory.products + unknowns * (memory.mine + 6) + exchanged,
                  "refits of " + r.name);
    consider_packing(g, memory, stored_bits(parameters, r.out_features, r.in_features).total() / 8, gradients, r, peak);
  }

  std::vector<std::pair<std::string_view, std::string_view>> effort(Effort effort) const override {
    switch (effort) {
      case Effort::quick:
        return {{"rounds", "1"}};
      case Effort::normal:
        return {{"hessian", "guided"}};
      case Effort::best:
        return {{"hessian", "guided"}, {"allocate", "true"}, {"tune-phases", "end-to-end"}};
    }
    return {};
  }

  bool judges_held_out() const override { return true; }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    return run_voronoi(context, team, input, parameters);
  }

 protected:
  std::int64_t candidates(const QuantParameters& parameters) const override {
    return parameters.get<VoronoiParameters>().candidates;
  }
};

}  // namespace

Work refine_work(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                 const RefineSteps& steps) {
  const VqGeometry g = make_geometry(parameters, out_features, in_features);
  const double weights = static_cast<double>(out_features) * static_cast<double>(in_features);
  // A product with the Hessian each: steps and sweeps; of a round the errors behind both fits and the last sweep; of
  // held-out tokens one before all rounds, where the passes have told the other, and one a round.
  const double judged = steps.is_judged ? 1 + steps.rounds : 0,
               products = steps.fits + steps.sweeps + 3 * steps.rounds + judged;
  Work work = product_work(out_features, in_features, products) +
              search_work(g, parameters.get<VoronoiParameters>().candidates, g.kr > 0) * steps.sweeps;
  work.scattered += weights * (g.kr > 0 ? 2 : 1) * steps.fits;
  return work;
}

const Method& voronoi_method() {
  static const Voronoi method;
  return method;
}

}  // namespace voronoi::quant
