// A method owns itself: one unit declares its parameters, checks, stored bits, work, memory and its quantize. Adding
// one is a class in files of its own and a line in registry.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/memory_peak.h"
#include "quant/cost.h"
#include "quant/parameters.h"
#include "quant/quantizer.h"
#include "quant/setting.h"
#include "quant/site.h"

namespace voronoi::quant {

/// Bits that quantizing an operator will store, and where they go. Exact, but for gptq with the original's grids and
/// act-order: a Hessian whose diagonal falls already needs no permutation.
struct StoredBits {
  std::int64_t indices = 0;    ///< packed, with padding; outlier indices included
  std::int64_t codebooks = 0;  ///< main, residual, outlier
  std::int64_t scales = 0;     ///< scales, biases, zeros
  std::int64_t permutation = 0;
  std::int64_t total() const { return indices + codebooks + scales + permutation; }
};

/// What a run spends on quality: --effort.
enum class Effort { quick, normal, best };

/// What decides whether VPTQ's public checkpoint format can hold a layer.
struct PublicLayout {
  std::int64_t vector_length = 0, centroids = 0, residual_centroids = 0, groups = 1;
  bool outliers = false;
  std::int64_t outlier_vector_length = 0;
};

/// What decides whether a public layout of integers can hold a layer.
struct UniformLayout {
  std::int64_t bits = 0, group_size = 0;  ///< group_size 0: whole rows
  bool ordered = false;                   ///< groups may be of columns that are no neighbours
  bool scaled_everywhere = false;         ///< columns have scales, also where those fold into nothing before
};

/// What decides whether a public layout of additive codes can hold a layer.
struct AdditiveLayout {
  std::int64_t codebooks = 0, code_bits = 0, in_group = 0;
  bool operator==(const AdditiveLayout&) const = default;
};

/// One operator on one rank of a team, for predictions of memory.
struct OperatorOnRank {
  std::string name;
  std::int64_t out_features = 0, in_features = 0;
  int n_threads = 1, team_size = 1;
  std::int64_t held_bytes = 0;  ///< by the site's task meanwhile: prepared Hessians and dense weight
  std::int64_t row_groups = 1;  ///< with a Hessian each
};

/// A method. Stateless; may be used by several threads with own contexts. Shapes and parameters given to it are without
/// problems (check_shape), but for check and check_shape themselves.
class Method {
 public:
  virtual ~Method() = default;

  /// As --method takes it.
  virtual std::string_view name() const = 0;
  /// One line for help.
  virtual std::string_view summary() const = 0;

  /// Its own parameters, in the order of run.json; the same object at every call.
  virtual const std::vector<Parameter>& parameters() const = 0;
  /// Adds what is wrong beyond the range of each parameter, which may be outside of it here.
  virtual void check(const QuantParameters& /*parameters*/, Problems& /*problems*/) const {}
  /// Adds why an operator of this shape cannot be quantized; the parameters are fine.
  virtual void check_shape(const QuantParameters& /*parameters*/, std::int64_t /*out_features*/,
                           std::int64_t /*in_features*/, Problems& /*problems*/) const {}
  /// The setting in a few words, for tables: "2 bits, groups of 64".
  virtual std::string setting(const QuantParameters& parameters) const = 0;

  virtual StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                                 std::int64_t in_features) const = 0;
  /// Index bits a weight alone, as papers quote.
  virtual double nominal_bits(const QuantParameters& parameters) const = 0;
  /// Of the layers it makes; nothing when they are of another format than VPTQ's.
  virtual std::optional<PublicLayout> public_layout(const QuantParameters& /*parameters*/) const {
    return std::nullopt;
  }

  /// Of the layers it makes; nothing when they are not of format::uniform_format().
  virtual std::optional<UniformLayout> uniform_layout(const QuantParameters& /*parameters*/) const {
    return std::nullopt;
  }

  /// Of the layers it makes; nothing when they are not of format::aqlm_format().
  virtual std::optional<AdditiveLayout> additive_layout(const QuantParameters& /*parameters*/) const {
    return std::nullopt;
  }

  /// Whether tuning may move numbers of the layers it makes: their format has some (format/tuned.h).
  virtual bool can_be_tuned() const { return true; }
  /// Whether tuning may move their codes too (format::TunedMatrix::can_recode).
  virtual bool codes_can_move() const { return can_be_tuned(); }
  /// Bits of the numbers that a layer has beside stored_bits once it is tuned.
  virtual std::int64_t bits_of_tuning(std::int64_t /*out_features*/, std::int64_t /*in_features*/) const { return 0; }

