// Ceilings of the device, and the two halves of a Hessian's life: sums over tokens, factorization.
#include <vector>

#include "bench/bench_gpu.h"
#include "core/error.h"

namespace voronoi::bench {
namespace {

constexpr std::int64_t kWidths[] = {8192, 28672};  // of Llama-3-70B: hidden, intermediate

double cube(std::int64_t n) { return static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n); }

}  // namespace

void measure_ceilings(Bench& bench) {
  backend::Context& context = bench.context();
  const kernels::Exec& exec = context.exec();
  const auto keep = [&](const char* name, Measurement what, const std::function<void()>& body) {
    bench.set_ceiling(name, bench.measure(std::move(what), body).rate());
  };
  {
    const std::int64_t n = bench.size(std::int64_t{1} << 28, 1 << 12);
    const backend::Array<float> from = bench.values(n);
    backend::Array<float> to(context, n);
    const auto bytes = static_cast<double>(8 * n);  // read and written
    keep(kCopy, {"ceilings", "copy in device memory", std::to_string(4 * n) + " bytes", Unit::bytes, bytes},
         [&] { context.memory().copy_on_device(exec, from.data(), 4 * n, to.data()); });
  }
  const std::int64_t n = bench.size(8192, 32);
  const std::string shape = shape_text(n, n) + " x " + std::to_string(n);
  {
    const backend::Array<float> a = bench.values(n * n), b = bench.values(n * n);
    backend::Array<float> c(context, n * n);
    // On a GPU a product of this size is three of tf32 operands (and the passes that split the operands).
    const double products = context.on_host() || bench.tiny() ? 1 : 3;
    keep(kTf32, {"ceilings", "tf32 products, splitting included", shape, Unit::operations, products * 2 * cube(n)},
         [&] {
           context.linalg().gemm_f32(exec, false, true, n, n, n, 1.0F, a.data(), n, b.data(), n, 0.0F, c.data(), n);
         });
    Measurement fp32 = bench.measurements().back();
    fp32.operation = "fp32 products";
    fp32.amount /= products;
    bench.record(std::move(fp32));
    const backend::Array<std::uint16_t> w(context, std::vector<std::uint16_t>(static_cast<std::size_t>(n * n), 0x3F80));
    keep(kBf16, {"ceilings", "bf16 products", shape, Unit::operations, 2 * cube(n)}, [&] {
      context.linalg().gemm_16(exec, n, n, n, a.data(), n, core::DType::bf16, w.data(), n, 0.0F, c.data(), n);
    });
  }
  const std::vector<double> ones(static_cast<std::size_t>(n * n), 1.0);
  const backend::Array<double> a(context, ones);
  backend::Array<double> c(context, n * n);
  keep(kFp64, {"ceilings", "fp64 products", shape, Unit::operations, 2 * cube(n)},
       [&] { context.linalg().gemm_f64(exec, false, true, n, n, n, 1.0, a.data(), n, a.data(), n, 0.0, c.data(), n); });
}

void measure_hessian(Bench& bench) {
  backend::Context& context = bench.context();
  for (const std::int64_t width : kWidths) {
    const std::int64_t n = bench.size(width, width / 512), tokens = bench.size(8192, 24);
    const backend::Array<float> x = bench.values(tokens * n);
    backend::Array<double> sum(context, n * n);
    sum.zero();
    const auto order = static_cast<double>(n);
    bench.measure({"hessian", "Hessian update", shape_text(tokens, n) + ", bf16", Unit::operations,
                   static_cast<double>(tokens) * order * (order + 1), kBf16},
                  [&] {
                    context.linalg().gram_accumulate(context.exec(), tokens, n, x.data(), n, core::DType::bf16,
                                                     sum.data());
                  });
  }
}

void measure_cholesky(Bench& bench) {
  backend::Context& context = bench.context();
  const kernels::Exec& exec = context.exec();
  for (const std::int64_t width : kWidths) {
    const std::int64_t n = bench.size(width, width / 512);
    std::vector<std::int32_t> order;
    for (std::int64_t i = 0; i < n; ++i) order.push_back(static_cast<std::int32_t>(i));
    const backend::Array<std::int32_t> perm(context, order);
    // Diagonally dominant, hence positive definite.
    backend::Array<float> matrix = bench.values(n * n, 0.1F);
    const backend::Array<float> diagonal(context,
                                         std::vector<float>(static_cast<std::size_t>(n), static_cast<float>(n)));
    context.hessian().set_diagonal(exec, n, diagonal.data(), matrix.data());
    backend::Array<double> factor(context, n * n);
    bench.measure(
        {"cholesky", "Cholesky and inverse factor", shape_text(n, n) + ", fp64", Unit::operations, 2.0 / 3.0 * cube(n),
         kFp64},
        [&] {
          if (context.linalg().cholesky_lower_f64(exec, n, factor.data(), n) != 0 ||
              context.linalg().invert_lower_f64(exec, n, factor.data(), n) != 0)
            throw core::InternalError("a diagonally dominant matrix did not factor");
        },
        [&] { context.hessian().reverse(exec, n, matrix.data(), perm.data(), 0.0, factor.data()); });
  }
}

}  // namespace voronoi::bench
