#include "calib/node_transport.h"

#include <array>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"

namespace voronoi::calib {
namespace {

constexpr int kTag = 41;

/// first_chunk, level and counts of a node; a negative first chunk ends the tree.
using Header = std::array<std::int64_t, 4>;

Header receive_header(const comm::Communicator& communicator, int from) {
  const std::vector<std::byte> bytes = communicator.receive(from, kTag);
  Header header;
  VORONOI_REQUIRE(bytes.size() == sizeof header, "the header of a tree node is wanted");
  std::memcpy(header.data(), bytes.data(), sizeof header);
  return header;
}

}  // namespace

NodeTransport::NodeTransport(backend::Context& context, const comm::Communicator& communicator)
    : context_(context), communicator_(communicator) {
  if (communicator.size() == 1 || !context.collective().available()) return;
  kernels::GroupId id{};
  if (communicator.rank() == 0) id = context.collective().make_id();
  communicator.broadcast(std::span(id), 0);
  group_ = context.collective().join(context.exec(), id, communicator.rank(), communicator.size());
}

NodeTransport::~NodeTransport() {
  if (group_ != nullptr) context_.collective().leave(group_);
}

void NodeTransport::send(SumTree& tree, int to) const {
  while (tree.n_nodes() > 0) {
    const SumNode node = tree.pop_node();
    const Header header{node.first_chunk, node.level, node.counts[0], node.counts[1]};
    communicator_.send(std::as_bytes(std::span(header)), to, kTag);
    if (group_ != nullptr) {
      context_.collective().send_f64(context_.exec(), group_, node.values.size(), node.values.data(), to);
    } else {
      const std::vector<double> values = node.values.to_host();
      communicator_.send(std::as_bytes(std::span(values)), to, kTag);
    }
  }
  const Header end{-1, 0, 0, 0};
  communicator_.send(std::as_bytes(std::span(end)), to, kTag);
}

void NodeTransport::receive(SumTree& tree, int from) const {
  for (Header header = receive_header(communicator_, from); header[0] >= 0;
       header = receive_header(communicator_, from)) {
    SumNode node{header[0], header[1], {header[2], header[3]}, backend::Array<double>(context_, tree.n_values())};
    if (group_ != nullptr) {
      context_.collective().receive_f64(context_.exec(), group_, node.values.size(), node.values.data(), from);
    } else {
      const std::vector<std::byte> bytes = communicator_.receive(from, kTag);
      VORONOI_REQUIRE(bytes.size() == static_cast<std::size_t>(node.values.size()) * sizeof(double), "not a tree node");
      context_.memory().copy_from_host(context_.exec(), bytes.data(), static_cast<std::int64_t>(bytes.size()),
                                       node.values.data());
    }
    tree.absorb(std::move(node));
  }
}

}  // namespace voronoi::calib