  /// Names of the parameters that --bits chooses for the size of the model. Empty: --bits is a parameter of the
  /// method's own, or none.
  virtual std::vector<std::string> chosen_by_bits() const { return {}; }
  /// The best setting of at most `wanted` true bits (kBitsMargin allowed), the other parameters taken from `base`;
  /// nothing when none fits.
  virtual std::optional<QuantParameters> choose_setting(const QuantParameters& /*base*/, double /*wanted*/,
                                                        std::span<const LayerCount> /*layers*/) const {
    return std::nullopt;
  }
  /// The least true bits of any setting it could choose; nothing when the layers allow none.
  virtual std::optional<double> least_true_bits(const QuantParameters& /*base*/,
                                                std::span<const LayerCount> /*layers*/) const {
    return std::nullopt;
  }

  /// All settings of different bits that the layers allow, the other parameters taken from `base`: what bits can be
  /// divided among linears by. Empty: the method has one alone.
  virtual std::vector<QuantParameters> settings(const QuantParameters& /*base*/,
                                                std::span<const LayerCount> /*layers*/) const {
    return {};
  }
  /// One that tells quickly how large a linear's errors are.
  virtual QuantParameters quick_setting(const QuantParameters& base) const { return base; }
  /// Errors of a linear under two settings are to each other about as these are.
  virtual double expected_error(const QuantParameters& /*parameters*/) const { return 1; }

  /// Options of a run, with their values, that --effort stands for where they are not given. Empty: it stands for none.
  virtual std::vector<std::pair<std::string_view, std::string_view>> effort(Effort /*effort*/) const { return {}; }

  virtual OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                            std::int64_t in_features) const = 0;
  /// Offers the bytes of each moment of quantizing the operator, held_bytes included, to the peak.
  virtual void consider_memory(const QuantParameters& parameters, const OperatorOnRank& on_rank,
                               core::MemoryPeak& peak) const = 0;
  /// What it holds on the host beside weight, codes and factor where the computation has memory of its own.
  virtual std::int64_t host_bytes(const QuantParameters& /*parameters*/, std::int64_t /*out_features*/,
                                  std::int64_t /*in_features*/) const {
    return 0;
  }

  /// Whether it decides by PreparedHessian::held_out. For a method that does not, the tokens that were kept out are put
  /// back into the Hessian once its metric is chosen.
  virtual bool judges_held_out() const { return false; }
  /// Whether groups of a linear's rows may have a Hessian each (QuantInput::later_groups).
  virtual bool takes_row_groups() const { return false; }
  /// Whether prepare_site is to be called with these parameters. Sites that no method changes can be shared by runs.
  virtual bool changes_site(const QuantParameters& /*parameters*/) const { return false; }
  /// Called once a site before its Hessian is factored, by every member of the team with the same input but for moments
  /// and Hessian, which member 0 has: may change the Hessian there, and returns what the method wants to keep for the
  /// site's linears (QuantInput::site) and the rotation of their input, if any, the same for every member. Throws
  /// NumericError when the site cannot be quantized.
  virtual std::unique_ptr<SiteState> prepare_site(backend::Context& /*context*/, core::Team& /*team*/,
                                                  SiteInput& /*site*/, const QuantParameters& /*parameters*/) const {
    return nullptr;
  }
  /// Bytes of its prepare_site, for linears of up to out_features rows, beside the moments and the metric.
  virtual std::int64_t preparation_bytes(const QuantParameters& /*parameters*/, std::int64_t /*out_features*/,
                                         std::int64_t /*in_features*/) const {
    return 0;
  }
  /// What it does at sites where SiteInput::input_scale_folds says no, in a few words behind their names; empty:
  /// nothing else than at others.
  virtual std::string where_no_scale_folds(const QuantParameters& /*parameters*/) const { return {}; }
  /// All members of `team` call it with the same input; every member returns the same, whole result. The encoding
  /// decodes to the linear's weight on the model's own input: what undoes a rotation is stored in it.
  virtual QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                               const QuantParameters& parameters) const = 0;
};

/// In the order of registry.cpp.
std::vector<const Method*> methods();
std::vector<std::string> method_names();
/// Throws ConfigError naming the known methods.
const Method& find_method(std::string_view name);

/// Makes a method known while it lives, for programs that bring one of their own; before threads start. InternalError
/// when the name, or a parameter in another unit, is taken.
class MethodRegistration {
 public:
  explicit MethodRegistration(const Method& method);
  ~MethodRegistration();
  MethodRegistration(const MethodRegistration&) = delete;
  MethodRegistration& operator=(const MethodRegistration&) = delete;

 private:
  const Method& method_;
};

/// Method::stored_bits, nominal_bits of the parameters' method.
StoredBits planned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);
/// The same with bits_of_tuning among the scales.
StoredBits planned_tuned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);
double planned_nominal_bits(const QuantParameters& parameters);

}  // namespace voronoi::quant
