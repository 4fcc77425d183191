// Measurements of the kernels of one device, each beside a ceiling that the same run measured.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "core/json.h"
#include "planning/rates.h"
#include "quant/quantizer.h"

namespace voronoi::bench {

enum class Unit { operations, bytes, steps };

/// Ceilings, by name: what `measure_ceilings` measures.
inline constexpr const char* kCopy = "copy";
inline constexpr const char* kTf32 = "tf32";
inline constexpr const char* kBf16 = "bf16";
inline constexpr const char* kFp64 = "fp64";

struct Measurement {
  std::string part, operation, shape;
  Unit unit = Unit::operations;
  double amount = 0;      ///< operations, bytes or steps of one call
  std::string ceiling{};  ///< name of the ceiling it is to be compared with; empty: none
  double target = 0;      ///< share of the ceiling that is aimed at; 0: none
  double seconds = 0;     ///< of one call: the median of the runs
  int n_runs = 0;

  double rate() const { return amount / seconds; }
};

/// A predicted job: hours of one device by the cost model of `voronoi plan`.
struct Prediction {
  std::string model, setting, rates;   ///< rates: which are measured
  double hours = 0, target_hours = 0;  ///< target 0: none
  core::Json stages;                   ///< name -> seconds
};

class Bench {
 public:
  Bench(backend::Context& context, bool tiny);

  backend::Context& context() { return context_; }
  const std::string& device() const { return device_; }
  /// Sizes that an emulated device or a CPU computes in a moment: to run every line, not to measure.
  bool tiny() const { return tiny_; }
  std::int64_t size(std::int64_t real, std::int64_t small) const { return tiny_ ? small : real; }

  /// n values in device memory, uniform in [-deviation, deviation); past the first 4 Mi they repeat.
  backend::Array<float> values(std::int64_t n, float deviation = 1.0F);
  /// Times `body`, which queues work, after a warm-up. Several calls in a row where one is short, unless `prepare` has
  /// to go before each (and is not timed). Prints a line, and keeps and returns the measurement.
  const Measurement& measure(Measurement what, const std::function<void()>& body,
                             const std::function<void()>& prepare = {});
  /// Takes in a time that was measured in another way.
  const Measurement& record(Measurement done);

  /// Measured rate of a ceiling; throws InternalError when it was not measured.
  double ceiling(const std::string& name) const;
  void set_ceiling(const std::string& name, double rate) { ceilings_[name] = rate; }
  /// The measurements of an operation, in order; empty: its part did not run.
  std::vector<Measurement> find(const std::string& part, const std::string& operation) const;

  const std::vector<Measurement>& measurements() const { return measurements_; }
  const std::map<std::string, double>& ceilings() const { return ceilings_; }

 private:
  double run_once(int n_calls, const std::function<void()>& body, const std::function<void()>& prepare);

  backend::Context& context_;
  std::string device_;
  bool tiny_;
  std::map<std::string, double> ceilings_;
  std::vector<Measurement> measurements_;
};

/// "8192 x 28672".
std::string shape_text(std::int64_t rows, std::int64_t columns);

void measure_ceilings(Bench& bench);
void measure_hessian(Bench& bench);
void measure_cholesky(Bench& bench);
void measure_assignment(Bench& bench);
void measure_kmeans(Bench& bench);
void measure_column_loop(Bench& bench);
void measure_gemv(Bench& bench);
void measure_forward(Bench& bench);
/// Whole operators through the quantizer.
void measure_operator(Bench& bench);

/// The operator that measure_operator quantizes.
struct OperatorCase {
  quant::QuantParameters parameters;
  std::int64_t out = 0, in = 0;
};
OperatorCase operator_case(const Bench& bench);

/// What was measured, as the cost model takes it for codebooks of that shape; what was not is the table's, and `origin`
/// names it.
planning::Rates measured_rates(const Bench& bench, std::int64_t vector_length, std::int64_t centroids);
std::vector<Prediction> predict(const Bench& bench);

/// table.md and results.json.
std::string table_text(const Bench& bench, const std::vector<Prediction>& predictions,
                       const std::vector<std::string>& failures);
core::Json results_json(const Bench& bench, const std::vector<Prediction>& predictions,
                        const std::vector<std::string>& failures);

}  // namespace voronoi::bench
