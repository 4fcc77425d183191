#include "quant/vq/vector_method.h"

#include <fmt/format.h>

#include <cmath>

#include "core/packing.h"
#include "core/types.h"
#include "format/vptq.h"
#include "quant/vq/layout.h"
#include "quant/vq/setting.h"

namespace voronoi::quant {
namespace {

constexpr std::int64_t kMaxStoredPerm = 65535;  // VPTQ's client reads perm as 16-bit numbers
constexpr std::int64_t kMostCentroids = 65536, kLongestVector = 16;

/// Columns with a codebook of their own: the asked share, and what groups of equal size leave over.
std::int64_t outlier_columns(const VectorParameters& p, std::int64_t in_features) {
  const auto asked = static_cast<std::int64_t>(std::ceil(p.outlier_percent / 100.0 * static_cast<double>(in_features)));
  return asked + (in_features - asked) % p.groups;
}

}  // namespace

const std::vector<Parameter>& VectorMethod::parameters() const {
  using P = VectorParameters;
  static const std::vector<Parameter> parameters{
      integer_parameter("vector-length", "rows of a column that share an index (v)", &P::vector_length, std::int64_t{1},
                        kLongestVector),
      power_of_two_parameter("centroids", "main codebook size (k), a power of two", &P::centroids, kMostCentroids),
      power_of_two_parameter("residual-centroids", "residual codebook size, a power of two, 0 for none",
                             &P::residual_centroids, kMostCentroids, true),
      number_parameter("outlier-percent", "share of columns with a codebook of their own", &P::outlier_percent, 0, 50),
      integer_parameter("outlier-vector-length", "vector length of the outlier columns", &P::outlier_vector_length,
                        std::int64_t{1}, kLongestVector),
      power_of_two_parameter("outlier-centroids", "codebook size of the outlier columns", &P::outlier_centroids,
                             kMostCentroids),
      integer_parameter("groups", "column groups with a codebook each", &P::groups, std::int64_t{1}, kMaxStoredPerm),
      integer_parameter("kmeans-iterations", "at most so many k-means steps", &P::kmeans_iterations, 1, 10000),
      number_parameter("kmeans-tolerance", "k-means stops when the objective falls by less than this share",
                       &P::kmeans_tolerance, 0, 1)};
  return parameters;
}

void VectorMethod::check(const QuantParameters& parameters, Problems& problems) const {
  const auto& p = parameters.get<VectorParameters>();
  if (p.residual_centroids != 0 && p.residual_centroids > p.centroids)
    problems.push_back(
        fmt::format("--residual-centroids {} is above --centroids {}: VPTQ's client reads such a layer wrongly",
                    p.residual_centroids, p.centroids));
  if (p.outlier_percent > 0 && !parameters.act_order)
    problems.emplace_back(
        "--outlier-percent with --act-order false: the outliers are the columns with the largest Hessian diagonal, "
        "which come first in act-order only; use --act-order true or --outlier-percent 0");
  if (p.groups > 1 && p.residual_centroids != 0 && p.residual_centroids != p.centroids)
    problems.push_back(
        fmt::format("--groups {} with --residual-centroids {}: VPTQ's kernels read past the residual codebook unless "
                    "it is as large as the main one; use --groups 1, --residual-centroids 0 or {}",
                    p.groups, p.residual_centroids, p.centroids));
}

void VectorMethod::check_shape(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                               Problems& problems) const {
  const auto& p = parameters.get<VectorParameters>();
  const std::string shape = fmt::format("[{}, {}]", out_features, in_features);
  if (p.vector_length > out_features)
    problems.push_back(
        fmt::format("--vector-length {} is above the {} rows of a layer {}", p.vector_length, out_features, shape));
  const std::int64_t outliers = outlier_columns(p, in_features), columns = in_features - outliers;
  if (p.outlier_percent == 0 && outliers > 0) {
    problems.push_back(
        fmt::format("--groups {} does not divide the {} columns of a layer {}; choose a divisor, or give the columns "
                    "left over a codebook with --outlier-percent",
                    p.groups, in_features, shape));
    return;
  }
  if (columns < p.groups) {
    problems.push_back(fmt::format("--groups {} leaves no column a group in a layer {}", p.groups, shape));
    return;
  }
  if (outliers > 0 && p.outlier_vector_length > out_features)
    problems.push_back(fmt::format("--outlier-vector-length {} is above the {} rows of a layer {}",
                                   p.outlier_vector_length, out_features, shape));
  if ((p.groups > 1 || outliers > 0) && in_features > kMaxStoredPerm)
    problems.push_back(
        fmt::format("a layer {} has more than {} columns: groups and outliers need a column order, which VPTQ's format "
                    "stores in 16 bits; use --groups 1 and --outlier-percent 0",
                    shape, kMaxStoredPerm));
  const std::int64_t group_size = columns / p.groups;
  const auto check_vectors = [&](const char* option, std::int64_t k, std::int64_t length, std::int64_t n_columns) {
    const std::int64_t vectors = n_columns * core::ceil_div(out_features, length);
    if (k > vectors)
      problems.push_back(fmt::format("{} {} is more than the {} vectors that share the codebook in a layer {}", option,
                                     k, vectors, shape));
  };
  check_vectors("--centroids", p.centroids, p.vector_length, group_size);
  if (p.residual_centroids != 0)
    check_vectors("--residual-centroids", p.residual_centroids, p.vector_length, group_size);
  if (outliers > 0) check_vectors("--outlier-centroids", p.outlier_centroids, p.outlier_vector_length, outliers);
  // VPTQ's client infers the row's length from its words: more padding than data bits, and it takes another shape.
  const int bits = core::index_bits(p.centroids) + core::index_bits(p.residual_centroids);
  const std::int64_t data_bits = group_size * bits, padding = 32 * core::packed_words(group_size, bits) - data_bits;
  if (padding >= data_bits)
    problems.push_back(
        fmt::format("a packed row of a layer {} has {} bits and {} of padding, which VPTQ's client cannot read; use "
                    "fewer --groups or more --centroids",
                    shape, data_bits, padding));
}

std::string VectorMethod::setting(const QuantParameters& parameters) const {
  const auto& p = parameters.get<VectorParameters>();
  std::string text = fmt::format("vector length {}, {} centroids", p.vector_length, p.centroids);
  if (p.residual_centroids > 0) text += fmt::format(" and {} for residuals", p.residual_centroids);
  if (p.groups > 1) text += fmt::format(", {} groups", p.groups);
  if (p.outlier_percent > 0) text += fmt::format(", {} % outliers", p.outlier_percent);
  return text;
}

StoredBits VectorMethod::stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                                     std::int64_t in_features) const {
  const VqGeometry geometry = make_geometry(parameters, out_features, in_features);
  format::VqExtents extents;
  extents.out_features = out_features;
  extents.in_features = in_features;
  extents.vector_length = geometry.v;
  extents.centroids = geometry.k;
  extents.residual_centroids = geometry.kr;
  extents.groups = geometry.groups;
  extents.outlier_size = geometry.outlier_size;
  extents.outlier_vector_length = geometry.v0;
  extents.outlier_centroids = geometry.k0;
  // One group without outliers is stored in natural order.
  const format::VqElements due = elements_due(extents, geometry.groups > 1 || geometry.outlier_size > 0);
  StoredBits stored;
  stored.indices = 32 * due.indices + 16 * due.outlier_indices;
  stored.codebooks = 16 * (due.codebook + due.residual_codebook + due.outlier_codebook);
  stored.scales = 16 * (due.scale + due.bias);
  stored.permutation = 16 * due.perm;
  return stored;
}

