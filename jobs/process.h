// What concerns the process as a whole: its share of the host's cores, requests to stop, agreement between ranks.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/error.h"
#include "core/types.h"
#include "model/config.h"

namespace voronoi::jobs {

/// SIGTERM and SIGUSR1 from now on only set a flag, which the command looks at between layers.
void install_stop_handlers();
bool stop_requested();

/// Context for this rank. requested_threads 0: the host's cores divided by its ranks. mpirun binds each of up to two
/// ranks to a single core by default; outside of a batch system, whose binding is deliberate, the rank takes its share
/// of the others too. device "auto" takes a GPU for every rank or else the CPU for all, and a line says which and why.
/// Collective. Throws DeviceError when "cuda" cannot be had.
std::unique_ptr<backend::Context> make_context(const std::string& device, int requested_threads,
                                               const comm::Communicator& world);

/// Choices of --dtype, and what one means: the type of the products of linears, head and attention. "auto": f32 on the
/// CPU, the model's own 16-bit type on a GPU.
const std::vector<std::string>& dtype_choices();
core::DType product_dtype(const std::string& choice, const backend::Context& context, const model::ModelConfig& config);
/// "float32", "float16" or "bfloat16": as results name it.
std::string_view product_dtype_name(core::DType dtype);

/// Error of another rank: this rank has nothing to print.
struct FailedElsewhere {
  int exit_code;
};

/// This rank's error, known to all ranks: each ends in order, none needs to be aborted.
struct AgreedError {
  std::exception_ptr error;
};

/// Runs `work` on every rank; collective. When it throws anywhere, the lowest failing rank throws its error as
/// AgreedError and all others throw FailedElsewhere with its exit code, so that a common mistake is printed once and
/// every rank ends in order.
void together(const comm::Communicator& world, const std::function<void()>& work);
/// The same with work for rank 0 alone.
void on_root(const comm::Communicator& world, const std::function<void()>& work);

/// Flushes stdout. Throws StoreError when what was printed did not get through: a result that its reader lacks is a
/// failure, whatever else went well.
void flush_output();
core::StoreError output_error(int error);

/// Seconds since 1970, for records.
double unix_time();

}  // namespace voronoi::jobs
