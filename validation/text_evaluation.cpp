#include "validation/text_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "comm/agreement.h"
#include "core/words.h"
#include "model/chat_template.h"
#include "model/corpus.h"
#include "model/precision.h"
#include "validation/kept_windows.h"
#include "validation/text_pass.h"

namespace voronoi::validation {
namespace {

using Clock = std::chrono::steady_clock;

/// Models that go over a text beside one reference: each holds its embedding and head.
constexpr std::size_t kSideBySide = 4;

struct PreparedText {
  model::Text text;
  model::Windows windows;
  std::string bos;
};

/// A text as the options have it.
struct NamedText {
  std::string name, path;
  std::optional<model::Join> join;  ///< nothing for "auto": the text's content tells
};

std::vector<NamedText> named_texts(const TextOptions& options) {
  const std::vector<std::string> names = core::words_of_list(options.names), joins = core::words_of_list(options.join);
  std::vector<NamedText> texts;
  for (std::size_t i = 0; i < options.texts.size(); ++i)
    texts.push_back({names.empty() ? std::filesystem::path(options.texts[i]).filename().string() : names.at(i),
                     options.texts[i], model::join_from_name(joins.size() == 1 ? joins.front() : joins.at(i))});
  return texts;
}

PreparedText prepare(const TextOptions& options, const NamedText& text, const run::Subject& subject) {
  const std::string& place = options.tokenizer.empty() ? subject.tokenizer : options.tokenizer;
  model::ModelChat chat(place);
  PreparedText prepared{model::load_text(text.path, text.join, &chat), {}, ""};
  const auto tokenizer = model::open_tokenizer(place);
  const model::BosRule rule = *model::bos_rule_from_name(options.bos);
  const std::vector<std::int32_t> ids = model::tokenize(*tokenizer, prepared.text, rule);
  const bool added =
      rule == model::BosRule::always || (rule == model::BosRule::automatic && tokenizer->automatic_bos().has_value());
  prepared.bos = added ? fmt::format("{}", ids.front()) : "none";
  model::warn_beyond_positions(subject.source().config(), options.context, subject.source().path());
  prepared.windows =
      model::leading_windows(ids, options.context, options.windows == 0 ? -1 : options.windows, text.path);
  return prepared;
}

/// Each window's number at `place`, over its predictions.
std::vector<double> window_means(const WindowRows& rows, std::size_t place, std::int64_t predictions) {
  std::vector<double> means;
  for (const auto& row : rows) means.push_back((*row)[place] / static_cast<double>(predictions));
  return means;
}

double mean_of(const WindowRows& rows, std::size_t place, std::int64_t predictions) {
  double total = 0;
  for (const auto& row : rows) total += (*row)[place];
  return total / static_cast<double>(std::ssize(rows) * predictions);
}

/// The evaluation of all subjects on one text.
class TextMeasurement {
 public:
  TextMeasurement(const comm::Communicator& world, backend::Context& context, const std::vector<run::Subject>& subjects,
                  const TextOptions& options, NamedText text, const TellResults& tell)
      : world_(world), context_(context), subjects_(subjects), options_(options), text_(std::move(text)), tell_(tell) {}

  void run() {
    std::size_t i = 0;
    while (i < subjects_.size()) {
      // Text and tokens are those of the first of a group.
      const run::Subject& subject = subjects_[i];
      PreparedText prepared;
      comm::together(world_, [&] { prepared = prepare(options_, text_, subject); });
      std::vector<const run::Subject*> group;
      do {
        if (const run::Subject& next = subjects_[i++]; !told_again(next, prepared)) group.push_back(&next);
      } while (i < subjects_.size() && group.size() < kSideBySide && compares(subject) && joins(subjects_[i], subject));
      if (group.empty()) continue;
      if (compares(subject))
        beside_reference(group, prepared);
      else
        alone(subject, prepared);
    }
  }

  /// Their figures are told, and runs keep those.
  void forget_own() const {
    for (const KeptWindows& kept : own_) kept.remove();
  }

 private:
  bool compares(const run::Subject& subject) const {
    return options_.divergence && subject.original != nullptr && subject.quantized != nullptr;
  }

