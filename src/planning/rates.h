// How fast a rank computes: the one table behind every predicted time, and the probe that measures a row of it here.
#pragma once

#include <string>

#include "backend/device.h"
#include "core/json.h"
#include "quant/cost.h"

namespace voronoi::planning {

/// Operations a second of one rank, by the kinds of quant::Work and for Hessian sums (gram, one triangle counted), and
/// bytes a second to the world outside.
struct Rates {
  std::string device;    ///< "NVIDIA H100 SXM", "2 CPU threads"
  std::string origin;    ///< "assumed ...", "measured ..."
  bool assumed = false;  ///< nobody has measured these with this program
  double gemm = 0;       ///< products in fp32
  double forward = 0;    ///< products of the forward pass in 16 bits
  double nearest = 0, gram = 0, factor = 0, seeding = 0, scattered = 0, bytes = 0, steps = 0;
  double sustained = 1;  ///< share of these, factor aside, that quantizing an operator reaches: small kernels, waiting
  double forward_sustained = 1;  ///< share of gemm or forward that a whole pass through blocks reaches
  double link_bytes = 0;         ///< between ranks, received by each
  double disk_bytes = 0;         ///< read or written by each
};

/// The table's row: a CPU rank of `n_threads` threads (measured on one core of a Zen 5 server, times the threads) or an
/// H100 (assumed shares of its peaks).
Rates table_rates(backend::Device device, int n_threads);

/// Products a second of a forward pass, and of tuning's: in 16 bits on a GPU unless `dtype` (of model::dtype_choices())
/// is f32, on a CPU only where it is bf16.
double forward_rate(const Rates& rates, backend::Device device, const std::string& dtype);

/// Likewise of the sweep of guided Hessians, forward and backward: in fp32 on a GPU, as the forward pass on a CPU.
double sweep_rate(const Rates& rates, backend::Device device, const std::string& dtype);

/// Times the kernels on this CPU context for about two seconds; vector length and codebook size are those of
/// `parameters` where it has them. Link and disk stay those of the table.
Rates probe_rates(backend::Context& context, const quant::QuantParameters& parameters);

double seconds(const quant::Work& work, const Rates& rates);

core::Json rates_json(const Rates& rates);
/// A file that holds rates_json(). Throws StoreError, FormatError.
Rates read_rates(const std::string& path);

}  // namespace voronoi::planning
