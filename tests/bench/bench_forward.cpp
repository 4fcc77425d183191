// Speed of the forward and backward pass and of Hessian updates in the shapes of SmolLM2-135M, beside OpenBLAS's sgemm
// in the same run. GFLOP/s counts processor time of all threads, so that it is a figure per core and holds on a busy
// machine; OPENBLAS_CORETYPE chooses OpenBLAS's kernels.
#include <benchmark/benchmark.h>
#include <cblas.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "backend/device.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/bf16_tiles.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace voronoi {
namespace {

constexpr std::int64_t kTokens = 2048, kHidden = 576, kIntermediate = 1536, kLayers = 30, kHeads = 9, kKvHeads = 3,
                       kHeadDim = 64, kVocab = 49152;

std::vector<float> random_floats(std::int64_t n, float deviation = 1.0F) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-deviation, deviation);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = uniform(engine);
  return values;
}

void set_flops(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void openblas_sgemm(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  openblas_set_num_threads(1);
  const std::vector<float> a = random_floats(m * k), b = random_floats(n * k);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  for (auto _ : state)
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
                1.0F, a.data(), static_cast<int>(k), b.data(), static_cast<int>(k), 0.0F, c.data(),
                static_cast<int>(n));
  state.SetLabel(openblas_get_corename());
  set_flops(state, 2.0 * static_cast<double>(m * n) * static_cast<double>(k));
}

void gemm_f32(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(3)));
  const std::vector<float> a = random_floats(m * k), b = random_floats(n * k);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  for (auto _ : state)
    context.linalg().gemm_f32(context.exec(), false, true, m, n, k, 1.0F, a.data(), k, b.data(), k, 0.0F, c.data(), n);
  set_flops(state, 2.0 * static_cast<double>(m * n) * static_cast<double>(k));
}

/// What a linear's output means for its input: [m, k] times W [k, n].
void gemm_f32_back(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(3)));
  const std::vector<float> a = random_floats(m * k), b = random_floats(n * k);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  for (auto _ : state)
    context.linalg().gemm_f32(context.exec(), false, false, m, n, k, 1.0F, a.data(), k, b.data(), n, 0.0F, c.data(), n);
  set_flops(state, 2.0 * static_cast<double>(m * n) * static_cast<double>(k));
}

/// range(3): the unit, of kernels::Bf16Unit.
void gemm_bf16(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto unit = static_cast<kernels::Bf16Unit>(state.range(3));
  if (!kernels::has_bf16_unit(unit)) return state.SkipWithError("not on this machine");
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> a = random_floats(m * k);
  std::vector<std::uint16_t> w;
  for (const float value : random_floats(n * k)) w.push_back(core::float_to_bfloat(value));
  std::vector<float> c(static_cast<std::size_t>(m * n));
  for (auto _ : state)
    kernels::cpu_bf16_product(
        context.exec(), {m, n, k, {a.data(), nullptr, k, true}, {nullptr, w.data(), k, true}, 0, c.data(), n}, unit);
  set_flops(state, 2.0 * static_cast<double>(m * n) * static_cast<double>(k));
}