  /// Whether a subject has the reference and the tokens of another.
  bool joins(const run::Subject& subject, const run::Subject& other) const {
    return compares(subject) && subject.tokenizer == other.tokenizer &&
           subject.original->fingerprint() == other.original->fingerprint();
  }

  core::DType dtype(const run::Subject& subject) const {
    return model::product_dtype(options_.dtype, context_, subject.source().config());
  }

  std::string key_of(const run::Subject& subject, const std::string& content, const PreparedText& prepared) const {
    return window_key(content, prepared.windows, dtype(subject), context_.device());
  }

  /// Of what its figures are: its own weights' alone, or beside the reference's.
  std::string own_key(const run::Subject& subject, const PreparedText& prepared, bool beside) const {
    return key_of(subject, beside ? subject.content + " beside " + subject.original->fingerprint() : subject.content,
                  prepared);
  }

  /// Tells the figures that the subject's run keeps of the measurement; false: there are none. Collective.
  bool told_again(const run::Subject& subject, const PreparedText& prepared) {
    if (!subject.run || subject.quantized == nullptr) return false;
    std::optional<Evaluation> stored;
    comm::on_root(world_, [&] {
      if (!compares(subject)) stored = find_stored_evaluation(*subject.run, own_key(subject, prepared, false));
      // Beside the reference there is the perplexity too.
      if (!stored) stored = find_stored_evaluation(*subject.run, own_key(subject, prepared, true));
    });
    if (world_.broadcast(stored ? "found" : "", 0).empty()) return false;
    if (!stored) stored.emplace();  // rank 0 alone tells
    // Run and text may have moved, or have other names.
    for (std::vector<Result>* results : {&stored->results, &stored->reference})
      for (Result& result : *results) {
        Result told = describe(subject, results == &stored->results, prepared, result.seconds);
        told.metric = result.metric;
        told.value = result.value;
        told.standard_error = result.standard_error;
        told.reference = result.reference;
        result = std::move(told);
      }
    if (!compares(subject))
      std::erase_if(stored->results, [](const Result& result) { return result.metric != kPerplexity; });
    comm::on_root(world_, [&] { tell_(subject, *stored); });
    return true;
  }

  KeptWindows open_kept(std::vector<std::filesystem::path> directories, const std::string& key,
                        const PreparedText& prepared, std::int64_t row_length) const {
    if (world_.rank() != 0) directories.clear();
    return {std::move(directories), key, prepared.windows.count, row_length};
  }

  struct Measured {
    WindowRows rows;
    double seconds = 0;
  };

  Measured likelihoods(const run::Subject& subject, const model::WeightSource& source, const PreparedText& prepared,
                       KeptWindows& kept) const {
    const Clock::time_point start = Clock::now();
    const double before = kept.seconds();
    const auto seconds = [&] { return before + std::chrono::duration<double>(Clock::now() - start).count(); };
    PassProgress progress;
    progress.rows = {kept.shared(world_)};
    progress.batch = options_.batch;
    progress.keep = [&](const std::vector<WindowRows>& rows) { kept.keep(rows.front(), seconds()); };
    progress.doing = options_.doing;
    WindowRows rows = likelihood_pass(source, context_, world_, prepared.windows, dtype(subject), std::move(progress));
    return {std::move(rows), seconds()};
  }

  Result describe(const run::Subject& subject, bool quantized, const PreparedText& prepared, double seconds) const {
    Result result;
    validation::describe(result, subject, quantized);
    result.task = text_.name;
    result.n = prepared.windows.count * (prepared.windows.context - 1);
    result.protocol = {{"text", prepared.text.path},
                       {"text_sha256", prepared.text.sha256},
                       {"join", model::join_name(prepared.text.join)},
                       {"context", prepared.windows.context},
                       {"windows", prepared.windows.count},
                       {"bos", prepared.bos},
                       {"dtype", model::product_dtype_name(dtype(subject))}};
    // A model may answer anything beyond the positions it was trained on.
    if (const std::int64_t trained = subject.source().config().max_position; prepared.windows.context > trained)
      result.protocol["beyond_positions"] = trained;
    result.seconds = seconds;
    return result;
  }

