#include "model/calibration_windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/types.h"
#include "core/words.h"

namespace voronoi::model {
namespace {

using core::FormatError;

constexpr std::size_t kWeightDecimals = 3;

/// Digits alone; negative when it is no number up to `most`.
std::int64_t whole_part(std::string_view digits, std::int64_t most) {
  std::int64_t value = 0;
  const char* end = digits.data() + digits.size();
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos) return -1;
  const auto read = std::from_chars(digits.data(), end, value);
  return read.ec == std::errc() && read.ptr == end && value <= most ? value : -1;
}

/// In thousandths; 0 when it is none.
std::int64_t weight_of(std::string_view word) {
  const std::size_t point = std::min(word.find('.'), word.size());
  std::string decimals(word.substr(std::min(point + 1, word.size())));
  if (decimals.size() > kWeightDecimals || (decimals.empty() && point < word.size())) return 0;
  decimals.resize(kWeightDecimals, '0');
  const std::int64_t whole = whole_part(word.substr(0, point), kMostWeight), part = whole_part(decimals, kWeightUnit);
  return whole < 0 || part < 0 ? 0 : kWeightUnit * whole + part;
}

/// Windows taken so far, by the digests of their tokens.
using Taken = std::set<std::string>;

class Taker {
 public:
  Taker(const Tokenizer& tokenizer, const CalibrationText& asked)
      : tokenizer_(tokenizer), asked_(asked), bos_(tokenizer.automatic_bos()) {
    made_.windows.context = asked.context;
  }

  void take(const Text& text, std::int64_t share) {
    TextShare& gave = made_.shares.emplace_back();
    if (share == 0) return;
    const std::vector<std::int32_t> ids = tokenizer_.encode(without_document_marks(text.content));
    gave.text_tokens = std::ssize(ids);
    // Starts 0 .. last, all different.
    const std::int64_t last = gave.text_tokens - asked_.context;
    if (last < share - 1)
      throw FormatError(
          text.path,
          fmt::format("gives {} tokens, too few for {} calibration windows of {} tokens{}; add text, or ask for fewer "
                      "or shorter sequences{}",
                      gave.text_tokens, share, asked_.context,
                      last < 0 ? "" : fmt::format(" (a token apart they are {})", last + 1),
                      asked_.weights.empty() ? "" : ", or give it a smaller weight"));
    if (gave.text_tokens / asked_.context < share)
      core::warn_once(
          fmt::format("{}: gives {} tokens, {} windows of {} that do not overlap; {} are taken of it, which "
                      "do",
                      text.path, gave.text_tokens, gave.text_tokens / asked_.context, asked_.context, share));
    for (std::int64_t i = 0; i < share; ++i) {
      // floor(i * last / (share - 1)) without an overflow of the product
      const std::int64_t gaps = std::max<std::int64_t>(1, share - 1);
      const std::int64_t start = last / gaps * i + last % gaps * i / gaps;
      add(std::span(ids).subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(asked_.context)), gave);
    }
  }

  CalibrationWindows made() && { return std::move(made_); }

 private:
  void add(std::span<const std::int32_t> ids, TextShare& gave) {
    Windows& windows = made_.windows;
    const auto at = static_cast<std::ptrdiff_t>(windows.ids.size());
    windows.ids.insert(windows.ids.end(), ids.begin(), ids.end());
    if (bos_) windows.ids[static_cast<std::size_t>(at)] = *bos_;
    if (!asked_.keep_duplicates &&
        !taken_.insert(core::sha256(std::as_bytes(std::span(windows.ids).subspan(static_cast<std::size_t>(at)))))
             .second) {
      windows.ids.erase(windows.ids.begin() + at, windows.ids.end());
      ++gave.duplicates;
      return;
    }
    ++windows.count;
    ++gave.windows;
  }

  const Tokenizer& tokenizer_;
  const CalibrationText& asked_;
  const std::optional<std::int32_t> bos_;
  Taken taken_;
  CalibrationWindows made_;
};

}  // namespace

