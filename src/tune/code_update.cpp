#include "tune/code_update.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/bytes.h"
#include "core/error.h"
#include "core/types.h"
#include "format/tuned.h"
#include "tune/loss_sum.h"

namespace voronoi::tune {
namespace {

/// Weights that are one piece of work.
constexpr std::int64_t kBufferPiece = 1 << 16;

/// What changed of a linear's codes, as numbers: block, linear, how many, and for each place and new value, by 16 bits.
void add_changes(std::size_t block, std::size_t linear, std::span<const std::byte> before,
                 std::span<const std::byte> after, std::vector<std::uint32_t>& changes) {
  const std::size_t head = changes.size();
  changes.insert(changes.end(), {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(linear), 0});
  for (std::size_t i = 0; i < after.size(); i += 2) {
    if (std::memcmp(before.data() + i, after.data() + i, 2) == 0) continue;
    std::uint16_t value = 0;
    std::memcpy(&value, after.data() + i, 2);
    changes.push_back(static_cast<std::uint32_t>(i / 2));
    changes.push_back(value);
    ++changes[head + 2];
  }
}

}  // namespace

double buffer_rate(double nominal_bits, std::int64_t hidden_size) {
  const double width = static_cast<double>(std::max(hidden_size, kNarrow)) / static_cast<double>(kNarrow);
  return 0.02 * std::pow(4.0, 2 - std::max(nominal_bits, 1.0)) / width;
}

double rate_beside_codes(std::int64_t hidden_size) {
  return std::clamp(72 / static_cast<double>(hidden_size), 0.125, 0.5);
}

CodeUpdate::CodeUpdate(backend::Context& context, const comm::Communicator& world, const Sequences& sequences,
                       const std::vector<std::unique_ptr<TunedBlock>>& blocks)
    : MovingCodes(context, world, blocks),
      batch_(sequences.batch),
      stripes_(share_of(sequences.batch, world.rank(), world.size())),
      buffers_(blocks.size()) {}

void CodeUpdate::settle() {
  for (std::vector<Buffer>& buffers : buffers_)
    for (Buffer& buffer : buffers) {
      for (float& value : buffer.target) value = core::round_to(core::DType::bf16, value);
      buffer.begin();
    }
}

void CodeUpdate::drop() {
  for (std::vector<Buffer>& buffers : buffers_) buffers.clear();
}

bool CodeUpdate::owns(std::int64_t layer) const {
  return layer % batch_ >= stripes_.first && layer % batch_ < stripes_.last;
}

MovingCodes::Settled CodeUpdate::settled(std::int64_t layer) const {
  Settled settled;
  const std::vector<Buffer>& buffers = buffers_[static_cast<std::size_t>(layer)];
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i].target.empty()) continue;
    std::vector<std::uint16_t> bits;
    for (const float value : buffers[i].target) bits.push_back(core::to_bits16(core::DType::bf16, value));
    settled.push_back(named_array(blocks_[static_cast<std::size_t>(layer)]->linears()[i].name, core::DType::bf16,
                                  std::as_bytes(std::span(bits))));
  }
  return settled;
}

void CodeUpdate::set_settled(std::int64_t layer, const Settled& arrays) {
  const TunedBlock& block = *blocks_[static_cast<std::size_t>(layer)];
  std::vector<Buffer>& buffers = buffers_[static_cast<std::size_t>(layer)];
  buffers.assign(block.linears().size(), {});
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const TunedBlock::Linear& linear = block.linears()[i];
    const auto found = std::find_if(arrays.begin(), arrays.end(),
                                    [&](const format::NamedArray& array) { return array.name == linear.name; });
    if (found == arrays.end()) continue;
    const std::vector<std::uint16_t> bits = core::values_of<std::uint16_t>(found->bytes);
    VORONOI_REQUIRE(std::ssize(bits) == linear.out_features * linear.in_features, "a buffer of another linear");
    for (const std::uint16_t value : bits) buffers[i].target.push_back(core::from_bits16(core::DType::bf16, value));
    buffers[i].begin();
  }
}

void CodeUpdate::Buffer::begin() {
  mean_square.assign(target.size(), 0);
  unit = static_cast<float>(std::sqrt(tune::mean_square(target)));
  steps = 0;
}

void CodeUpdate::take(std::int64_t layer, std::int64_t /*stripe*/, const TunedBlock& block) {
  std::vector<Buffer>& buffers = buffers_[static_cast<std::size_t>(layer)];
  buffers.resize(block.linears().size());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    Buffer& buffer = buffers[i];
    const std::vector<float>& gradient = gradient_[i];
    if (gradient.empty()) continue;  // an expert without tokens
    if (buffer.target.empty()) {
      buffer.target = block.assembled(block.linears()[i]);
      buffer.begin();
    }
    ++buffer.steps;
    const auto step = static_cast<float>(rate_) * buffer.unit;
    const auto correction = static_cast<float>(1 / (1 - std::pow(kBufferBeta, static_cast<double>(buffer.steps))));
    const auto n = std::ssize(buffer.target);
    context_.pool().parallel_for((n + kBufferPiece - 1) / kBufferPiece, [&](std::int64_t piece) {
      constexpr auto kBeta = static_cast<float>(kBufferBeta);
      const auto last = static_cast<std::size_t>(std::min(n, (piece + 1) * kBufferPiece));
      for (auto w = static_cast<std::size_t>(piece * kBufferPiece); w < last; ++w) {
        const float g = gradient[w];
        float& square = buffer.mean_square[w];
        square = kBeta * square + (1 - kBeta) * (g * g);
        if (square > 0) buffer.target[w] -= step * g / std::sqrt(square * correction);
      }
    });
  }
  gradient_.clear();
}

void CodeUpdate::recode(std::span<const float> values, const Part& part) {
  std::vector<std::uint32_t> changes;
  for (std::size_t b = 0; b < blocks_.size(); ++b)
    for (std::size_t i = 0; i < buffers_[b].size(); ++i) {
      const TunedBlock::Linear& linear = blocks_[b]->linears()[i];
      const Buffer& buffer = buffers_[b][i];
      if (buffer.target.empty()) continue;
      std::vector<std::byte> before;  // for those who have to be told
      if (world_.size() > 1) before = linear.matrix->codes();
      linear.matrix->recode(context_,
                            part(values, b).subspan(static_cast<std::size_t>(linear.first),
                                                    static_cast<std::size_t>(linear.matrix->n_parameters())),
                            buffer.target, kRecodedShare);
      if (world_.size() > 1) add_changes(b, i, before, linear.matrix->codes(), changes);
    }
  if (world_.size() == 1) return;
  const std::vector<std::vector<std::byte>> all = world_.all_gather(std::as_bytes(std::span(changes)));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (static_cast<int>(rank) == world_.rank()) continue;
    std::vector<std::uint32_t> theirs(all[rank].size() / sizeof(std::uint32_t));
    if (!theirs.empty()) std::memcpy(theirs.data(), all[rank].data(), all[rank].size());
    for (std::size_t at = 0; at < theirs.size();) {
      format::TunedMatrix& matrix = *blocks_[theirs[at]]->linears()[theirs[at + 1]].matrix;
      const std::size_t n = theirs[at + 2];
      std::vector<std::byte> codes = matrix.codes();
      at += 3;
      for (std::size_t i = 0; i < n; ++i, at += 2) {
        const auto value = static_cast<std::uint16_t>(theirs[at + 1]);
        std::memcpy(codes.data() + std::size_t{2} * theirs[at], &value, sizeof value);
      }
      matrix.set_codes(codes);
    }
  }
}

}  // namespace voronoi::tune