#if defined(__x86_64__)
/// What the tile unit does at most: products of tiles that stay where they are.
__attribute__((target("amx-tile,amx-bf16"))) void multiply_in_place(std::int64_t steps) {
  for (std::int64_t s = 0; s < steps; ++s) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

void tile_peak(benchmark::State& state) {
  if (!kernels::has_tiles()) return state.SkipWithError("not on this machine");
  constexpr std::int64_t kSteps = 1 << 14;
  const kernels::TileScope scope;
  for (auto _ : state) multiply_in_place(kSteps);
  set_flops(state, 4.0 * 2 * static_cast<double>(kSteps * kernels::kBf16Tile * kernels::kBf16Depth));
}
BENCHMARK(tile_peak)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
#endif

void gram_bf16(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const auto unit = static_cast<kernels::Bf16Unit>(state.range(1));
  if (!kernels::has_bf16_unit(unit)) return state.SkipWithError("not on this machine");
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> x = random_floats(kTokens * n);
  std::vector<double> sum(static_cast<std::size_t>(n * (n + 1) / 2));
  for (auto _ : state) kernels::cpu_bf16_gram(context.exec(), kTokens, n, x.data(), n, sum.data(), unit);
  set_flops(state, static_cast<double>(n * (n + 1)) * static_cast<double>(kTokens));
}

void gram(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(1)));
  const std::vector<float> x = random_floats(kTokens * n);
  std::vector<double> sum(static_cast<std::size_t>(n * (n + 1) / 2));
  for (auto _ : state)
    context.linalg().gram_accumulate(context.exec(), kTokens, n, x.data(), n, core::DType::f32, sum.data());
  set_flops(state, static_cast<double>(n * (n + 1)) * static_cast<double>(kTokens));
}

void cholesky_and_inverse(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(1)));
  std::vector<double> matrix(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      matrix[static_cast<std::size_t>(i * n + j)] = i == j ? 2.0 : 1.0 / static_cast<double>(n + i - j);
  for (auto _ : state) {
    std::vector<double> l = matrix;
    if (context.linalg().cholesky_lower_f64(context.exec(), n, l.data(), n) != 0)
      state.SkipWithError("not positive definite");
    context.linalg().invert_lower_f64(context.exec(), n, l.data(), n);
    benchmark::DoNotOptimize(l.data());
  }
  set_flops(state, 2.0 / 3.0 * static_cast<double>(n) * static_cast<double>(n * n));
}

kernels::AttentionShape attention_shape() {
  kernels::AttentionShape shape{};
  shape.n_sequences = 1;
  shape.n_tokens = kTokens;
  shape.n_heads = kHeads;
  shape.n_kv_heads = kKvHeads;
  shape.head_dim = kHeadDim;
  shape.scale = 0.125F;
  shape.ld_q = shape.ld_out = kHeads * kHeadDim;
  shape.ld_kv = kKvHeads * kHeadDim;
  return shape;
}

/// Of the two products of attention, half of whose scores are masked.
constexpr double kAttentionFlops =
    2.0 * static_cast<double>(kTokens * kTokens) * static_cast<double>(kHeads * kHeadDim);

void attention(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const std::vector<float> q = random_floats(kTokens * kHeads * kHeadDim),
                           k = random_floats(kTokens * kKvHeads * kHeadDim);
  std::vector<float> out(q.size());
  const kernels::AttentionShape shape = attention_shape();
  for (auto _ : state) context.nn().attention(context.exec(), shape, q.data(), k.data(), k.data(), out.data());
  set_flops(state, kAttentionFlops);
}

void attention_gradient(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const std::vector<float> q = random_floats(kTokens * kHeads * kHeadDim),
                           k = random_floats(kTokens * kKvHeads * kHeadDim), d_out = q;
  std::vector<float> out(q.size()), dq(q.size()), dk(k.size()), dv(k.size());
  const kernels::AttentionShape shape = attention_shape();
  context.nn().attention(context.exec(), shape, q.data(), k.data(), k.data(), out.data());
  for (auto _ : state)
    context.nn_gradient().attention(context.exec(), shape, q.data(), k.data(), k.data(), out.data(), d_out.data(),
                                    dq.data(), dk.data(), dv.data(), nullptr);
  set_flops(state, 2.5 * kAttentionFlops);
}

void swiglu(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> gate = random_floats(kTokens * kIntermediate, 4.0F);
  std::vector<float> out(gate.size());
  for (auto _ : state)
    context.nn().swiglu(context.exec(), kTokens * kIntermediate, gate.data(), gate.data(), out.data());
}

void nll(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> logits = random_floats(256 * kVocab, 8.0F);
  const std::vector<std::int32_t> target(256);
  std::vector<double> result(256);
  for (auto _ : state)
    context.nn().nll(context.exec(), 256, kVocab, logits.data(), kVocab, target.data(), result.data());
}

