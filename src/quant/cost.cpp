#include "quant/cost.h"

#include "core/team.h"
#include "quant/method.h"

namespace voronoi::quant {

Work& Work::operator+=(const Work& other) {
  gemm += other.gemm;
  nearest += other.nearest;
  factor += other.factor;
  seeding += other.seeding;
  scattered += other.scattered;
  bytes += other.bytes;
  steps += other.steps;
  return *this;
}

Work operator*(Work work, double by) {
  for (double* value :
       {&work.gemm, &work.nearest, &work.factor, &work.seeding, &work.scattered, &work.bytes, &work.steps})
    *value *= by;
  return work;
}

Work hessian_work(std::int64_t n) {
  const auto order = static_cast<double>(n);
  Work work;
  work.factor = 2.0 / 3.0 * order * order * order;
  work.bytes = 40 * order * order;
  return work;
}

Work product_work(std::int64_t out_features, std::int64_t in_features, double count) {
  const auto rows = static_cast<double>(out_features), columns = static_cast<double>(in_features);
  Work work;
  work.gemm = 2 * rows * columns * columns * count;
  work.bytes = 12 * rows * columns * count;
  return work;
}

double received_bytes(const OperatorWork& work, int members) {
  const auto n = static_cast<double>(members);
  double bytes = work.exchange_bytes;
  for (const SumWork& sum : work.sums) {
    const double array = sizeof(double) * sum.values, all = array * static_cast<double>(work.row_pieces);
    bytes += sum.count * (all <= static_cast<double>(core::Team::kGatheredBytes) ? all : all / n + array);
  }
  return bytes * (n - 1) / n;
}

OperatorWork operator_work(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  return find_method(parameters.method).work(parameters, out_features, in_features);
}

}  // namespace voronoi::quant
