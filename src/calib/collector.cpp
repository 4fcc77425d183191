#include "calib/collector.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <compare>
#include <cstring>
#include <functional>
#include <utility>

#include "calib/footprint.h"
#include "calib/row_groups.h"
#include "core/error_context.h"
#include "core/log.h"
#include "core/types.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kStarvedShare = 4;

/// Where a rank met its first fault in a block, as it is sent.
struct FaultPlace {
  std::int64_t site = 0, chunk = 0;
  auto operator<=>(const FaultPlace&) const = default;
};

}  // namespace

bool is_starved(const model::SiteSpec& site, std::int64_t n_tokens) {
  return site.expert >= 0 && kStarvedShare * n_tokens < site.in_features;
}

std::span<const GuidedHessian> SiteHessian::guided_for(const std::string& linear) const {
  const auto is_of_it = [&](const GuidedHessian& candidate) { return candidate.linear == linear; };
  const auto first = std::find_if(guided.begin(), guided.end(), is_of_it);
  return {first, std::find_if_not(first, guided.end(), is_of_it)};
}

void SiteHessian::drop_held_out() {
  held_out = std::vector<float>();
  for (GuidedHessian& linear : guided) linear.held_out = std::vector<float>();
}

void SiteHessian::drop_moments() {
  const auto drop = [](auto& of) {
    for (std::vector<float>* values : {&of.lower, &of.held_out, &of.cross, &of.held_out_cross})
      *values = std::vector<float>();
  };
  drop(*this);
  for (GuidedHessian& linear : guided) drop(linear);
}

Collector::Collector(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
                     ResidualStream& stream, const Options& options)
    : transformer_(transformer),
      context_(context),
      communicator_(communicator),
      stream_(stream),
      rank_sums_(context, communicator),
      options_(options) {
  transformer_.observe_all_experts(options.all_experts);
}

std::vector<PassSites> divide_into_passes(const std::vector<model::SiteSpec>& sites,
                                          std::span<const std::int64_t> n_sums, std::int64_t chunks_a_rank,
                                          bool held_out, bool cross, std::int64_t hessian_bytes) {
  // A tree over a run of chunks holds about one node of each level at once, the chunk at work among them. At n = 28672
  // (down_proj of a 70 B model) a node is 3.3 GB: 8 chunks a rank take 13 GB, 64 take 23 GB. One over the chunks that
  // are held out grows beside it.
  const auto n_nodes =
      static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(chunks_a_rank))) + (held_out ? 1 : 0);
  std::vector<PassSites> passes(1);
  std::int64_t spent = 0;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const std::int64_t n = sites[i].in_features;
    const std::int64_t size_bytes = n_sums[i] * static_cast<std::int64_t>(sizeof(double)) * n_nodes *
                                    (HessianTree::packed_size(n) + (cross ? n * n : 0));
    if (i > passes.back().first && spent + size_bytes > hessian_bytes) {
      passes.push_back({i, i});
      spent = 0;
    }
    spent += size_bytes;
    passes.back().last = i + 1;
  }
  return passes;
}

std::vector<Collector::Pass> Collector::passes(const std::vector<model::SiteSpec>& sites) const {
  std::vector<std::vector<Target>> targets;
  std::vector<std::int64_t> n_sums;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    targets.push_back({{i, {}, 0}});
    const bool is_weighed = options_.token_weights != nullptr &&
                            (sites[i].expert < 0 || (options_.is_weighed_stream && !options_.all_experts));
    for (std::size_t j = 0; is_weighed && j < sites[i].linears.size(); ++j) {
      const std::int64_t n = n_row_groups(sites[i].linears[j].out_features, options_.token_weights->row_groups());
      for (std::int64_t group = 0; group < n; ++group) targets.back().push_back({i, j, group});
    }
    n_sums.push_back(std::ssize(targets.back()));
  }
  std::vector<Pass> passes;
  for (const PassSites& range : divide_into_passes(
           sites, n_sums, core::ceil_div(std::int64_t{stream_.n_chunks()}, std::int64_t{communicator_.size()}),
           options_.held_out_share > 0, options_.original != nullptr, options_.hessian_bytes)) {
    Pass& pass = passes.emplace_back(Pass{range.first, range.last, {}});
    for (std::size_t i = range.first; i < range.last; ++i)
      pass.targets.insert(pass.targets.end(), targets[i].begin(), targets[i].end());
  }
  return passes;
}