/// Random weights in the shape of SmolLM2-135M; every layer holds the same ones.
class RandomSource : public model::WeightSource {
 public:
  RandomSource()
      : config_(model::parse_config({{"architectures", {"LlamaForCausalLM"}},
                                     {"model_type", "llama"},
                                     {"hidden_size", kHidden},
                                     {"intermediate_size", kIntermediate},
                                     {"num_hidden_layers", kLayers},
                                     {"num_attention_heads", kHeads},
                                     {"num_key_value_heads", kKvHeads},
                                     {"head_dim", kHeadDim},
                                     {"vocab_size", kVocab},
                                     {"max_position_embeddings", kTokens},
                                     {"rms_norm_eps", 1e-5},
                                     {"rope_theta", 1e5},
                                     {"tie_word_embeddings", true},
                                     {"torch_dtype", "float32"}},
                                    "random")),
        path_("random") {}
  const model::ModelConfig& config() const override { return config_; }
  void read(const model::TensorSpec&, std::span<float> out) const override {
    const std::vector<float> values = random_floats(static_cast<std::int64_t>(out.size()), 0.05F);
    std::copy(values.begin(), values.end(), out.begin());
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return path_; }

 private:
  model::ModelConfig config_;
  std::string path_;
};

/// Multiplications and additions of the linears (as the usual count of a forward pass has it, attention's own apart).
constexpr double kBlockFlops =
    2.0 * static_cast<double>(kTokens) *
    static_cast<double>(2 * kHidden * kHidden + 2 * kHidden * kKvHeads * kHeadDim + 3 * kHidden * kIntermediate);

void forward_block(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const RandomSource source;
  model::Transformer transformer(source, context);
  const model::BlockWeights block = transformer.load_block(0);
  const std::vector<std::int32_t> ids(kTokens, 7);
  model::HiddenStates hidden = transformer.embed(ids, 1, kTokens);
  for (auto _ : state) transformer.run_block(block, hidden);
  set_flops(state, kBlockFlops);
}

/// With the gradients of all weights, of a tape that the forward pass kept or with the block run again. Counted: two
/// products a linear and five of attention's; again: two more of those, and the linears but for the down projection.
void backward_block(benchmark::State& state) {
  const bool kept = state.range(1) != 0;
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const RandomSource source;
  model::Transformer transformer(source, context);
  const model::BlockWeights block = transformer.load_block(0);
  const std::vector<std::int32_t> ids(kTokens, 7);
  const model::HiddenStates hidden = transformer.embed(ids, 1, kTokens);
  model::HiddenStates gradient{1, kTokens, hidden.values.clone()}, passed{1, kTokens, hidden.values.clone()};
  model::BlockTape tape;
  if (kept) transformer.run_block(block, passed, nullptr, &tape);
  model::BlockGradients sums = transformer.make_gradients(block);
  std::vector<float> d_weight(static_cast<std::size_t>(kHidden * kIntermediate));
  const model::GradientObserver observer = [&](const model::SiteSpec& site, std::size_t, std::size_t i,
                                               std::int64_t n_rows, const float* x, const float* dy) {
    const std::int64_t n_out = site.linears[i].out_features, n_in = site.linears[i].in_features;
    context.linalg().gemm_f32(context.exec(), true, false, n_out, n_in, n_rows, 1.0F, dy, n_out, x, n_in, 1.0F,
                              d_weight.data(), n_in);
  };
  for (auto _ : state) {
    if (kept)
      transformer.backward_block(block, tape, gradient, &sums, observer);
    else
      transformer.backward_block(block, hidden, gradient, &sums, observer);
  }
  const double again =
      kBlockFlops - 2.0 * static_cast<double>(kTokens * kHidden) * static_cast<double>(kIntermediate) + kAttentionFlops;
  set_flops(state, 2 * kBlockFlops + 2.5 * kAttentionFlops + (kept ? 0 : again));
}

