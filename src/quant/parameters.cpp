// What parameters and shapes a method can take. Every problem is listed at once, in the names of the command line.
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "core/packing.h"
#include "core/types.h"
#include "quant/quantizer.h"

namespace voronoi::quant {
namespace {

using Problems = std::vector<std::string>;

constexpr std::int64_t kMaxStoredPerm = 65535;  // VPTQ's client reads perm as 16-bit numbers

bool is_power_of_two(std::int64_t value) { return value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)); }

std::string text(double value) {
  std::string digits = std::to_string(value);
  digits.erase(digits.find_last_not_of('0') + 1);
  if (digits.back() == '.') digits.pop_back();
  return digits;
}

void check_range(Problems& problems, const std::string& option, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value < low || value > high)
    problems.push_back(option + " is " + std::to_string(value) + "; it must be " + std::to_string(low) + ".." +
                       std::to_string(high));
}

void check_range(Problems& problems, const std::string& option, double value, double low, double high) {
  if (!(value >= low && value <= high))  // NaN is out of every range
    problems.push_back(option + " is " + text(value) + "; it must be " + text(low) + ".." + text(high));
}

void check_codebook(Problems& problems, const std::string& option, std::int64_t value) {
  if (value < 2 || value > 65536 || !is_power_of_two(value))
    problems.push_back(option + " is " + std::to_string(value) + "; it must be a power of two in 2..65536");
}

bool is_uniform(const QuantParameters& p) { return p.method == "rtn" || p.method == "gptq"; }

void check_uniform(Problems& problems, const QuantParameters& p) {
  check_range(problems, "--bits", std::int64_t{p.bits}, 1, 8);
  if (p.group_size < -1)
    problems.push_back("--group-size is " + std::to_string(p.group_size) +
                       "; it must be positive, or 0 or -1 for one group a row");
}

void check_vector(Problems& problems, const QuantParameters& p) {
  check_range(problems, "--vector-length", p.vector_length, 1, 16);
  check_codebook(problems, "--centroids", p.centroids);
  if (p.residual_centroids != 0) {
    check_codebook(problems, "--residual-centroids", p.residual_centroids);
    if (p.residual_centroids > p.centroids)
      problems.push_back("--residual-centroids " + std::to_string(p.residual_centroids) + " is above --centroids " +
                         std::to_string(p.centroids) + ": VPTQ's client reads such a layer wrongly");
  }
  check_range(problems, "--outlier-percent", p.outlier_percent, 0, 50);
  if (p.outlier_percent > 0) {
    check_range(problems, "--outlier-vector-length", p.outlier_vector_length, 1, 16);
    check_codebook(problems, "--outlier-centroids", p.outlier_centroids);
    if (!p.act_order)
      problems.push_back(
          "--outlier-percent with --act-order false: the outliers are the columns with the largest Hessian diagonal, "
          "which come first in act-order only; use --act-order true or --outlier-percent 0");
  }
  check_range(problems, "--groups", p.groups, 1, kMaxStoredPerm);
  if (p.groups > 1 && p.residual_centroids != 0 && p.residual_centroids != p.centroids)
    problems.push_back(
        "--groups " + std::to_string(p.groups) + " with --residual-centroids " + std::to_string(p.residual_centroids) +
        ": VPTQ's kernels read past the residual codebook unless it is as large as the main one; use --groups 1, "
        "--residual-centroids 0 or " +
        std::to_string(p.centroids));
  check_range(problems, "--kmeans-iterations", std::int64_t{p.kmeans_iterations}, 0, 10000);
  check_range(problems, "--kmeans-tolerance", p.kmeans_tolerance, 0, 1);
  if (p.method == "voronoi") {
    check_range(problems, "--rounds", std::int64_t{p.rounds}, 0, 100);
    check_range(problems, "--candidates", std::int64_t{p.candidates}, 1, 16);
  }
}

/// Columns with a codebook of their own: the asked share, and what groups of equal size leave over.
std::int64_t outlier_columns(const QuantParameters& p, std::int64_t in_features) {
  const auto asked = static_cast<std::int64_t>(std::ceil(p.outlier_percent / 100.0 * static_cast<double>(in_features)));
  return asked + (in_features - asked) % p.groups;
}