  /// From rows that hold sums of negative log-likelihood at `place`.
  static Result perplexity(Result result, const WindowRows& rows, std::size_t place, std::int64_t predictions) {
    result.metric = kPerplexity;
    result.value = std::exp(mean_of(rows, place, predictions));
    // Of the exponential, to first order.
    if (const auto error = standard_error(window_means(rows, place, predictions)))
      result.standard_error = result.value * *error;
    return result;
  }

  /// Of the unquantized model, computed once.
  const Result& reference(const run::Subject& subject, const PreparedText& prepared) {
    const std::string fingerprint = subject.original->fingerprint(), key = key_of(subject, fingerprint, prepared);
    if (const auto found = references_.find(key); found != references_.end()) return found->second;
    auto kept = open_kept(reference_directories(subjects_, options_.reference_cache, fingerprint), key, prepared, 1);
    const Measured measured = likelihoods(subject, *subject.original, prepared, kept);
    return references_
        .emplace(key, perplexity(describe(subject, false, prepared, measured.seconds), measured.rows, 0,
                                 prepared.windows.context - 1))
        .first->second;
  }

  void alone(const run::Subject& subject, const PreparedText& prepared) {
    Evaluation evaluation;
    if (subject.original != nullptr) evaluation.reference = {reference(subject, prepared)};
    if (subject.quantized == nullptr) {
      std::swap(evaluation.results, evaluation.reference);
    } else {
      evaluation.key = own_key(subject, prepared, false);
      own_.push_back(open_kept(own_directories(subject, options_.reference_cache), evaluation.key, prepared, 1));
      const Measured measured = likelihoods(subject, *subject.quantized, prepared, own_.back());
      evaluation.results = {perplexity(describe(subject, true, prepared, measured.seconds), measured.rows, 0,
                                       prepared.windows.context - 1)};
    }
    tell(subject, std::move(evaluation));
  }

  void beside_reference(const std::vector<const run::Subject*>& group, const PreparedText& prepared) {
    const model::WeightSource& original = *group.front()->original;
    const std::string fingerprint = original.fingerprint();
    const std::int64_t predictions = prepared.windows.context - 1;
    std::vector<const model::WeightSource*> models;
    std::vector<KeptWindows> kept;
    PassProgress progress;
    progress.batch = options_.batch;
    progress.doing = options_.doing;
    double before = 0;
    for (const run::Subject* subject : group) {
      models.push_back(subject->quantized.get());
      kept.push_back(open_kept(own_directories(*subject, options_.reference_cache), own_key(*subject, prepared, true),
                               prepared, kRowDivergences + predictions));
      progress.rows.push_back(kept.back().shared(world_));
      before = std::max(before, kept.back().seconds());
    }
    const Clock::time_point start = Clock::now();
    const auto seconds = [&] { return before + std::chrono::duration<double>(Clock::now() - start).count(); };
    progress.keep = [&](const std::vector<WindowRows>& rows) {
      for (std::size_t i = 0; i < kept.size(); ++i) kept[i].keep(rows[i], seconds());
    };
    const std::vector<WindowRows> rows = comparison_pass(original, models, context_, world_, prepared.windows,
                                                         dtype(*group.front()), std::move(progress));
    // The same for all of them; others find it where a perplexity alone is asked for.
    WindowRows of_reference;
    for (const auto& row : rows.front()) of_reference.push_back(std::vector<double>{(*row)[kRowReferenceNll]});
    const std::string key = key_of(*group.front(), fingerprint, prepared);
    open_kept(reference_directories(subjects_, options_.reference_cache, fingerprint), key, prepared, 1)
        .keep(of_reference, seconds());
    references_.insert_or_assign(
        key, perplexity(describe(*group.front(), false, prepared, seconds()), of_reference, 0, predictions));
    for (std::size_t i = 0; i < group.size(); ++i) {
      const Result common = describe(*group[i], true, prepared, seconds());
      Evaluation evaluation{{perplexity(common, rows[i], kRowNll, predictions)},
                            {references_.at(key)},
                            own_key(*group[i], prepared, true)};
      for (Result& result : divergences(common, rows[i], predictions)) evaluation.results.push_back(std::move(result));
      tell(*group[i], std::move(evaluation));
    }
    std::move(kept.begin(), kept.end(), std::back_inserter(own_));
  }