int Collector::owner(std::int64_t layer, std::size_t n_sites, std::size_t site) const {
  return static_cast<int>((layer * static_cast<std::int64_t>(n_sites) + static_cast<std::int64_t>(site)) %
                          communicator_.size());
}

std::vector<SiteHessian> Collector::collect(const model::BlockWeights& weights, bool advance) {
  const std::vector<model::SiteSpec> sites = model::block_sites(transformer_.config(), weights.layer);
  std::vector<SiteHessian> owned;
  for (const Pass& pass : passes(sites)) run_pass(weights, sites, pass, advance && pass.last == sites.size(), owned);
  if (first_fault_.empty()) agree_on_fault();
  expert_tokens_.clear();
  if (model::is_mixture(transformer_.config(), weights.layer)) pool_starved(weights.layer, sites, owned);
  for (SiteHessian& site : owned)
    if (site.n_tokens == 0 && site.pooled_tokens == 0)
      site.fault = "no calibration row gives it usable inputs; the first one that is not: " + first_fault_;
  return owned;
}

void Collector::run_pass(const model::BlockWeights& weights, const std::vector<model::SiteSpec>& sites,
                         const Pass& pass, bool advance, std::vector<SiteHessian>& owned) {
  TreeNodes nodes;
  if (!stream_.chunks().empty())
    nodes = most_nodes(stream_.chunks().front().id, std::ssize(stream_.chunks()), options_.held_out_share);
  std::vector<SiteSum> sums;
  for (const Target& target : pass.targets)
    core::with_context<core::DeviceError>(
        "block " + std::to_string(weights.layer) + ", Hessian of " + sites[target.site].name, [&] {
          sums.emplace_back(context_, sites[target.site].in_features, transformer_.dtype(),
                            options_.original != nullptr);
          sums.back().reserve(nodes.summed, nodes.held_out);
        });
  std::optional<PairedInputs> pairs;
  if (options_.original != nullptr)
    pairs.emplace(context_, sites, pass.first, pass.last, transformer_.dtype(),
                  transformer_.config().mixture.weighs_input);
  stream_.each_chunk([&](std::size_t i) {
    if (pairs) record_original(weights, i, pass.last == sites.size(), *pairs);
    const model::HiddenStates hidden = sum_chunk(weights, sites, i, pass, pairs ? &*pairs : nullptr, sums);
    if (advance) stream_.replace(i, hidden);
  });

  pairs.reset();
  for (std::size_t t = 0; t < pass.targets.size(); ++t) {
    const Target& target = pass.targets[t];
    const int root = owner(weights.layer, sites.size(), target.site);
    if (!target.linear && communicator_.rank() == root) {
      SiteHessian& hessian = owned.emplace_back();
      hessian.site = sites[target.site].name;
      hessian.n = sites[target.site].in_features;
    }
    sum_over_ranks(sums[t], target, sites, root, owned);
    sums[t].release_trees();
  }
}

void Collector::sum_over_ranks(SiteSum& sum, const Target& target, const std::vector<model::SiteSpec>& sites, int root,
                               std::vector<SiteHessian>& owned) {
  TreeMean mean = rank_sums_.mean(sum.tree(), root), held_out = rank_sums_.mean(sum.held_out(), root);
  const std::int64_t n_tokens = HessianTree::n_tokens(mean.counts),
                     held_out_tokens = HessianTree::n_tokens(held_out.counts);
  std::vector<float> cross, held_out_cross;
  if (options_.original != nullptr) {
    cross = rank_sums_.mean(sum.cross(), n_tokens, root).values;
    held_out_cross = rank_sums_.mean(sum.held_out_cross(), held_out_tokens, root).values;
  }
  if (communicator_.rank() != root) return;
  SiteHessian& hessian = owned.back();
  if (!target.linear) {
    hessian.n_tokens = n_tokens;
    hessian.n_left_out = HessianTree::n_left_out(mean.counts) + HessianTree::n_left_out(held_out.counts);
    hessian.lower = std::move(mean.values);
    hessian.held_out_tokens = held_out_tokens;
    if (held_out_tokens > 0) {
      hessian.held_out = std::move(held_out.values);
      hessian.held_out_cross = std::move(held_out_cross);
    }
    hessian.cross = std::move(cross);
    return;
  }
  GuidedHessian& guided = hessian.guided.emplace_back();
  guided.linear = sites[target.site].linears[*target.linear].name;
  guided.group = target.group;
  guided.effective_tokens = mean.weights.effective_rows();
  if (held_out.weights.effective_rows() > 0) guided.held_out = std::move(held_out.values);
  if (guided.effective_tokens <= 0) return;
  guided.lower = std::move(mean.values);
  guided.cross = std::move(cross);
  if (!guided.held_out.empty()) guided.held_out_cross = std::move(held_out_cross);
}