/// Of a window's loss by its hidden states: logits and their derivative, slab by slab.
void cross_entropy(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const RandomSource source;
  model::Transformer transformer(source, context);
  const std::vector<std::int32_t> ids(kTokens, 7);
  const model::HiddenStates hidden = transformer.embed(ids, 1, kTokens);
  for (auto _ : state) benchmark::DoNotOptimize(transformer.cross_entropy(hidden, ids, 1.0F));
  set_flops(state, 4.0 * static_cast<double>(kTokens * kHidden) * static_cast<double>(kVocab));
}

void divergence(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const RandomSource source;
  model::Transformer transformer(source, context);
  const std::vector<std::int32_t> ids(kTokens, 7);
  const model::HiddenStates hidden = transformer.embed(ids, 1, kTokens);
  for (auto _ : state) benchmark::DoNotOptimize(transformer.divergence(hidden, hidden, 1.0F));
  set_flops(state, 6.0 * static_cast<double>(kTokens * kHidden) * static_cast<double>(kVocab));
}

/// range(1): in bf16.
void forward_window_with_head(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const RandomSource source;
  model::Transformer transformer(source, context, state.range(1) != 0 ? core::DType::bf16 : core::DType::f32);
  const model::BlockWeights block = transformer.load_block(0);
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < kTokens; ++i) ids.push_back(i * 17 % static_cast<std::int32_t>(kVocab));
  for (auto _ : state) {
    model::HiddenStates hidden = transformer.embed(ids, 1, kTokens);
    for (std::int64_t layer = 0; layer < kLayers; ++layer) transformer.run_block(block, hidden);
    benchmark::DoNotOptimize(transformer.next_token_nll(hidden, ids));
  }
  set_flops(state, kLayers * kBlockFlops + 2.0 * static_cast<double>(kTokens * kHidden) * static_cast<double>(kVocab));
}

BENCHMARK(openblas_sgemm)
    ->Args({kTokens, 576, 576})
    ->Args({kTokens, 1536, 576})
    ->Args({kTokens, 576, 1536})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime();
BENCHMARK(gemm_f32)
    ->ArgsProduct({{kTokens}, {192, 576, 1536}, {576}, {1, 2}})
    ->Args({kTokens, 576, 1536, 1})
    ->Args({kTokens, 576, 1536, 2})
    ->Args({512, kVocab, 576, 1})
    ->Args({512, kVocab, 576, 2})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime();
BENCHMARK(gemm_f32_back)
    ->ArgsProduct({{kTokens}, {576}, {576, 1536}, {1, 2}})
    ->Args({512, 576, kVocab, 1})
    ->Args({512, 576, kVocab, 2})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime();
// Units of bf16: 0 tiles, 1 vectors, 2 by comparisons.
BENCHMARK(gemm_bf16)
    ->ArgsProduct({{kTokens}, {192, 576, 1536}, {576}, {0, 1}})
    ->Args({kTokens, 576, 1536, 0})
    ->Args({kTokens, 576, 1536, 1})
    ->Args({512, kVocab, 576, 0})
    ->Args({512, kVocab, 576, 1})
    ->Args({1, 1536, 576, 0})
    ->Args({1024, 4096, 4096, 0})
    ->Args({1024, 4096, 4096, 1})
    ->Args({1024, 4096, 4096, 2})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime();
BENCHMARK(gram_bf16)->ArgsProduct({{576, 1536}, {0, 1}})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(gram)->ArgsProduct({{576, 1536}, {1, 2}})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(cholesky_and_inverse)
    ->ArgsProduct({{576, 1536}, {1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime();
BENCHMARK(attention)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(attention_gradient)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(swiglu)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(nll)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(forward_block)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(backward_block)->ArgsProduct({{1, 2}, {0, 1}})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(cross_entropy)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(divergence)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
BENCHMARK(forward_window_with_head)
    ->ArgsProduct({{1, 2}, {0, 1}})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime();

}  // namespace
}  // namespace voronoi

BENCHMARK_MAIN();
