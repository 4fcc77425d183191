// A model's whole backward pass, and what it gives by the name of each parameter.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/device.h"
#include "model/block_norms.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace voronoi::test {

/// sum of s x x^T over the rows x of a linear's input, s the mean square of the row's gradient at its outputs.
struct WeightedMoment {
  std::int64_t dim = 0, n_outputs = 0, n_rows = 0;
  double sum_s = 0;
  std::vector<double> sum;  ///< [dim, dim]
};

struct ModelGradients {
  std::vector<double> loss;                       ///< of each position
  std::map<std::string, std::vector<double>> by;  ///< by parameter
  std::vector<std::vector<float>> input;          ///< [block]: by what enters it; the last one by what enters the norm
  std::map<std::string, WeightedMoment> moments;  ///< by linear
  std::map<std::string, std::int64_t> n_calls;    ///< of the observer, by linear
  std::vector<std::vector<float>> bits;           ///< all that came out in fp32, in a fixed order

  double loss_sum() const { return std::accumulate(loss.begin(), loss.end(), 0.0); }
};

/// A model with all its blocks loaded.
class DifferentiableModel {
 public:
  DifferentiableModel(const model::WeightSource& source, int n_threads, core::DType dtype = core::DType::f32)
      : context(backend::Device::cpu, n_threads), transformer(source, context, dtype) {
    for (std::int64_t layer = 0; layer < transformer.config().n_layers; ++layer)
      blocks.push_back(transformer.load_block(layer));
  }

  /// Hidden states that enter each block, and those that leave the last.
  std::vector<model::HiddenStates> streams(const std::vector<std::int32_t>& ids, std::int64_t n_sequences,
                                           std::vector<model::BlockTape>* tapes = nullptr) {
    std::vector<model::HiddenStates> result;
    result.push_back(transformer.embed(ids, n_sequences, static_cast<std::int64_t>(ids.size()) / n_sequences));
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const model::HiddenStates& entered = result.back();
      result.push_back({entered.n_sequences, entered.n_tokens, entered.values.clone()});
      transformer.run_block(blocks[i], result.back(), nullptr, tapes == nullptr ? nullptr : &(*tapes)[i]);
    }
    return result;
  }

  /// Cross-entropy, or with a teacher's last hidden states the divergence from them; times factor.
  model::Transformer::LossGradient loss(const model::HiddenStates& last, const std::vector<std::int32_t>& ids,
                                        float factor, const model::HiddenStates* teacher, bool with_head) {
    if (teacher == nullptr) return transformer.cross_entropy(last, ids, factor, nullptr, with_head);
    return transformer.divergence(last, *teacher, factor, nullptr, with_head);
  }

  /// kept: from tapes of the forward pass.
  ModelGradients gradients(const std::vector<std::int32_t>& ids, std::int64_t n_sequences, float factor,
                           const model::HiddenStates* teacher = nullptr, bool kept = false) {
    const model::ModelConfig& config = transformer.config();
    std::vector<model::BlockTape> tapes(kept ? blocks.size() : 0);
    const std::vector<model::HiddenStates> entered = streams(ids, n_sequences, kept ? &tapes : nullptr);
    model::Transformer::LossGradient last = loss(entered.back(), ids, factor, teacher, true);
    ModelGradients result;
    result.loss = std::move(last.loss);
    keep(result, "model.norm.weight", last.norm);
    result.input.push_back(last.hidden.values.to_host());
    for (std::size_t i = blocks.size(); i-- > 0;) {
      model::BlockGradients sums = transformer.make_gradients(blocks[i]);
      const model::GradientObserver observer = [&](const model::SiteSpec& site, std::size_t, std::size_t linear,
                                                   std::int64_t n_rows, const float* x, const float* dy) {
        observe(result, site.linears[linear], n_rows, x, dy, static_cast<double>(factor));
      };
      if (kept)
        transformer.backward_block(blocks[i], tapes[i], last.hidden, &sums, observer);
      else
        transformer.backward_block(blocks[i], entered[i], last.hidden, &sums, observer);
      keep_block(result, blocks[i].layer, sums);
      result.input.insert(result.input.begin(), last.hidden.values.to_host());
    }
    const std::string head = config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    if (config.tied_embeddings) {
      transformer.add_embedding_gradient(ids, last.hidden, last.head);
    } else {
      backend::Array<float> table(context, config.vocab_size * config.hidden_size);
      table.zero();
      transformer.add_embedding_gradient(ids, last.hidden, table);
      keep(result, "model.embed_tokens.weight", table);
    }
    keep(result, head, last.head);
    result.bits.insert(result.bits.end(), result.input.begin(), result.input.end());
    return result;
  }

  backend::Context context;
  model::Transformer transformer;
  std::vector<model::BlockWeights> blocks;

 private:
  static void keep(ModelGradients& result, const std::string& name, const backend::Array<float>& values) {
    if (values.empty()) return;
    result.bits.push_back(values.to_host());
    result.by[name].assign(result.bits.back().begin(), result.bits.back().end());
  }

  void keep_block(ModelGradients& result, std::int64_t layer, const model::BlockGradients& sums) const {
    const model::ModelConfig& config = transformer.config();
    const auto keep_one = [&](const std::string& name, const backend::Array<float>& values) {
      keep(result, name, values);
    };
    model::for_each_norm(config, layer, sums, keep_one);
    model::for_each_small(config, layer, sums,
                          [&](const std::string& name, const auto&, const auto& values) { keep_one(name, values); });
    const std::vector<model::SiteSpec> sites = model::block_sites(config, layer);
    for (std::size_t site = 0; site < sites.size(); ++site)
      for (std::size_t i = 0; i < sites[site].linears.size(); ++i)
        keep(result, sites[site].linears[i].name + ".bias", sums.biases[site][i]);
  }

  static void observe(ModelGradients& result, const model::LinearSpec& linear, std::int64_t n_rows, const float* x,
                      const float* dy, double factor) {
    std::vector<double>& weight = result.by[linear.name + ".weight"];
    const auto n_in = static_cast<std::size_t>(linear.in_features),
               n_out = static_cast<std::size_t>(linear.out_features), rows = static_cast<std::size_t>(n_rows);
    weight.resize(n_in * n_out);
    WeightedMoment& moment = result.moments[linear.name];
    moment.dim = linear.in_features;
    moment.n_outputs = linear.out_features;
    moment.n_rows += n_rows;
    moment.sum.resize(n_in * n_in);
    ++result.n_calls[linear.name];
    result.bits.emplace_back(dy, dy + rows * n_out);
    result.bits.emplace_back(x, x + rows * n_in);
    for (std::size_t r = 0; r < rows; ++r, x += n_in, dy += n_out) {
      double square = 0;
      for (std::size_t o = 0; o < n_out; ++o) {
        const double d = static_cast<double>(dy[o]);
        square += d * d / (factor * factor);
        for (std::size_t i = 0; i < n_in; ++i) weight[o * n_in + i] += d * static_cast<double>(x[i]);
      }
      square /= static_cast<double>(n_out);
      moment.sum_s += square;
      for (std::size_t i = 0; i < n_in; ++i)
        for (std::size_t j = 0; j < n_in; ++j)
          moment.sum[i * n_in + j] += square * static_cast<double>(x[i]) * static_cast<double>(x[j]);
    }
  }
};

}  // namespace voronoi::test
