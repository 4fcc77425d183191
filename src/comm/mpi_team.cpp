#include "comm/mpi_team.h"

#include <algorithm>

namespace voronoi::comm {
namespace {

// Words of the exchange before every collective; 0 and above is the size of the member's bytes.
constexpr std::int64_t kFinished = -1, kFailed = -2;

}  // namespace

MpiTeam::MpiTeam(const Communicator& parent, std::span<const int> ranks, int tag)
    : ranks_(ranks.begin(), ranks.end()), communicator_(parent.subgroup(ranks, tag)) {}

std::vector<std::int64_t> MpiTeam::exchange(std::int64_t word, core::ExitCode code, const std::string& text) {
  auto words = communicator_.all_gather_value(word);
  const auto n_finished = std::count(words.begin(), words.end(), kFinished);
  const bool failed = std::find(words.begin(), words.end(), kFailed) != words.end();
  if (!failed && n_finished == 0) return words;
  over_ = true;
  if (!failed && n_finished == std::ssize(words)) return words;
  verdict_.ok = false;
  if (!failed) {
    verdict_.code = core::ExitCode::system;
    verdict_.text = "internal error: " + std::to_string(n_finished) + " of " + std::to_string(words.size()) +
                    " members of a team ended while the others wait for them";
    return words;
  }
  std::string mine;
  if (word == kFailed) mine = static_cast<char>(code) + text;
  const auto texts = communicator_.all_gather(std::as_bytes(std::span(mine)));
  // A member that was merely stopped does not hide another's error.
  verdict_.code = core::ExitCode::stopped;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty()) continue;
    const auto member_code = static_cast<core::ExitCode>(texts[i].front());
    verdict_.failed_ranks.push_back(ranks_[i]);
    if (verdict_.code == core::ExitCode::stopped) verdict_.code = member_code;
    if (!verdict_.text.empty()) verdict_.text += '\n';
    verdict_.text += "rank " + std::to_string(ranks_[i]) + ": ";
    for (std::size_t j = 1; j < texts[i].size(); ++j) verdict_.text += static_cast<char>(texts[i][j]);
  }
  return words;
}

void MpiTeam::throw_verdict() const {
  if (verdict_.ok) throw core::InternalError("a team was used after its end");
  if (verdict_.code == core::ExitCode::stopped) throw core::StopRequested();
  throw core::Error(verdict_.code, verdict_.text);
}

std::vector<std::vector<std::byte>> MpiTeam::all_gather(std::span<const std::byte> mine) {
  if (over_) throw_verdict();
  const auto words = exchange(static_cast<std::int64_t>(mine.size()), core::ExitCode::ok, {});
  if (over_) throw_verdict();
  return communicator_.all_gather(mine, words);
}

void MpiTeam::finish() {
  if (!over_) exchange(kFinished, core::ExitCode::ok, {});
  if (!verdict_.ok) throw_verdict();
}

void MpiTeam::fail(core::ExitCode code, const std::string& text) {
  if (!over_) exchange(kFailed, code, text);
}

}  // namespace voronoi::comm
