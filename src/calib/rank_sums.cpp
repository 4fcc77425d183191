#include "calib/rank_sums.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"

namespace voronoi::calib {

using core::index;

namespace {

constexpr int kTag = 41;

std::vector<float> divided(std::span<const double> sums, std::int64_t n_tokens) {
  const auto tokens = static_cast<double>(std::max<std::int64_t>(n_tokens, 1));
  std::vector<float> mean(sums.size());
  std::transform(sums.begin(), sums.end(), mean.begin(),
                 [tokens](double value) { return static_cast<float>(value / tokens); });
  return mean;
}

}  // namespace

RankSums::RankSums(backend::Context& context, const comm::Communicator& communicator)
    : context_(context), communicator_(communicator) {
  if (communicator.size() == 1 || !context.collective().available()) return;
  kernels::GroupId id{};
  if (communicator.rank() == 0) id = context.collective().make_id();
  communicator.broadcast(std::span(id), 0);
  group_ = context.collective().join(context.exec(), id, communicator.rank(), communicator.size());
}

RankSums::~RankSums() {
  if (group_ != nullptr) context_.collective().leave(group_);
}

TreeMean RankSums::mean(HessianTree& tree, int root) {
  const Extent extent{HessianTree::packed_size(tree.n()), tree.n_values()};
  Nodes nodes = take(tree);
  TreeMean mean{nodes.counts, nodes.n, {}, {}};
  if (nodes.n == 0) return mean;
  const std::vector<double> behind =
      gather(slice(std::move(nodes), extent), extent, HessianTree::n_tokens(mean.counts), root, mean.values);
  if (communicator_.rank() == root) mean.weights = HessianTree::weights(behind);
  return mean;
}

TreeMean RankSums::mean(CrossTree& tree, std::int64_t n_tokens, int root) {
  const Extent extent{tree.n_values(), tree.n_values()};
  Nodes nodes = take(tree);
  TreeMean mean{nodes.counts, nodes.n, {}, {}};
  if (nodes.n > 0) gather(slice(std::move(nodes), extent), extent, n_tokens, root, mean.values);
  return mean;
}

std::vector<float> RankSums::sum(SumTree& tree) {
  const Extent extent{tree.n_values(), tree.n_values()};
  const backend::Array<double> slice_sum = slice(take(tree), extent);
  const std::vector<float> mine =
      divided(backend::HostView<double>(context_, slice_sum.data(), slice_sum.size()).values(), 1);
  std::vector<std::int64_t> sizes;
  for (int rank = 0; rank < communicator_.size(); ++rank)
    sizes.push_back(range_of(rank, extent).size() * std::int64_t{sizeof(float)});
  std::vector<float> sum;
  sum.reserve(index(extent.n_values));
  for (const std::vector<std::byte>& part : communicator_.all_gather(std::as_bytes(std::span(mine)), sizes)) {
    std::span<const std::byte> rest = part;
    core::take_values(rest, part.size() / sizeof(float), sum);
  }
  return sum;
}

RankSums::Nodes RankSums::take(SumTree& tree) const {
  static_assert(sizeof(Header) == kHeaderBytes);
  Nodes nodes;
  std::vector<Header> headers;
  while (tree.n_nodes() > 0) {
    const SumNode& node = nodes.mine.emplace_back(tree.pop_node());
    headers.push_back({node.first_chunk, node.level, node.counts, node.values.empty() ? 0 : 1});
  }
  for (const std::vector<std::byte>& theirs : communicator_.all_gather(std::as_bytes(std::span(headers)))) {
    std::vector<Header>& of_rank = nodes.of_ranks.emplace_back(theirs.size() / sizeof(Header));
    VORONOI_REQUIRE(theirs.size() == of_rank.size() * sizeof(Header), "headers of tree nodes are wanted");
    if (!of_rank.empty()) std::memcpy(of_rank.data(), theirs.data(), theirs.size());
    nodes.n += nodes.n_of(static_cast<int>(std::ssize(nodes.of_ranks)) - 1);
    for (const Header& header : of_rank)
      for (std::size_t i = 0; i < header.counts.size(); ++i) nodes.counts[i] += header.counts[i];
  }
  return nodes;
}

std::int64_t RankSums::Nodes::n_of(int rank) const {
  const std::vector<Header>& headers = of_ranks[index(rank)];
  return std::count_if(headers.begin(), headers.end(), [](const Header& header) { return header.has_values != 0; });
}

RankSums::Range RankSums::range_of(int rank, const Extent& extent) const {
  const std::int64_t n_ranks = communicator_.size();
  return {extent.n_divided * rank / n_ranks,
          rank + 1 == n_ranks ? extent.n_values : extent.n_divided * (rank + 1) / n_ranks};
}

backend::Array<double> RankSums::slice(Nodes nodes, const Extent& extent) {
  const int rank = communicator_.rank(), n_ranks = communicator_.size();
  const Range own = range_of(rank, extent);
  SumTree sum(context_, own.size());
  for (int round = 1; round < n_ranks; ++round)
    exchange(nodes, extent, (rank + round) % n_ranks, (rank - round + n_ranks) % n_ranks, sum);
  for (SumNode& node : nodes.mine) {
    if (n_ranks > 1 && !node.values.empty()) {
      backend::Array<double> part(context_, own.size());
      copy(node.values.data() + own.begin, own.size(), part.data());
      node.values = std::move(part);
    }
    sum.absorb(std::move(node));
  }
  return sum.total();
}

void RankSums::exchange(const Nodes& nodes, const Extent& extent, int to, int from, SumTree& sum) {
  const Range own = range_of(communicator_.rank(), extent), theirs = range_of(to, extent);
  const std::vector<Header>& headers = nodes.of_ranks[index(from)];
  const std::int64_t n_sent = nodes.n_of(communicator_.rank()) * theirs.size(),
                     n_received = nodes.n_of(from) * own.size();
  backend::Array<double> received(context_, n_received);
  if (group_ != nullptr) {
    backend::Array<double> sent(context_, n_sent);
    double* next = sent.data();
    for (const SumNode& node : nodes.mine) {
      if (node.values.empty()) continue;
      copy(node.values.data() + theirs.begin, theirs.size(), next);
      next += theirs.size();
    }
    core::count_work(core::Counted::sent_bytes, n_sent * std::int64_t{sizeof(double)});
    context_.collective().exchange_f64(context_.exec(), group_, n_sent, sent.data(), to, n_received, received.data(),
                                       from);
  } else {
    std::vector<double> sent;
    sent.reserve(index(n_sent));
    for (const SumNode& node : nodes.mine) {
      if (node.values.empty()) continue;
      const backend::HostView<double> part(context_, node.values.data() + theirs.begin, theirs.size());
      sent.insert(sent.end(), part.values().begin(), part.values().end());
    }
    const std::vector<std::byte> bytes =
        communicator_.exchange(std::as_bytes(std::span(sent)), to, from, n_received > 0, kTag);
    VORONOI_REQUIRE(std::ssize(bytes) == n_received * std::int64_t{sizeof(double)}, "slices of tree nodes are wanted");
    if (n_received > 0)
      context_.memory().copy_from_host(context_.exec(), bytes.data(), std::ssize(bytes), received.data());
  }
  traffic_.sent += n_sent * std::int64_t{sizeof(double)};
  traffic_.received += n_received * std::int64_t{sizeof(double)};
  const double* next = received.data();
  for (const Header& header : headers) {
    backend::Array<double> part(context_, header.has_values != 0 ? own.size() : 0);
    if (!part.empty()) {
      copy(next, own.size(), part.data());
      next += own.size();
    }
    sum.absorb({header.first_chunk, header.level, header.counts, std::move(part)});
  }
}

void RankSums::copy(const double* from, std::int64_t n, double* to) const {
  if (n > 0) context_.memory().copy_on_device(context_.exec(), from, n * std::int64_t{sizeof(double)}, to);
}

std::vector<double> RankSums::gather(const backend::Array<double>& slice, const Extent& extent, std::int64_t n_tokens,
                                     int root, std::vector<float>& mean) {
  const auto n_divided_of = [&](int rank) {
    const Range range = range_of(rank, extent);
    return index(std::min(range.end, extent.n_divided) - range.begin);
  };
  const std::size_t n_divided = n_divided_of(communicator_.rank());
  const backend::HostView<double> view(context_, slice.data(), slice.size());
  const std::span<const double> mine = view.values();
  std::vector<float> part = divided(mine.first(n_divided), n_tokens);
  std::vector<double> behind(mine.begin() + static_cast<std::ptrdiff_t>(n_divided), mine.end());
  if (communicator_.rank() != root) {
    std::vector<std::byte> bytes;
    core::append_bytes<float>(part, bytes);
    core::append_bytes<double>(behind, bytes);
    communicator_.send(bytes, root, kTag);
    traffic_.sent += std::ssize(bytes);
    return {};
  }
  if (communicator_.size() == 1) {
    mean = std::move(part);
    return behind;
  }
  mean.reserve(index(extent.n_divided));
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    if (rank == root) {
      mean.insert(mean.end(), part.begin(), part.end());
      continue;
    }
    const std::vector<std::byte> bytes = communicator_.receive(rank, kTag);
    traffic_.received += std::ssize(bytes);
    std::span<const std::byte> rest = bytes;
    core::take_values(rest, n_divided_of(rank), mean);
    if (!rest.empty()) core::take_values(rest, rest.size() / sizeof(double), behind);
  }
  VORONOI_REQUIRE(std::ssize(mean) == extent.n_divided && std::ssize(behind) == extent.n_values - extent.n_divided,
                  "slices of a mean are wanted");
  return behind;
}

}  // namespace voronoi::calib
