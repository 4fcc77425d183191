#include "jobs/process.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "jobs/gpus.h"
#include "model/transformer.h"

namespace voronoi::jobs {
namespace {

volatile std::sig_atomic_t stop_flag = 0;

void request_stop(int) { stop_flag = 1; }

int bound_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(0, sizeof mask, &mask) != 0) return 1;
  return CPU_COUNT(&mask);
}

/// Cores this rank may use; widens the binding that mpirun made by default.
int claim_cores(const comm::LocalRanks& local) {
  const int online = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  const bool default_binding = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && std::getenv("SLURM_JOB_ID") == nullptr;
  const int share = std::max(1, online / local.size);
  if (default_binding && bound_cores() < share) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int cpu = 0; cpu < std::min(online, CPU_SETSIZE); ++cpu) CPU_SET(static_cast<unsigned>(cpu), &all);
    ::sched_setaffinity(0, sizeof all, &all);
  }
  const int bound = bound_cores();
  return bound < online ? std::max(1, bound) : share;
}

int exit_code_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const core::Error& known) {
    return static_cast<int>(known.exit_code());
  } catch (...) {
    return static_cast<int>(core::ExitCode::system);
  }
}

}  // namespace

void install_stop_handlers() {
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
}

bool stop_requested() { return stop_flag != 0; }

std::unique_ptr<backend::Context> make_context(const std::string& device, int requested_threads,
                                               const comm::Communicator& world) {
  const comm::LocalRanks local = comm::local_ranks(world);
  const int cores = claim_cores(local);
  const int threads = requested_threads > 0 ? requested_threads : cores;
  if (device != "cpu") {
    std::string problem;
    if (auto context = take_gpu(threads, world, problem)) return context;
    if (device == "cuda") throw core::DeviceError("--device cuda: " + problem + "; or use --device cpu");
    if (world.rank() == 0)
      core::log_info("computing on the CPU ({} rank(s) x {} thread(s)): {}", world.size(), threads, problem);
  }
  return std::make_unique<backend::Context>(backend::Device::cpu, threads);
}

const std::vector<std::string>& dtype_choices() {
  static const std::vector<std::string> choices{"auto", "f32", "f16", "bf16"};
  return choices;
}

core::DType product_dtype(const std::string& choice, const backend::Context& context,
                          const model::ModelConfig& config) {
  if (choice == "f32") return core::DType::f32;
  if (choice == "f16") return core::DType::f16;
  if (choice == "bf16") return core::DType::bf16;
  return model::default_dtype(context, config);
}

std::string_view product_dtype_name(core::DType dtype) {
  return dtype == core::DType::f32 ? "float32" : dtype == core::DType::f16 ? "float16" : "bfloat16";
}

void together(const comm::Communicator& world, const std::function<void()>& work) {
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  // The lowest failing rank has the largest code here; 0 means that all went well.
  constexpr std::int64_t kRanks = std::numeric_limits<int>::max();
  const std::int64_t mine = error ? (kRanks - world.rank()) * 256 + exit_code_of(error) : 0;
  const std::int64_t first = world.all_max(mine);
  if (first == 0) return;
  if (error && first == mine) throw AgreedError{error};
  throw FailedElsewhere{static_cast<int>(first % 256)};
}

void on_root(const comm::Communicator& world, const std::function<void()>& work) {
  together(world, [&] {
    if (world.rank() == 0) work();
  });
}

core::StoreError output_error(int error) { return core::StoreError(core::system_error("standard output", "write the result", error).what()); }

void flush_output() {
  if (std::fflush(stdout) != 0) throw output_error(errno);
  if (std::ferror(stdout) != 0) throw output_error(EIO);  // an earlier write; its reason is gone
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace voronoi::jobs
