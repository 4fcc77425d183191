// Two models' predictions of the same tokens, side by side.
#include <algorithm>

#include "model/transformer_impl.h"

namespace voronoi::model {

using backend::Array;

Transformer::Comparison Transformer::compare_predictions(const HiddenStates& hidden, Transformer& reference,
                                                         const HiddenStates& reference_hidden,
                                                         std::span<const std::int32_t> ids) {
  Impl &own = *impl_, &other = *reference.impl_;
  own.check_hidden(hidden);
  other.check_hidden(reference_hidden);
  VORONOI_REQUIRE(hidden.n_sequences == reference_hidden.n_sequences && hidden.n_tokens == reference_hidden.n_tokens &&
                      static_cast<std::int64_t>(ids.size()) == hidden.n_sequences * hidden.n_tokens,
                  "both models have seen the same ids [n_sequences, n_tokens]");
  own.check_ids(ids);
  const std::int64_t vocab = own.config.vocab_size;
  if (vocab != other.config.vocab_size)
    throw core::FormatError(own.source.path(), "has a vocabulary of " + std::to_string(vocab) + ", and " +
                                                   other.source.path() + " one of " +
                                                   std::to_string(other.config.vocab_size) +
                                                   ": compare models with the same tokenizer");
  backend::Context& context = own.context;
  const auto& exec = context.exec();
  const Predictions predicted = predictions(hidden, ids);
  Comparison result;
  result.nll.resize(predicted.rows.size());
  result.reference_nll.resize(predicted.rows.size());
  result.divergence.resize(predicted.rows.size());
  const auto most = static_cast<std::int64_t>(std::min(own.slab_rows(), predicted.rows.size()));
  Array<double> figure(context, most);
  Array<std::int32_t> place(context, most);
  Array<float> own_logits, other_logits;
  own.for_each_slab(
      predicted.rows.size(), static_cast<std::size_t>(hidden.n_tokens) - 1, [&](std::size_t first, std::size_t count) {
        const auto n = static_cast<std::int64_t>(count);
        const auto rows = std::span<const std::int32_t>(predicted.rows).subspan(first, count);
        const Array<std::int32_t> target(context,
                                         std::span<const std::int32_t>(predicted.targets).subspan(first, count));
        float* theirs = other.slab_logits(reference_hidden.values, rows, other_logits);
        float* ours = own.slab_logits(hidden.values, rows, own_logits);
        const auto to_host = [&](std::vector<double>& figures) {
          context.memory().copy_to_host(exec, figure.data(), static_cast<std::int64_t>(count * sizeof(double)),
                                        figures.data() + first);
        };
        const auto choices = [&](const float* logits) {
          std::vector<std::int32_t> chosen(count);
          context.nn().argmax(exec, n, vocab, logits, vocab, place.data());
          context.memory().copy_to_host(exec, place.data(), static_cast<std::int64_t>(count * sizeof(std::int32_t)),
                                        chosen.data());
          return chosen;
        };
        context.nn().nll(exec, n, vocab, theirs, vocab, target.data(), figure.data());
        to_host(result.reference_nll);
        context.nn().nll(exec, n, vocab, ours, vocab, target.data(), figure.data());
        to_host(result.nll);
        const std::vector<std::int32_t> their_choice = choices(theirs), our_choice = choices(ours);
        for (std::size_t i = 0; i < count; ++i) result.same_choice.push_back(their_choice[i] == our_choice[i]);
        // The last, for it leaves derivatives where our logits were.
        context.nn_gradient().divergence(exec, n, vocab, 0, theirs, ours, vocab, figure.data());
        to_host(result.divergence);
      });
  return result;
}

}  // namespace voronoi::model