void Collector::record_original(const model::BlockWeights& weights, std::size_t index, bool advance,
                                PairedInputs& pairs) {
  const Chunk& chunk = options_.original->chunks()[index];
  model::HiddenStates hidden{chunk.hidden.n_sequences, chunk.hidden.n_tokens, chunk.hidden.values.clone()};
  pairs.start();
  transformer_.run_block(weights, hidden,
                         [&](const model::SiteSpec&, std::size_t site, const float* x, std::int64_t n_rows,
                             std::span<const std::int32_t> places) { pairs.record(site, x, n_rows, places); });
  if (advance) options_.original->replace(index, hidden);
}

model::HiddenStates Collector::sum_chunk(const model::BlockWeights& weights, const std::vector<model::SiteSpec>& sites,
                                         std::size_t index, const Pass& pass, PairedInputs* pairs,
                                         std::vector<SiteSum>& sums) {
  using Adding = void (SiteSum::*)(const float*, std::int64_t, const PairedRows*);
  const Chunk& chunk = stream_.chunks()[index];
  const bool held_out = is_held_out(chunk.id, options_.held_out_share);
  std::vector<bool> wanted(sums.size(), true);
  // On a copy: where a sum turns out to be unsound, the chunk is run again and its rows are looked at one by one.
  const auto run = [&](Adding add) {
    model::HiddenStates hidden{chunk.hidden.n_sequences, chunk.hidden.n_tokens, chunk.hidden.values.clone()};
    for (std::size_t t = 0; t < sums.size(); ++t) {
      if (!wanted[t]) continue;
      const Target& target = pass.targets[t];
      if (target.linear) {
        const auto counts = options_.token_weights->of(index, weights.layer, target.site, *target.linear, target.group);
        sums[t].start(held_out, &counts);
      } else {
        sums[t].start(held_out);
      }
    }
    if (pairs != nullptr) pairs->rewind();
    transformer_.run_block(weights, hidden,
                           [&](const model::SiteSpec&, std::size_t site, const float* x, std::int64_t n_rows,
                               std::span<const std::int32_t> places) {
                             if (site < pass.first || site >= pass.last) return;
                             std::optional<PairedRows> rows;
                             if (pairs != nullptr) rows = pairs->next(site, n_rows, places);
                             for (std::size_t t = 0; t < sums.size(); ++t)
                               if (pass.targets[t].site == site && wanted[t])
                                 (sums[t].*add)(x, n_rows, rows ? &*rows : nullptr);
                           });
    return hidden;
  };
  model::HiddenStates hidden = run(&SiteSum::add);
  // A row that is too large for the site is none for its linears either, however little it counts there.
  bool site_is_sound = true;
  for (std::size_t t = 0; t < sums.size(); ++t) {
    if (!pass.targets[t].linear) site_is_sound = sums[t].sound();
    wanted[t] = !site_is_sound;
  }
  if (std::find(wanted.begin(), wanted.end(), true) != wanted.end()) {
    run(&SiteSum::add_sound_rows);
    for (std::size_t t = 0; t < sums.size(); ++t)
      if (wanted[t] && !pass.targets[t].linear && sums[t].first_bad())
        note_fault(weights.layer, sites, pass.targets[t].site, chunk, *sums[t].first_bad());
  }
  for (SiteSum& sum : sums) sum.finish(chunk.id);
  return hidden;
}

void Collector::note_fault(std::int64_t layer, const std::vector<model::SiteSpec>& sites, std::size_t site,
                           const Chunk& chunk, const BadInput& bad) {
  // Of a block that takes several passes, and of chunks: the first site counts, then the first chunk.
  if (fault_chunk_ >= 0 && std::pair(fault_site_, fault_chunk_) <= std::pair(site, chunk.id)) return;
  fault_site_ = site;
  fault_chunk_ = chunk.id;
  fault_text_ = "block " + std::to_string(layer) + ", input " + std::to_string(bad.channel) + " of " +
                sites[site].name + (bad.of_pair ? " in the unquantized model is " : " is ") +
                (std::isnan(bad.value) ? "nan" : fmt::format("{:g}", bad.value));
  if (sites[site].expert >= 0) return;  // its rows do not tell their places
  const std::int64_t first_sequence = chunk.first_sequence + bad.row / chunk.hidden.n_tokens;
  fault_text_ += " at token " + std::to_string(bad.row % chunk.hidden.n_tokens) + " of calibration sequence " +
                 std::to_string(first_sequence);
}

