// Where the backward pass begins and ends: losses over slabs of logits, and the embedding.
#include <algorithm>
#include <numeric>

#include "core/work_counts.h"
#include "model/transformer_impl.h"
#include "model/two_way_divergence.h"

namespace voronoi::model {

using backend::Array;

Transformer::LossGradient Transformer::Impl::loss_gradient(const HiddenStates& hidden, const HiddenStates* teacher,
                                                           std::span<const std::int32_t> rows,
                                                           std::span<const std::int32_t> targets,
                                                           std::int64_t rows_a_sequence, float factor,
                                                           const Array<float>* norm_weight, bool with_head,
                                                           double reverse) {
  const auto& exec = context.exec();
  const std::int64_t dim = config.hidden_size, vocab = config.vocab_size;
  const bool backward = factor != 0, capped = config.logit_softcap > 0;
  if (norm_weight == nullptr) norm_weight = &final_norm_weight();
  LossGradient result;
  result.loss.resize(rows.size());
  if (backward) {
    result.hidden = {hidden.n_sequences, hidden.n_tokens, Array<float>(context, hidden.values.size())};
    result.hidden.values.zero();
    result.norm = Array<float>(context, dim);
    result.norm.zero();
    if (with_head) {
      result.head = Array<float>(context, product(vocab, dim));
      result.head.zero();
    }
  }
  Array<double> loss(context, static_cast<std::int64_t>(std::min(slab_rows(), rows.size())));
  for_each_slab(rows.size(), static_cast<std::size_t>(rows_a_sequence), [&](std::size_t first, std::size_t count) {
    const auto n = static_cast<std::int64_t>(count);
    const std::span<const std::int32_t> slab = rows.subspan(first, count);
    // Before the student's, whose normed rows are needed below.
    const float* teacher_logits = teacher == nullptr ? nullptr : slab_logits(teacher->values, slab, work_teacher);
    float* logits = slab_logits(hidden.values, slab, work_wide, norm_weight, &work_raw);
    float* values = nullptr;
    if (backward && capped) {
      values = grow(context, work_split, product(n, vocab));
      context.memory().copy_on_device(exec, logits, product(product(n, vocab), sizeof(float)), values);
    }
    if (teacher != nullptr && reverse > 0) {
      two_way_divergence(context, n, vocab, reverse, static_cast<double>(factor), teacher_logits, logits,
                         result.loss.data() + first);
    } else if (teacher != nullptr) {
      context.nn_gradient().divergence(exec, n, vocab, factor, teacher_logits, logits, vocab, loss.data());
    } else {
      const Array<std::int32_t> target(context, targets.subspan(first, count));
      context.nn_gradient().cross_entropy(exec, n, vocab, factor, target.data(), logits, vocab, loss.data());
    }
    if (reverse == 0)
      context.memory().copy_to_host(exec, loss.data(), static_cast<std::int64_t>(count * sizeof(double)),
                                    result.loss.data() + first);
    if (!backward) return;
    if (capped)
      context.nn_gradient().soft_cap(exec, n * vocab, static_cast<float>(config.logit_softcap), values, logits);
    if (config.logit_scale != 1) context.nn().scale(exec, n * vocab, static_cast<float>(config.logit_scale), logits);
    const float* normed = work_normed.data();
    if (with_head) {
      core::count_product(vocab, dim, n);
      context.linalg().gemm_f32(exec, true, false, vocab, dim, n, 1.0F, logits, vocab, normed, dim, 1.0F,
                                result.head.data(), dim);
    }
    float* d_normed = grow(context, work_d_normed, product(n, dim));
    multiply_transposed(context, head_table(), n, vocab, dim, logits, false, d_normed);
    norm_gradient(n, dim, work_raw.data(), norm_weight->data(), d_normed, false, d_normed, result.norm.data());
    const Array<std::int32_t> index(context, slab);
    context.nn_gradient().scatter_rows(exec, index.data(), n, dim, d_normed, result.hidden.values.data());
  });
  return result;
}

Transformer::LossGradient Transformer::cross_entropy(const HiddenStates& hidden, std::span<const std::int32_t> ids,
                                                     float factor, const Array<float>* norm, bool with_head) {
  impl_->check_hidden(hidden);
  VORONOI_REQUIRE(static_cast<std::int64_t>(ids.size()) == hidden.n_sequences * hidden.n_tokens,
                  "ids must be [n_sequences, n_tokens]");
  impl_->check_ids(ids);
  const Predictions predicted = predictions(hidden, ids);
  return impl_->loss_gradient(hidden, nullptr, predicted.rows, predicted.targets, hidden.n_tokens - 1, factor, norm,
                              with_head);
}

Transformer::LossGradient Transformer::divergence(const HiddenStates& hidden, const HiddenStates& teacher, float factor,
                                                  const Array<float>* norm, bool with_head, double reverse) {
  impl_->check_hidden(hidden);
  impl_->check_hidden(teacher);
  VORONOI_REQUIRE(hidden.n_sequences == teacher.n_sequences && hidden.n_tokens == teacher.n_tokens,
                  "student and teacher have hidden states of one shape");
  std::vector<std::int32_t> rows(static_cast<std::size_t>(hidden.n_sequences * hidden.n_tokens));
  std::iota(rows.begin(), rows.end(), 0);
  return impl_->loss_gradient(hidden, &teacher, rows, {}, hidden.n_tokens, factor, norm, with_head, reverse);
}

Array<float> Transformer::final_norm() const { return impl_->load_norm("model.norm.weight"); }

void Transformer::add_embedding_gradient(std::span<const std::int32_t> ids, const HiddenStates& gradient,
                                         Array<float>& table) const {
  impl_->check_hidden(gradient);
  const std::int64_t dim = impl_->config.hidden_size;
  VORONOI_REQUIRE(static_cast<std::int64_t>(ids.size()) == gradient.n_sequences * gradient.n_tokens &&
                      table.size() == product(impl_->config.vocab_size, dim),
                  "ids must be [n_sequences, n_tokens], the table [vocab, hidden_size]");
  impl_->check_ids(ids);
  backend::Context& context = impl_->context;
  const Array<std::int32_t> device_ids(context, ids);
  const float* values = gradient.values.data();
  Array<float> scaled;
  if (impl_->config.embedding_scale != 1) {
    scaled = gradient.values.clone();
    context.nn().scale(context.exec(), scaled.size(), static_cast<float>(impl_->config.embedding_scale), scaled.data());
    values = scaled.data();
  }
  context.nn_gradient().scatter_rows(context.exec(), device_ids.data(), static_cast<std::int64_t>(ids.size()), dim,
                                     values, table.data());
}

}  // namespace voronoi::model
