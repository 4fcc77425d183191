// Requests become inputs as the harness cuts them, and packs in which common beginnings stand once.
#include "validation/request_packs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/error.h"

namespace voronoi::validation {
namespace {

using testing::ElementsAre, testing::HasSubstr, testing::ThrowsMessage;
using Ids = std::vector<std::int32_t>;

constexpr std::int64_t kVocab = 1000;

TEST(ScoredInput, IsTheLastIdsButOne) {
  const LikelihoodRequest request{"F: line 1", {1, 2, 3}, {4, 5}};
  const ScoredInput whole = scored_input(request, 4, kVocab);
  EXPECT_THAT(whole.ids, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(whole.targets, ElementsAre(4, 5));
  EXPECT_FALSE(whole.truncated);
  const ScoredInput cut = scored_input(request, 3, kVocab);
  EXPECT_THAT(cut.ids, ElementsAre(2, 3, 4));
  EXPECT_TRUE(cut.truncated);
  EXPECT_THAT(scored_input(request, 2, kVocab).ids, ElementsAre(3, 4));
  for (const auto& [wrong, what] : std::vector<std::pair<LikelihoodRequest, const char*>>{
           {{"F: line 1", {1}, {2, 3, 4}}, "3 tokens, more than the 2"},
           {{"F: line 1", {1}, {}}, "empty continuation"},
           {{"F: line 1", {}, {1}}, "empty context"},
           {{"F: line 1", {-1}, {1}}, "token id -1"},
           {{"F: line 1", {1}, {1000}}, "token id 1000"}})
    EXPECT_THAT(([&, w = wrong] { scored_input(w, 2, kVocab); }),
                ThrowsMessage<core::FormatError>(testing::AllOf(HasSubstr("F: line 1"), HasSubstr(what))));
}

/// Every request stands once, its rows hold the sequence that it asks for.
void check_packs(const std::vector<RequestPack>& packs, const std::vector<ScoredInput>& inputs) {
  std::set<std::int64_t> seen;
  for (const RequestPack& pack : packs) {
    const std::vector<std::int64_t> first = model::first_rows(pack.segments);
    ASSERT_EQ(first.back(), pack.n_rows());
    for (const RequestPack::Question& question : pack.questions) {
      EXPECT_TRUE(seen.insert(question.request).second);
      const ScoredInput& input = inputs[static_cast<std::size_t>(question.request)];
      ASSERT_EQ(question.n_tokens, std::ssize(input.targets));
      const auto at = static_cast<std::size_t>(question.first);
      // The segment that holds the last row leads to all rows of the sequence.
      const std::int32_t last = pack.rows[at + input.targets.size() - 1];
      const auto segment = std::upper_bound(first.begin(), first.end(), last) - first.begin() - 1;
      const std::vector<std::int32_t> rows =
          model::rows_of_positions(pack.segments, first, segment, 0, std::ssize(input.ids));
      for (std::size_t i = 0; i < rows.size(); ++i)
        ASSERT_EQ(pack.ids[static_cast<std::size_t>(rows[i])], input.ids[i]);
      for (std::size_t t = 0; t < input.targets.size(); ++t) {
        EXPECT_EQ(pack.rows[at + t], rows[rows.size() - input.targets.size() + t]);
        EXPECT_EQ(pack.targets[at + t], input.targets[t]);
      }
    }
  }
  EXPECT_EQ(seen.size(), inputs.size());
}

Ids run_of(std::int32_t first, std::int32_t n) {
  Ids ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

ScoredInput input_of(Ids context, const Ids& continuation) {
  return scored_input({"r", std::move(context), continuation}, 1 << 20, 1 << 20);
}

TEST(RequestPacks, CommonBeginningsStandOnce) {
  const Ids context = run_of(100, 40), other = run_of(500, 9);
  std::vector<ScoredInput> inputs{input_of(context, {1, 2, 3}),
                                  input_of(other, {7}),
                                  input_of(context, {1, 2, 4, 5}),
                                  input_of(context, {9}),
                                  input_of(other, {8}),
                                  input_of(context, {1, 2, 3}),
                                  input_of(other, {7, 7, 7}),
                                  input_of(run_of(100, 7), {1, 2})};
  const std::vector<RequestPack> packs = pack_requests(inputs);
  ASSERT_EQ(packs.size(), 1);
  check_packs(packs, inputs);
  // The context and 1, 2 and 4; the other and 7, 7; seven and one that share too little.
  EXPECT_EQ(packs[0].n_rows(), 40 + 2 + 1 + 9 + 2 + 8);
  EXPECT_EQ(packs[0].segments.size(), 6);
}

TEST(RequestPacks, LongerInputsShareNothingWhereTheirBeginningsDiffer) {
  const Ids context = run_of(100, 40);
  const std::vector<ScoredInput> inputs{input_of(context, {1, 2, 3}), input_of(context, {1, 2, 4, 5}),
                                        input_of(context, {9})};
  const std::vector<RequestPack> packs = pack_requests(inputs, 42);
  ASSERT_EQ(packs.size(), 1);
  check_packs(packs, inputs);
  EXPECT_EQ(packs[0].n_rows(), 40 + 2 + 43);
}

TEST(RequestPacks, AreBoundedAndLongBeginningsMakeThemLonger) {
  std::vector<ScoredInput> inputs;
  for (std::int32_t i = 0; i < 60; ++i) inputs.push_back(input_of(run_of(1000 * i, 100), {1}));
  std::vector<RequestPack> packs = pack_requests(inputs);
  check_packs(packs, inputs);
  EXPECT_EQ(packs.size(), 6);
  for (const RequestPack& pack : packs) EXPECT_LE(pack.n_rows(), 1024);

  inputs = {input_of(run_of(0, 5000), {1})};
  for (std::int32_t i = 0; i < 200; ++i) {
    Ids ids = run_of(10000, 1500);
    ids.push_back(i);
    ids.resize(1550, 3);
    inputs.push_back(input_of(ids, {1, 2}));
  }
  packs = pack_requests(inputs);
  check_packs(packs, inputs);
  const std::int64_t rows =
      std::accumulate(packs.begin(), packs.end(), std::int64_t{0},
                      [](std::int64_t sum, const RequestPack& pack) { return sum + pack.n_rows(); });
  EXPECT_LT(rows, 5000 + 200 * 51 * 3 / 2);  // the beginning again in every pack costs less than half
  EXPECT_TRUE(pack_requests({}).empty());
}

}  // namespace
}  // namespace voronoi::validation