double VectorMethod::nominal_bits(const QuantParameters& parameters) const {
  const auto& p = parameters.get<VectorParameters>();
  return static_cast<double>(core::index_bits(p.centroids) + core::index_bits(p.residual_centroids)) /
         static_cast<double>(p.vector_length);
}

std::optional<PublicLayout> VectorMethod::public_layout(const QuantParameters& parameters) const {
  const auto& p = parameters.get<VectorParameters>();
  return PublicLayout{p.vector_length, p.centroids,           p.residual_centroids,
                      p.groups,        p.outlier_percent > 0, p.outlier_vector_length};
}

std::vector<std::string> VectorMethod::chosen_by_bits() const {
  return {"vector-length", "centroids", "residual-centroids", "outlier-percent", "groups"};
}

std::optional<QuantParameters> VectorMethod::choose_setting(const QuantParameters& base, double wanted,
                                                            std::span<const LayerCount> layers) const {
  return choose_vector_setting(base, wanted, layers);
}

std::optional<double> VectorMethod::least_true_bits(const QuantParameters& base,
                                                    std::span<const LayerCount> layers) const {
  return least_vector_bits(base, layers);
}

std::vector<QuantParameters> VectorMethod::settings(const QuantParameters& base,
                                                    std::span<const LayerCount> layers) const {
  return vector_settings(base, layers);
}

double VectorMethod::expected_error(const QuantParameters& parameters) const {
  const auto& p = parameters.get<VectorParameters>();
  return std::pow(10, -expected_gain_db(p.vector_length, p.centroids, p.residual_centroids) / 10);
}

QuantParameters VectorMethod::quick_setting(const QuantParameters& base) const { return quick_vector_setting(base); }

}  // namespace voronoi::quant
