#include "comm/mpi_team.h"

#include <algorithm>
#include <numeric>

#include "core/bytes.h"

namespace voronoi::comm {
namespace {

// Words of the exchange before every collective; 0 and above is the size of the member's bytes.
constexpr std::int64_t kFinished = -1, kFailed = -2;
constexpr int kSumTag = 1;
constexpr std::int64_t kDoubleBytes = sizeof(double);

void add(std::span<const std::byte> arrays, std::vector<double>& total) {
  const std::vector<double> values = core::values_of<double>(arrays);
  for (std::size_t at = 0; at < values.size(); at += total.size())
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += values[at + i];
}

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

std::vector<std::int64_t> MpiTeam::exchange_sizes(std::size_t mine) {
  if (over_) throw_verdict();
  std::vector<std::int64_t> words = exchange(static_cast<std::int64_t>(mine), core::ExitCode::ok, {});
  if (over_) throw_verdict();
  return words;
}

std::vector<std::vector<std::byte>> MpiTeam::gather(std::span<const std::byte> mine,
                                                    std::span<const std::int64_t> sizes) {
  const auto own = static_cast<std::int64_t>(mine.size());
  traffic_.sent += own * (size() - 1);
  traffic_.received += std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) - own;
  return communicator_.all_gather(mine, sizes);
}

std::vector<std::vector<std::byte>> MpiTeam::all_gather(std::span<const std::byte> mine) {
  return gather(mine, exchange_sizes(mine.size()));
}

std::vector<double> MpiTeam::sum(std::span<const double> mine, std::int64_t size, std::int64_t n_arrays) {
  const auto n = static_cast<std::size_t>(size);
  VORONOI_REQUIRE(size > 0 && mine.size() % n == 0, "a member gives whole arrays");
  const std::vector<std::int64_t> bytes = exchange_sizes(mine.size_bytes());
  const std::int64_t all_bytes = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
  VORONOI_REQUIRE(all_bytes == n_arrays * size * kDoubleBytes, "arrays of a sum are missing");
  std::vector<double> total;
  if (all_bytes <= kGatheredBytes) {
    total.assign(n, 0.0);
    for (const std::vector<std::byte>& arrays : gather(std::as_bytes(mine), bytes)) add(arrays, total);
    return total;
  }
  const std::int64_t n_members = this->size(), own = rank();
  const auto begin_of = [&](std::int64_t member) { return size * member / n_members; };
  const auto slices_of = [&](std::int64_t member) {  // of this member's arrays, what the other one sums
    const std::int64_t begin = begin_of(member), end = begin_of(member + 1);
    std::vector<double> slices;
    slices.reserve(mine.size() / n * static_cast<std::size_t>(end - begin));
    for (auto array = mine.begin(); array != mine.end(); array += size)
      slices.insert(slices.end(), array + begin, array + end);
    return slices;
  };
  std::vector<std::vector<std::byte>> of_members(static_cast<std::size_t>(n_members));
  const std::int64_t width = begin_of(own + 1) - begin_of(own);
  for (std::int64_t round = 1; round < n_members; ++round) {
    const std::int64_t to = (own + round) % n_members, from = (own - round + n_members) % n_members;
    const std::vector<double> sent = slices_of(to);
    const std::int64_t expected = bytes[static_cast<std::size_t>(from)] / size * width;
    std::vector<std::byte>& received = of_members[static_cast<std::size_t>(from)];
    received = communicator_.exchange(std::as_bytes(std::span(sent)), static_cast<int>(to), static_cast<int>(from),
                                      expected > 0, kSumTag);
    VORONOI_REQUIRE(std::ssize(received) == expected, "slices of a member's arrays are wanted");
    traffic_.sent += std::ssize(sent) * kDoubleBytes;
    traffic_.received += expected;
  }
  std::vector<double> slice(static_cast<std::size_t>(width), 0.0);
  const std::vector<double> own_slices = slices_of(own);
  for (std::int64_t member = 0; member < n_members && width > 0; ++member)
    add(member == own ? std::as_bytes(std::span(own_slices))
                      : std::span<const std::byte>(of_members[static_cast<std::size_t>(member)]),
        slice);
  std::vector<std::int64_t> widths;
  for (std::int64_t member = 0; member < n_members; ++member)
    widths.push_back((begin_of(member + 1) - begin_of(member)) * kDoubleBytes);
  total.reserve(n);
  for (const std::vector<std::byte>& part : gather(std::as_bytes(std::span(slice)), widths))
    core::append_values(part, total);
  return total;
}

void MpiTeam::broadcast(std::span<std::byte> bytes, int root) {
  for (const std::int64_t size : exchange_sizes(bytes.size()))
    VORONOI_REQUIRE(size == std::ssize(bytes), "a broadcast of another size than is expected");
  (rank() == root ? traffic_.sent : traffic_.received) += std::ssize(bytes);
  communicator_.broadcast(bytes, root);
}

void MpiTeam::finish() {
  if (!over_) exchange(kFinished, core::ExitCode::ok, {});
  if (!verdict_.ok) throw_verdict();
}

void MpiTeam::fail(core::ExitCode code, const std::string& text) {
  if (!over_) exchange(kFailed, code, text);
}

}  // namespace voronoi::comm
