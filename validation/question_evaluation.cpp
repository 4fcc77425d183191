#include "validation/question_evaluation.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "comm/agreement.h"
#include "model/precision.h"
#include "model/tokenizer.h"
#include "validation/kept_likelihoods.h"

namespace voronoi::validation {
namespace {

class QuestionMeasurement {
 public:
  QuestionMeasurement(const comm::Communicator& world, backend::Context& context,
                      const std::vector<run::Subject>& subjects, const QuestionProtocol& protocol,
                      const TellResults& tell)
      : world_(world), context_(context), subjects_(subjects), protocol_(protocol), tell_(tell) {}

  void run() {
    for (const run::Subject& subject : subjects_) {
      comm::together(world_, [&] { prepare(subject); });
      Evaluation evaluation;
      if (subject.original != nullptr) evaluation.reference = reference(subject);
      if (subject.quantized == nullptr) {
        std::swap(evaluation.results, evaluation.reference);
      } else {
        auto kept = open_kept(own_directories(subject, protocol_.reference_cache), subject.content, subject);
        evaluation.results = answers(subject, true, kept);
        for (std::size_t i = 0; i < evaluation.reference.size(); ++i)
          evaluation.results[i].reference = evaluation.reference[i].value;
      }
      comm::on_root(world_, [&] { tell_(subject, evaluation); });
    }
  }

 private:
  /// The questions as this subject's tokenizer puts them; those of the subject before where they are the same.
  void prepare(const run::Subject& subject) {
    const std::string tokenizer = protocol_.tokenizer.empty() ? subject.tokenizer : protocol_.tokenizer;
    const model::ModelConfig& config = subject.source().config();
    const std::string same = tokenizer + "\n" + config.model_type + " " + std::to_string(config.max_position) + " " +
                             std::to_string(config.vocab_size);
    if (questions_ && prepared_for_ == same) return;
    questions_.emplace(protocol_.questions, *model::open_tokenizer(tokenizer), config);
    prepared_for_ = same;
    if (world_.rank() == 0) questions_->warn_of_faults();
  }

  core::DType dtype(const run::Subject& subject) const {
    return model::product_dtype(protocol_.dtype, context_, subject.source().config());
  }

  KeptLikelihoods open_kept(std::vector<std::filesystem::path> directories, const std::string& content,
                            const run::Subject& subject) const {
    if (world_.rank() != 0) directories.clear();
    KeptLikelihoods kept;
    for (const AskedTask& asked : questions_->tasks()) {
      const std::span<const ScoredInput> inputs = questions_->inputs_of(asked);
      kept.add(directories, likelihood_key(content, inputs, dtype(subject), context_.device()), std::ssize(inputs));
    }
    return kept;
  }

  std::vector<Result> answers(const run::Subject& subject, bool quantized, KeptLikelihoods& kept) const {
    const double before = kept.seconds();
    LikelihoodProgress progress = kept.progress(world_);
    progress.batch = protocol_.batch;
    progress.doing = protocol_.doing;
    const model::WeightSource& source = quantized ? *subject.quantized : *subject.original;
    std::vector<Result> results =
        answer_questions(*questions_, source, context_, world_, dtype(subject), std::move(progress));
    for (Result& result : results) {
      describe(result, subject, quantized);
      result.seconds += before;
    }
    return results;
  }

  /// Of the unquantized model, computed once.
  const std::vector<Result>& reference(const run::Subject& subject) {
    const std::string fingerprint = subject.original->fingerprint();
    const std::string key = likelihood_key(fingerprint, questions_->inputs(), dtype(subject), context_.device());
    if (const auto found = references_.find(key); found != references_.end()) return found->second;
    auto kept =
        open_kept(reference_directories(subjects_, protocol_.reference_cache, fingerprint), fingerprint, subject);
    return references_.emplace(key, answers(subject, false, kept)).first->second;
  }

  const comm::Communicator& world_;
  backend::Context& context_;
  const std::vector<run::Subject>& subjects_;
  const QuestionProtocol& protocol_;
  const TellResults& tell_;
  std::optional<QuestionSet> questions_;
  std::string prepared_for_;
  std::map<std::string, std::vector<Result>> references_;  // by likelihood_key()
};

}  // namespace

void evaluate_questions(const comm::Communicator& world, backend::Context& context,
                        const std::vector<run::Subject>& subjects, const QuestionProtocol& protocol,
                        const TellResults& tell) {
  QuestionMeasurement(world, context, subjects, protocol, tell).run();
}

}  // namespace voronoi::validation