  static std::vector<Result> divergences(const Result& common, const WindowRows& rows, std::int64_t predictions) {
    std::vector<double> all, means;
    for (const auto& row : rows) {
      const auto begin = row->begin() + kRowDivergences;
      means.push_back(std::accumulate(begin, row->end(), 0.0) / static_cast<double>(predictions));
      all.insert(all.end(), begin, row->end());
    }
    Result mean = common, tail = common, same = common;
    mean.metric = kDivergence;
    mean.value = std::accumulate(means.begin(), means.end(), 0.0) / static_cast<double>(means.size());
    mean.standard_error = standard_error(means);
    mean.reference = 0;
    tail.metric = kDivergenceTail;
    // The smallest that is not below 99 % of them.
    const auto place = static_cast<std::ptrdiff_t>(std::ceil(0.99 * static_cast<double>(all.size()))) - 1;
    std::nth_element(all.begin(), all.begin() + place, all.end());
    tail.value = all[static_cast<std::size_t>(place)];
    tail.reference = 0;
    same.metric = kSameChoice;
    same.value = mean_of(rows, kRowSameChoices, predictions);
    same.standard_error = standard_error(window_means(rows, kRowSameChoices, predictions));
    same.reference = 1;
    return {std::move(mean), std::move(tail), std::move(same)};
  }

  void tell(const run::Subject& subject, Evaluation evaluation) const {
    if (!evaluation.reference.empty())
      for (Result& result : evaluation.results)
        if (result.metric == kPerplexity) result.reference = evaluation.reference.front().value;
    comm::on_root(world_, [&] { tell_(subject, evaluation); });
  }

  const comm::Communicator& world_;
  backend::Context& context_;
  const std::vector<run::Subject>& subjects_;
  const TextOptions& options_;
  const NamedText text_;
  const TellResults& tell_;
  std::map<std::string, Result> references_;  // by window_key()
  std::vector<KeptWindows> own_;              // of quantized weights
};

}  // namespace

std::vector<std::string> text_problems(const TextOptions& options) {
  std::vector<std::string> problems;
  const std::vector<std::string> names = core::words_of_list(options.names), joins = core::words_of_list(options.join);
  if (!names.empty() && names.size() != options.texts.size())
    problems.push_back(
        fmt::format("--text-names: {} names for {} texts; give one each", names.size(), options.texts.size()));
  if (std::any_of(names.begin(), names.end(), [](const std::string& name) { return name.empty(); }))
    problems.emplace_back("--text-names: a name is empty");
  if (std::set<std::string>(names.begin(), names.end()).size() != names.size())
    problems.emplace_back("--text-names: a name is there twice");
  for (const std::string& join : joins)
    if (join != "auto" && !model::join_from_name(join))
      problems.push_back(fmt::format("--join: '{}' must be one of auto, raw, wikitext, jsonl", join));
  if (joins.size() != 1 && joins.size() != options.texts.size())
    problems.push_back(fmt::format("--join: {} words for {} texts; give one for all, or one each", joins.size(),
                                   options.texts.size()));
  return problems;
}

void check_texts(const TextOptions& options, const model::Tokenizer& tokenizer, model::ModelChat& chat) {
  for (const NamedText& named : named_texts(options)) {
    const model::Text text = model::load_text(named.path, named.join, &chat);
    model::leading_windows(model::tokenize(tokenizer, text, model::BosRule::automatic), options.context, 1, named.path);
  }
}

void evaluate_texts(const comm::Communicator& world, backend::Context& context,
                    const std::vector<run::Subject>& subjects, const TextOptions& options, const TellResults& tell) {
  std::vector<std::unique_ptr<TextMeasurement>> texts;
  for (NamedText& text : named_texts(options)) {
    texts.push_back(std::make_unique<TextMeasurement>(world, context, subjects, options, std::move(text), tell));
    texts.back()->run();
  }
  for (const auto& text : texts) text->forget_own();
}

}  // namespace voronoi::validation