void Collector::agree_on_fault() {
  std::vector<std::byte> mine;
  if (fault_chunk_ >= 0) {
    const FaultPlace place{static_cast<std::int64_t>(fault_site_), fault_chunk_};
    mine.resize(sizeof place + fault_text_.size());
    std::memcpy(mine.data(), &place, sizeof place);
    std::memcpy(mine.data() + sizeof place, fault_text_.data(), fault_text_.size());
  }
  std::optional<FaultPlace> first;
  for (const std::vector<std::byte>& theirs : communicator_.all_gather(mine)) {
    if (theirs.size() < sizeof(FaultPlace)) continue;
    FaultPlace place;
    std::memcpy(&place, theirs.data(), sizeof place);
    if (first && *first <= place) continue;
    first = place;
    first_fault_.assign(reinterpret_cast<const char*>(theirs.data()) + sizeof place, theirs.size() - sizeof place);
  }
}

void Collector::pool_starved(std::int64_t layer, const std::vector<model::SiteSpec>& sites,
                             std::vector<SiteHessian>& owned) {
  const auto mine = [&](const std::string& site) {
    return std::find_if(owned.begin(), owned.end(), [&](const SiteHessian& hessian) { return hessian.site == site; });
  };
  std::vector<std::int64_t> owned_tokens(sites.size(), 0), n_tokens(sites.size(), 0);
  for (std::size_t i = 0; i < sites.size(); ++i)
    if (const auto hessian = mine(sites[i].name); hessian != owned.end()) owned_tokens[i] = hessian->n_tokens;
  for (const auto& part : communicator_.all_gather(std::as_bytes(std::span(owned_tokens)))) {
    VORONOI_REQUIRE(part.size() == owned_tokens.size() * sizeof(std::int64_t), "one count a site is wanted");
    std::memcpy(owned_tokens.data(), part.data(), part.size());
    std::transform(n_tokens.begin(), n_tokens.end(), owned_tokens.begin(), n_tokens.begin(), std::plus<>());
  }

  const auto first_expert =
      std::find_if(sites.begin(), sites.end(), [](const model::SiteSpec& site) { return site.expert >= 0; });
  if (first_expert == sites.end()) return;
  const auto gate_up = static_cast<std::size_t>(first_expert - sites.begin());
  for (std::size_t i = gate_up; i < sites.size() && sites[i].expert >= 0; i += 2) expert_tokens_.push_back(n_tokens[i]);
  for (std::size_t place = gate_up; place < gate_up + 2; ++place) {
    std::vector<std::size_t> experts;
    for (std::size_t i = place; i < sites.size() && sites[i].expert >= 0; i += 2) experts.push_back(i);
    if (std::none_of(experts.begin(), experts.end(), [&](std::size_t i) { return is_starved(sites[i], n_tokens[i]); }))
      continue;
    // Summed over the experts in their order from the means, so that it does not matter who owns them.
    std::vector<float> lower(static_cast<std::size_t>(HessianTree::packed_size(sites[place].in_features)));
    std::vector<double> pool(lower.size(), 0.0);
    std::int64_t pooled_tokens = 0;
    for (const std::size_t i : experts) {
      if (n_tokens[i] == 0) continue;
      if (const auto hessian = mine(sites[i].name); hessian != owned.end()) lower = hessian->lower;
      communicator_.broadcast(std::as_writable_bytes(std::span(lower)), owner(layer, sites.size(), i));
      for (std::size_t k = 0; k < pool.size(); ++k)
        pool[k] += static_cast<double>(n_tokens[i]) * static_cast<double>(lower[k]);
      pooled_tokens += n_tokens[i];
    }
    if (pooled_tokens == 0) continue;  // no row of the layer was usable
    for (std::size_t k = 0; k < pool.size(); ++k)
      lower[k] = static_cast<float>(pool[k] / static_cast<double>(pooled_tokens));
    for (const std::size_t i : experts)
      if (const auto hessian = mine(sites[i].name); hessian != owned.end() && is_starved(sites[i], n_tokens[i])) {
        hessian->lower = lower;
        hessian->pooled_tokens = pooled_tokens;
        hessian->held_out = {};  // its own few rows are no judge of the pool
        hessian->cross = hessian->held_out_cross = {};
        hessian->guided = {};
      }
  }
}

}  // namespace voronoi::calib
