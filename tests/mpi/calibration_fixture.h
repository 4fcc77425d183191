// Hessians of small models of every kind of block, by any number of ranks.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "calib/collector.h"
#include "calib/weight_limit.h"
#include "core/json.h"
#include "model/weights.h"
#include "support/data.h"
#include "support/tiny_models.h"

namespace voronoi::calib {

/// E[x x^T] by its packed lower triangle.
inline double entry(const SiteHessian& hessian, std::int64_t row, std::int64_t column) {
  return static_cast<double>(hessian.lower[static_cast<std::size_t>(row * (row + 1) / 2 + column)]);
}

inline double trace(const SiteHessian& hessian) {
  double sum = 0;
  for (std::int64_t i = 0; i < hessian.n; ++i) sum += entry(hessian, i, i);
  return sum;
}

class TinyRandom : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = test::tiny_folder(GetParam());
    VORONOI_NEEDS_DATA(folder_ + "/golden.json");
    std::ifstream stream(test::data_path(folder_ + "/golden.json"));
    golden_ = core::Json::parse(stream);
    source_ = model::open_model(test::data_path(folder_));
    transformer_ = std::make_unique<model::Transformer>(*source_, context_);
  }

  model::Windows first_sequence(std::size_t n_tokens = 40) const {
    std::vector<std::int32_t> ids = golden_.at("sequences").at(0).at("ids");
    ids.resize(n_tokens);
    return {1, static_cast<std::int64_t>(n_tokens), ids};
  }

  model::Windows many_windows() const {
    const std::int64_t vocab = source_->config().vocab_size;
    model::Windows windows{13, 24, {}};
    for (std::int64_t i = 0; i < 13 * 24; ++i)
      windows.ids.push_back(static_cast<std::int32_t>((i * i * 7 + i / 5) % vocab));
    return windows;
  }

  /// Hessians of blocks 0 and 1 as this communicator's ranks own them, by "block site".
  std::map<std::string, SiteHessian> collect(const comm::Communicator& communicator, const model::Windows& windows,
                                             std::int64_t hessian_bytes = kHessianBytes) {
    Collector::Options options;
    options.hessian_bytes = hessian_bytes;
    return collect(communicator, windows, options);
  }
  std::map<std::string, SiteHessian> collect(const comm::Communicator& communicator, const model::Windows& windows,
                                             const Collector::Options& options) {
    ResidualStream stream(*transformer_, context_, communicator, windows);
    Collector collector(*transformer_, context_, communicator, stream, options);
    std::map<std::string, SiteHessian> all;
    for (std::int64_t block = 0; block < std::min<std::int64_t>(2, source_->config().n_layers); ++block)
      for (SiteHessian& hessian : collector.collect(transformer_->load_block(block), block == 0))
        EXPECT_TRUE(all.emplace(std::to_string(block) + " " + hessian.site, std::move(hessian)).second);
    return all;
  }

  void expect_part_of(const std::map<std::string, SiteHessian>& mine, const std::map<std::string, SiteHessian>& whole) {
    for (const auto& [name, hessian] : mine) {
      ASSERT_TRUE(whole.contains(name)) << name;
      const SiteHessian& other = whole.at(name);
      EXPECT_EQ(hessian.n_tokens, other.n_tokens) << name;
      EXPECT_EQ(hessian.pooled_tokens, other.pooled_tokens) << name;
      EXPECT_EQ(hessian.lower, other.lower) << name;
      EXPECT_EQ(hessian.held_out_tokens, other.held_out_tokens) << name;
      EXPECT_EQ(hessian.held_out, other.held_out) << name;
      EXPECT_EQ(hessian.cross, other.cross) << name;
      EXPECT_EQ(hessian.held_out_cross, other.held_out_cross) << name;
      ASSERT_EQ(hessian.guided.size(), other.guided.size()) << name;
      for (std::size_t i = 0; i < hessian.guided.size(); ++i) {
        EXPECT_EQ(hessian.guided[i].linear, other.guided[i].linear);
        EXPECT_EQ(hessian.guided[i].group, other.guided[i].group);
        EXPECT_EQ(hessian.guided[i].lower, other.guided[i].lower) << hessian.guided[i].linear;
        EXPECT_EQ(hessian.guided[i].held_out, other.guided[i].held_out) << hessian.guided[i].linear;
        EXPECT_EQ(hessian.guided[i].effective_tokens, other.guided[i].effective_tokens) << hessian.guided[i].linear;
        EXPECT_EQ(hessian.guided[i].cross, other.guided[i].cross) << hessian.guided[i].linear;
        EXPECT_EQ(hessian.guided[i].held_out_cross, other.guided[i].held_out_cross) << hessian.guided[i].linear;
      }
    }
  }

  TokenWeights weigh(const comm::Communicator& communicator, const model::Windows& windows,
                     const TokenWeights::Shelf& shelf = {}, std::int64_t row_groups = 1) {
    return TokenWeights(
        *transformer_, context_, communicator, windows, shelf, nullptr, [](std::int64_t, std::int64_t) {}, row_groups);
  }

  /// Of every linear of blocks 0 and 1, and group of its outputs: the sum over all rows of s x x^T, packed, s the
  /// limited mean(dy^2) over the group, by the pairs (x, dy) of one backward pass.
  using GroupOfLinear = std::pair<std::string, std::int64_t>;
  std::map<GroupOfLinear, std::vector<double>> guided_sums(const model::Windows& windows, std::int64_t row_groups) {
    const model::ModelConfig& config = source_->config();
    std::vector<model::HiddenStates> entered;
    model::HiddenStates hidden = transformer_->embed(windows.ids, windows.count, windows.context);
    for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
      entered.push_back({hidden.n_sequences, hidden.n_tokens, hidden.values.clone()});
      transformer_->run_block(transformer_->load_block(layer), hidden);
    }
    model::HiddenStates gradient = transformer_->cross_entropy(hidden, windows.ids, 1.0F).hidden;
    std::map<GroupOfLinear, GuidedRows> rows;
    for (std::int64_t layer = config.n_layers - 1; layer >= 0; --layer)
      transformer_->backward_block(
          transformer_->load_block(layer), entered[static_cast<std::size_t>(layer)], gradient, nullptr,
          [&](const model::SiteSpec& site, std::size_t, std::size_t i, std::int64_t n_rows, const float* x,
              const float* dy) {
            // In units of 16 rows, as equal as can be.
            const std::int64_t units = (site.linears[i].out_features + 15) / 16, groups = std::min(units, row_groups);
            for (std::int64_t group = 0; layer < 2 && group < groups; ++group)
              add_guided(site, i, n_rows, x, dy, units * group / groups * 16, units * (group + 1) / groups * 16,
                         rows[{site.linears[i].name, group}]);
          });
    std::map<GroupOfLinear, std::vector<double>> sums;
    for (const auto& [name, of_group] : rows) sums[name] = sum_of(of_group);
    return sums;
  }

  /// Collected ones against guided_sums.
  void expect_guided(std::int64_t row_groups) {
    const model::Windows windows = many_windows();
    const TokenWeights weights = weigh(alone(), windows, {}, row_groups);
    Collector::Options options;
    options.token_weights = &weights;
    const auto direct = guided_sums(windows, row_groups);
    std::size_t n_checked = 0;
    for (const auto& [name, hessian] : collect(alone(), windows, options)) {
      if (hessian.pooled_tokens > 0) {
        EXPECT_TRUE(hessian.guided.empty()) << name;
        continue;
      }
      for (const GuidedHessian& guided : hessian.guided) {
        ++n_checked;
        const std::vector<double>& expected = direct.at({guided.linear, guided.group});
        double squares = 0, difference = 0;
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const double mean = expected[i] / static_cast<double>(hessian.n_tokens);
          squares += mean * mean;
          difference += std::pow(mean - static_cast<double>(guided.lower[i]), 2);
        }
        EXPECT_GT(squares, 0) << guided.linear;
        EXPECT_LT(std::sqrt(difference / squares), 1e-5) << guided.linear;
        EXPECT_GE(guided.effective_tokens, 1 - 1e-9) << guided.linear;
        EXPECT_LE(guided.effective_tokens, static_cast<double>(hessian.n_tokens)) << guided.linear;
      }
    }
    EXPECT_GE(n_checked, 4 * static_cast<std::size_t>(row_groups));
  }

  struct GuidedRows {
    std::int64_t n = 0;
    std::vector<float> weights, x;
  };

  static void add_guided(const model::SiteSpec& site, std::size_t i, std::int64_t n_rows, const float* x,
                         const float* dy, std::int64_t first, std::int64_t last, GuidedRows& rows) {
    const std::int64_t n_out = site.linears[i].out_features;
    last = std::min(last, n_out);
    rows.n = site.in_features;
    rows.x.insert(rows.x.end(), x, x + n_rows * rows.n);
    for (std::int64_t row = 0; row < n_rows; ++row) {
      double weight = 0;
      for (std::int64_t j = first; j < last; ++j) weight += std::pow(static_cast<double>(dy[row * n_out + j]), 2);
      rows.weights.push_back(static_cast<float>(weight / static_cast<double>(last - first)));
    }
  }

  static std::vector<double> sum_of(const GuidedRows& rows) {
    std::vector<double> sum(static_cast<std::size_t>(rows.n * (rows.n + 1) / 2));
    WeightCounts counts;
    counts.add(rows.weights);
    const WeightLimit limit = counts.limit(wanted_rows(rows.n, std::ssize(rows.weights)));
    const float* x = rows.x.data();
    for (const float weight : rows.weights) {
      std::size_t at = 0;
      for (std::int64_t a = 0; a < rows.n; ++a)
        for (std::int64_t b = 0; b <= a; ++b)
          sum[at++] += static_cast<double>(limit.of(weight)) * static_cast<double>(x[a]) * static_cast<double>(x[b]);
      x += rows.n;
    }
    return sum;
  }

  /// This rank alone.
  comm::Communicator alone() const {
    const std::array<int, 1> mine{world_.rank()};
    return world_.subgroup(mine, 3);
  }

  comm::Communicator world_ = comm::Communicator::world();
  backend::Context context_{backend::Device::cpu, 2};
  std::string folder_;
  core::Json golden_;
  std::unique_ptr<model::WeightSource> source_;
  std::unique_ptr<model::Transformer> transformer_;
};

}  // namespace voronoi::calib
