#include "comm/common_stop.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace voronoi::comm {
namespace {

constexpr int kTag = 0;

}  // namespace

CommonStop::CommonStop(const Communicator& world, std::function<bool()> requested)
    : world_(world), requested_(std::move(requested)) {
  if (world.size() > 1) words_.emplace(world.duplicate());
}

bool CommonStop::asked() {
  if (asked_) return true;
  if (requested_ && requested_()) {
    asked_ = told_ = true;
    for (int rank = 0; rank < world_.size(); ++rank)
      if (rank != world_.rank()) words_->post({std::byte{1}}, rank, kTag);
  } else if (MessageInfo info; words_ && words_->receive_any(info, [] { return true; })) {
    asked_ = true;
    ++n_taken_;
  }
  return asked_;
}

bool CommonStop::agreed() {
  const std::vector<std::int64_t> told = world_.all_gather_value(told_ ? 1 : 0);
  const auto n_told = static_cast<int>(std::count(told.begin(), told.end(), 1));
  asked_ = n_told > 0;
  // Words that came when this rank did not look any more.
  for (MessageInfo info; n_taken_ < n_told - (told_ ? 1 : 0); ++n_taken_) words_->receive_any(info);
  return asked_;
}

}  // namespace voronoi::comm
