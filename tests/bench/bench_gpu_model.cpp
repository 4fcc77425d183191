// What inference and calibration do: products straight from packed indices, decoding, the forward pass of a block.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/bench_gpu.h"
#include "calib/footprint.h"
#include "core/random.h"
#include "model/transformer.h"
#include "planning/model_sizes.h"
#include "support/random_packed.h"

namespace voronoi::bench {
namespace {

constexpr double kGemvTarget = 0.7;

struct Setting {
  double bits;
  std::int64_t v;
  int main_bits, residual_bits;
};
constexpr Setting kSettings[] = {{2, 6, 12, 0}, {2, 8, 16, 0}, {3, 8, 16, 8}, {4, 8, 16, 16}};

/// One decoder block of a known model with random weights.
class RandomBlock : public model::WeightSource {
 public:
  RandomBlock(const std::string& model, bool tiny) : config_(planning::read_model_config(model)), path_(model) {
    config_.n_layers = 1;
    config_.window.resize(1);
    config_.chunk.resize(1);
    config_.layer_rope.resize(1);
    config_.vocab_size = 256;  // embedding and head are no part of a block
    if (tiny) {
      config_.hidden_size = config_.n_heads = config_.n_heads / 8;
      config_.n_kv_heads = config_.n_kv_heads / 8;
      config_.head_dim = config_.n_turned = 8;
      config_.hidden_size *= config_.head_dim;
      config_.intermediate_size /= 512;
    }
    const core::CounterRandom random(0, 1);
    for (std::size_t i = 0; i < pool_.size(); ++i) pool_[i] = static_cast<float>(0.04 * (random.uniform(i) - 0.5));
  }
  const model::ModelConfig& config() const override { return config_; }
  void read(const model::TensorSpec&, std::span<float> out) const override {
    for (std::size_t begin = 0; begin < out.size(); begin += pool_.size())
      std::copy_n(pool_.begin(), std::min(pool_.size(), out.size() - begin),
                  out.begin() + static_cast<std::ptrdiff_t>(begin));
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return path_; }

 private:
  model::ModelConfig config_;
  std::string path_;
  std::vector<float> pool_ = std::vector<float>(1 << 20);
};

}  // namespace

namespace {

/// Product for one token and decoding of a linear, by what they read and write.
void measure_packed(Bench& bench, const format::Encoding& encoding, double bits, const std::string& what) {
  backend::Context& context = bench.context();
  // Several copies in turn: one of 2 bits would stay in an H100's cache of 50 MB for the most part.
  std::vector<std::unique_ptr<format::PackedMatrix>> copies(bench.tiny() ? 1 : 4);
  for (auto& copy : copies) copy = encoding.format->upload(context, encoding);
  const auto packed_bytes = static_cast<double>(copies.front()->size_bytes());
  const std::int64_t n_weights = encoding.out_features * encoding.in_features;
  const std::string text = fmt::format("{}, {}", shape_text(encoding.out_features, encoding.in_features), what);
  std::size_t turn = 0;
  const auto next = [&]() -> const format::PackedMatrix& { return *copies[turn++ % copies.size()]; };
  {
    const backend::Array<float> x = bench.values(encoding.in_features);
    backend::Array<float> out(context, encoding.out_features);
    bench.measure({"gemv", fmt::format("GEMV at {:g} bits", bits), text, Unit::bytes, packed_bytes, kCopy, kGemvTarget},
                  [&] { next().multiply(context, 1, x.data(), false, out.data()); });
  }
  backend::Array<std::uint16_t> weight(context, n_weights);
  bench.measure({"gemv", fmt::format("dequantization at {:g} bits", bits), text, Unit::bytes,
                 packed_bytes + 2 * static_cast<double>(n_weights), kCopy},
                [&] { next().decode_16(context, weight.data()); });
}

}  // namespace

void measure_gemv(Bench& bench) {
  const std::int64_t out_features = bench.size(8192, 50), in_features = bench.size(28672, 72);
  for (const Setting& setting : kSettings) {
    test::PackedShape shape;
    shape.out_features = out_features;
    shape.in_features = in_features;
    shape.v = setting.v;
    shape.main_bits = bench.tiny() ? setting.main_bits / 2 : setting.main_bits;
    shape.residual_bits = bench.tiny() ? setting.residual_bits / 2 : setting.residual_bits;
    shape.permuted = true;
    shape.dtype = core::DType::bf16;
    measure_packed(bench, test::random_packed(shape), setting.bits,
                   fmt::format("v {}, {} + {} bits of index", shape.v, shape.main_bits, shape.residual_bits));
  }
  for (const int bits : {2, 3, 4}) {
    const test::UniformShape shape{out_features, in_features, bits, bench.tiny() ? 16 : 64, false, core::DType::bf16};
    measure_packed(bench, test::random_packed(shape), bits, fmt::format("uniform, groups of {}", shape.group_size));
  }
}

void measure_forward(Bench& bench) {
  backend::Context& context = bench.context();
  const RandomBlock source("llama-3.1-70b", bench.tiny());
  const std::int64_t sequences = bench.size(8, 2), tokens = bench.size(4096, 12);
  model::Transformer transformer(source, context, core::DType::bf16);
  const model::BlockWeights block = transformer.load_block(0);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < sequences * tokens; ++i) ids.push_back(static_cast<std::int32_t>(i * 17 % 256));
  const model::HiddenStates embedded = transformer.embed(ids, sequences, tokens);
  model::HiddenStates hidden{sequences, tokens, embedded.values.clone()};
  bench.measure(
      {"forward", "block forward, Llama-3-70B",
       fmt::format("{} tokens of {}, bf16", shape_text(sequences, tokens), source.config().hidden_size),
       Unit::operations, calib::block_work(source.config(), 0, sequences, tokens).gemm, kBf16},
      [&] { transformer.run_block(block, hidden); },
      [&] {
        context.memory().copy_on_device(context.exec(), embedded.values.data(), 4 * embedded.values.size(),
                                        hidden.values.data());
      });
}

}  // namespace voronoi::bench
