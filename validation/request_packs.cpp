#include "validation/request_packs.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace voronoi::validation {
namespace {

/// Rows of a pack: more do not make a product faster, fewer leave attention with less to do.
constexpr std::int64_t kPackRows = 1024;
/// A beginning that goes on into the next pack is computed again there; packs grow until that is a small part of them.
constexpr std::int64_t kRowsASharedRow = 4;
/// A shorter common beginning is not worth a segment of its own.
constexpr std::int64_t kShortestShared = 8;

std::int64_t common_beginning(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

/// Packs one after the other, of inputs in the order of their ids.
class Packer {
 public:
  explicit Packer(std::int64_t longest_shared) : longest_shared_(longest_shared) {}
  /// Adds a question for the input, which is the one before or greater.
  void add(const ScoredInput& input, std::int64_t request) {
    const std::span<const std::int32_t> ids(input.ids);
    const std::int64_t shared = common_beginning(last_, ids), length = std::ssize(ids);
    if (segment_ < 0 || shared < length || std::ssize(last_) > length)
      place(ids, std::max(length, std::ssize(last_)) > longest_shared_ ? 0 : shared);
    last_ = ids;
    RequestPack& pack = packs_.back();
    const auto count = std::ssize(input.targets);
    pack.questions.push_back({request, std::ssize(pack.rows), count});
    const std::vector<std::int32_t> rows =
        model::rows_of_positions(pack.segments, first_row_, segment_, length - count, length);
    pack.rows.insert(pack.rows.end(), rows.begin(), rows.end());
    pack.targets.insert(pack.targets.end(), input.targets.begin(), input.targets.end());
  }
  std::vector<RequestPack> take() { return std::move(packs_); }

 private:
  /// A new segment at the end; `shared` ids are those of the input before.
  void place(std::span<const std::int32_t> ids, std::int64_t shared) {
    if (shared < kShortestShared) shared = 0;
    const std::int64_t new_rows = std::ssize(ids) - shared;
    if (packs_.empty() || packs_.back().n_rows() + new_rows > kPackRows + kRowsASharedRow * shared) {
      packs_.emplace_back();
      first_row_.clear();
      shared = 0;
    }
    RequestPack& pack = packs_.back();
    std::int64_t parent = -1;
    if (shared > 0)  // the segment of the input before, or of those it continues, that holds the last shared position
      for (parent = segment_; pack.segments[static_cast<std::size_t>(parent)].n_past >= shared;)
        parent = pack.segments[static_cast<std::size_t>(parent)].parent;
    first_row_.push_back(pack.n_rows());
    segment_ = std::ssize(pack.segments);
    pack.segments.push_back({std::ssize(ids) - shared, parent, shared});
    pack.ids.insert(pack.ids.end(), ids.begin() + shared, ids.end());
  }

  std::int64_t longest_shared_;
  std::vector<RequestPack> packs_;
  std::vector<std::int64_t> first_row_;  // of the segments of the last pack
  std::int64_t segment_ = -1;            // of the input before
  std::span<const std::int32_t> last_;
};

}  // namespace

ScoredInput scored_input(const LikelihoodRequest& request, std::int64_t max_length, std::int64_t vocab_size) {
  if (request.continuation.empty())
    throw core::FormatError(request.name, "has an empty continuation: nothing to score");
  if (request.context.empty())
    throw core::FormatError(request.name, "has an empty context: begin it with the id of BOS or of the end of a text");
  if (std::ssize(request.continuation) > max_length)
    throw core::FormatError(
        request.name, fmt::format("has a continuation of {} tokens, more than the {} that the model takes; shorten it",
                                  request.continuation.size(), max_length));
  for (const auto* ids : {&request.context, &request.continuation})
    for (const std::int32_t id : *ids)
      if (id < 0 || id >= vocab_size)
        throw core::FormatError(request.name,
                                fmt::format("has the token id {}, outside the model's vocabulary of {}: use "
                                            "the tokenizer that belongs to this model",
                                            id, vocab_size));
  ScoredInput input;
  input.targets = request.continuation;
  input.ids = request.context;
  input.ids.insert(input.ids.end(), request.continuation.begin(), request.continuation.end() - 1);
  if (const std::int64_t surplus = std::ssize(input.ids) - max_length; surplus > 0) {
    input.ids.erase(input.ids.begin(), input.ids.begin() + surplus);
    input.truncated = true;
  }
  return input;
}

std::vector<RequestPack> pack_requests(std::span<const ScoredInput> inputs, std::int64_t longest_shared) {
  std::vector<std::size_t> order(inputs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return inputs[a].ids < inputs[b].ids; });
  Packer packer(longest_shared);
  for (const std::size_t i : order) packer.add(inputs[i], static_cast<std::int64_t>(i));
  return packer.take();
}

}  // namespace voronoi::validation
