#include "validation/request_encoder.h"

#include <algorithm>

#include "core/error.h"
#include "validation/text_filter.h"

namespace voronoi::validation {

RequestEncoder::RequestEncoder(const model::Tokenizer& tokenizer, const model::ModelConfig& config, model::BosRule rule)
    : tokenizer_(tokenizer), prefix_(tokenizer.bos_id()) {
  if (!prefix_ && !config.end_ids.empty()) prefix_ = static_cast<std::int32_t>(config.end_ids.front());
  if (rule == model::BosRule::never) return;
  if (rule == model::BosRule::automatic && !config.model_type.starts_with("gemma")) return;
  bos_ = tokenizer.bos_id();
  if (!bos_ && rule == model::BosRule::always)
    throw core::ConfigError("--bos always: the tokenizer has no BOS token; use auto or never");
}

std::vector<std::int32_t> RequestEncoder::ids_of(std::string_view text) const {
  std::vector<std::int32_t> ids = tokenizer_.encode(text);
  if (bos_) ids.insert(ids.begin(), *bos_);
  return ids;
}

std::int32_t RequestEncoder::prefix(const std::string& name) const {
  if (!prefix_)
    throw core::FormatError(name,
                            "has nothing before the first token, and the model has neither a BOS id nor one that "
                            "ends a text; give it a context");
  return *prefix_;
}

LikelihoodRequest RequestEncoder::encode(std::string name, std::string_view context, std::string_view continuation) {
  LikelihoodRequest request{std::move(name), {}, {}};
  const std::string_view kept = stripped_end(context);
  const std::string whole = std::string(context).append(continuation);
  if (!kept.empty() && (!last_ids_ || last_context_ != kept)) {
    last_ids_ = ids_of(kept);
    last_context_ = kept;
  }
  std::vector<std::int32_t> ids = ids_of(whole);
  if (kept.empty()) {
    request.context = {prefix(request.name)};
    request.continuation = std::move(ids);
    return request;
  }
  request.context = *last_ids_;
  const std::size_t n_context = std::min(last_ids_->size(), ids.size());
  request.continuation.assign(ids.begin() + static_cast<std::ptrdiff_t>(n_context), ids.end());
  return request;
}

std::vector<LikelihoodRequest> RequestEncoder::rolling(const std::string& name, std::string_view text,
                                                       std::int64_t max_length) const {
  const std::vector<std::int32_t> ids = ids_of(text);
  if (ids.empty()) throw core::FormatError(name, "is a text without a token");
  std::vector<LikelihoodRequest> requests;
  const std::int64_t n = std::ssize(ids);
  for (std::int64_t done = 0, end = 0; done < n; done = end) {
    end = std::min(done + max_length, n);
    LikelihoodRequest request{name, {}, {ids.begin() + done, ids.begin() + end}};
    if (done == 0)
      request.context = {prefix(name)};
    else
      request.context = {ids.begin() + std::max<std::int64_t>(0, end - max_length - 1), ids.begin() + done};
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace voronoi::validation