void check_vector_shape(Problems& problems, const QuantParameters& p, std::int64_t out_features,
                        std::int64_t in_features) {
  const std::string shape = std::string("[") + std::to_string(out_features) + ", " + std::to_string(in_features) + "]";
  if (p.vector_length > out_features)
    problems.push_back("--vector-length " + std::to_string(p.vector_length) + " is above the " +
                       std::to_string(out_features) + " rows of a layer " + shape);
  const std::int64_t outliers = outlier_columns(p, in_features), columns = in_features - outliers;
  if (p.outlier_percent == 0 && outliers > 0) {
    problems.push_back("--groups " + std::to_string(p.groups) + " does not divide the " + std::to_string(in_features) +
                       " columns of a layer " + shape +
                       "; choose a divisor, or give the columns left over a codebook with --outlier-percent");
    return;
  }
  if (columns < p.groups) {
    problems.push_back("--groups " + std::to_string(p.groups) + " leaves no column a group in a layer " + shape);
    return;
  }
  if (outliers > 0 && p.outlier_vector_length > out_features)
    problems.push_back("--outlier-vector-length " + std::to_string(p.outlier_vector_length) + " is above the " +
                       std::to_string(out_features) + " rows of a layer " + shape);
  if ((p.groups > 1 || outliers > 0) && in_features > kMaxStoredPerm)
    problems.push_back("a layer " + shape +
                       " has more than 65535 columns: groups and outliers need a column order, which VPTQ's format "
                       "stores in 16 bits; use --groups 1 and --outlier-percent 0");
  const std::int64_t group_size = columns / p.groups;
  const auto check_vectors = [&](const std::string& option, std::int64_t k, std::int64_t length,
                                 std::int64_t n_columns) {
    const std::int64_t vectors = n_columns * core::ceil_div(out_features, length);
    if (k > vectors)
      problems.push_back(option + " " + std::to_string(k) + " is more than the " + std::to_string(vectors) +
                         " vectors that share the codebook in a layer " + shape);
  };
  check_vectors("--centroids", p.centroids, p.vector_length, group_size);
  if (p.residual_centroids != 0)
    check_vectors("--residual-centroids", p.residual_centroids, p.vector_length, group_size);
  if (outliers > 0) check_vectors("--outlier-centroids", p.outlier_centroids, p.outlier_vector_length, outliers);
  // VPTQ's client infers the row's length from its words: more padding than data bits, and it takes another shape.
  const int bits = core::index_bits(p.centroids) + core::index_bits(p.residual_centroids);
  const std::int64_t data_bits = group_size * bits, padding = 32 * core::packed_words(group_size, bits) - data_bits;
  if (padding >= data_bits)
    problems.push_back("a packed row of a layer " + shape + " has " + std::to_string(data_bits) + " bits and " +
                       std::to_string(padding) +
                       " of padding, which VPTQ's client cannot read; use fewer --groups or more --centroids");
}

}  // namespace

std::vector<std::string> check_parameters(const QuantParameters& parameters) {
  Problems problems;
  const Problems known = quantizer_names();
  if (std::find(known.begin(), known.end(), parameters.method) == known.end()) {
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    return {"--method " + parameters.method + " is unknown; it must be one of " + names};
  }
  check_range(problems, "--damping", parameters.damping, 0, 1);
  if (is_uniform(parameters))
    check_uniform(problems, parameters);
  else
    check_vector(problems, parameters);
  return problems;
}

std::vector<std::string> check_shape(const QuantParameters& parameters, std::int64_t out_features,
                                     std::int64_t in_features) {
  Problems problems;
  if (out_features < 1 || in_features < 1)
    return {std::string("a layer [") + std::to_string(out_features) + ", " + std::to_string(in_features) +
            "] has no weights"};
  if (!check_parameters(parameters).empty()) return problems;  // said there; what follows divides by them
  if (is_uniform(parameters)) {
    if (parameters.method == "gptq" && parameters.act_order && in_features > kMaxStoredPerm)
      problems.push_back("a layer of " + std::to_string(in_features) +
                         " columns is past the 65535 whose order can be stored; switch off "
                         "--act-order");
  } else {
    check_vector_shape(problems, parameters, out_features, in_features);
  }
  return problems;
}

}  // namespace voronoi::quant