std::string parse_weights(std::string_view list, std::vector<std::int64_t>& thousandths) {
  thousandths.clear();
  for (const std::string& word : core::words_of_list(list)) {
    thousandths.push_back(weight_of(word));
    if (thousandths.back() == 0 || thousandths.back() > kMostWeight * kWeightUnit)
      return fmt::format(
          "must be numbers from 0.001 to {}, of three decimals at most, separated by commas, and not '{}'", kMostWeight,
          word);
  }
  return thousandths.empty() ? "must be numbers separated by commas, one a text" : "";
}

std::vector<std::int64_t> apportion(std::int64_t n, const std::vector<std::int64_t>& weights) {
  const std::int64_t all = std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
  std::vector<std::int64_t> shares, rest;
  std::int64_t given = 0;
  for (const std::int64_t weight : weights) {
    const auto quota = core::checked_multiply(n, weight);
    VORONOI_REQUIRE(weight > 0 && quota.has_value(), "weights of texts");
    shares.push_back(*quota / all);
    rest.push_back(*quota % all);
    given += shares.back();
  }
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rest[a] > rest[b]; });
  for (std::size_t i = 0; given < n; ++i, ++given) ++shares[order[i]];
  return shares;
}

CalibrationWindows calibration_windows(const Tokenizer& tokenizer, const std::vector<Text>& texts,
                                       const CalibrationText& asked) {
  VORONOI_REQUIRE(!texts.empty(), "no calibration text");
  VORONOI_REQUIRE(asked.sequences > 0 && asked.context > 0, "number and context of calibration windows");
  VORONOI_REQUIRE(core::checked_multiply(asked.sequences, asked.context).has_value(), "calibration tokens overflow");
  VORONOI_REQUIRE(asked.weights.empty() || asked.weights.size() == texts.size(), "one weight a text is wanted");
  const std::vector<std::int64_t> shares =
      apportion(asked.sequences, asked.weights.empty() ? std::vector<std::int64_t>(texts.size(), 1) : asked.weights);
  Taker taker(tokenizer, asked);
  for (std::size_t t = 0; t < texts.size(); ++t) taker.take(texts[t], shares[t]);
  return std::move(taker).made();
}

Windows disjoint_windows(const Tokenizer& tokenizer, const std::vector<Text>& texts, std::int64_t n_tokens,
                         std::int64_t context) {
  VORONOI_REQUIRE(!texts.empty() && context > 0 && n_tokens >= 0, "texts, tokens and context of windows");
  std::vector<std::vector<std::int32_t>> ids;
  std::int64_t available = 0;
  for (const Text& text : texts) {
    ids.push_back(tokenizer.encode(without_document_marks(text.content)));
    const auto n = static_cast<std::int64_t>(ids.back().size());
    if (n < context)
      throw FormatError(text.path, "gives " + std::to_string(n) + " tokens, less than one window of " +
                                       std::to_string(context) + "; use a longer text or a smaller context");
    available += n / context;
  }
  const std::int64_t wanted = n_tokens == 0 ? available : n_tokens / context + (n_tokens % context > 0 ? 1 : 0);
  if (wanted > available)
    throw core::ConfigError("the texts give " + std::to_string(available) + " windows of " + std::to_string(context) +
                            " tokens that do not overlap, and " + std::to_string(wanted) +
                            " are asked for; add text, or ask for fewer tokens");
  // Texts with less than an even share give all they have, the others the rest.
  std::vector<std::int64_t> share(texts.size(), 0);
  for (std::int64_t left = wanted; left > 0;)
    for (std::size_t t = 0; t < texts.size() && left > 0; ++t)
      if (share[t] < static_cast<std::int64_t>(ids[t].size()) / context) {
        ++share[t];
        --left;
      }
  Windows windows{wanted, context, {}};
  const std::optional<std::int32_t> bos = tokenizer.automatic_bos();
  for (std::size_t t = 0; t < texts.size(); ++t) {
    const std::int64_t whole = static_cast<std::int64_t>(ids[t].size()) / context;
    for (std::int64_t i = 0; i < share[t]; ++i) {
      const std::int64_t start = i * whole / share[t] * context;
      windows.ids.insert(windows.ids.end(), ids[t].begin() + start, ids[t].begin() + start + context);
      if (bos) windows.ids[windows.ids.size() - static_cast<std::size_t>(context)] = *bos;
    }
  }
  return windows;
}

}  // namespace voronoi::model
