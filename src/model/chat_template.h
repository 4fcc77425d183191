// Conversations as the text that a model was trained on: its chat template, rendered as transformers renders it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"
#include "model/jinja/limits.h"

namespace voronoi::model {

namespace jinja {
struct Syntax;
}

/// A template of Jinja, with trim_blocks and lstrip_blocks, in which special tokens of the tokenizer are variables
/// ("bos_token"). What of Jinja is not understood is refused with its line; a template counts as hostile: depth, steps
/// and text are bounded.
class ChatTemplate {
 public:
  /// `file`: where it stands, for messages. Throws FormatError.
  ChatTemplate(std::string_view source, std::string file, std::map<std::string, std::string> tokens,
               const jinja::Limits& limits = {});
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// The text of an object with "messages", a list of {"role", "content"}, and perhaps "tools"; a content may be a list
  /// of parts with a text. No prompt for an answer is added. Throws FormatError naming `place`: for messages of another
  /// form, and where the template refuses the conversation or cannot be evaluated.
  std::string render(const core::Json& document, const std::string& place) const;

 private:
  std::unique_ptr<jinja::Syntax> syntax_;
  std::string file_;
  std::map<std::string, std::string> tokens_;
  jinja::Limits limits_;
};

/// The template of a tokenizer, as open_tokenizer takes its path: chat_template.jinja, "chat_template" of
/// tokenizer_config.json (of several that of the name "default"), chat_template.json, or `tokenizer.chat_template` of a
/// GGUF file. Nothing where there is none. Throws FormatError / StoreError.
std::optional<ChatTemplate> find_chat_template(const std::string& path);

/// The template of a tokenizer, looked for when the first conversation is met.
class ModelChat {
 public:
  explicit ModelChat(std::string tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// As ChatTemplate::render; throws FormatError with the remedy where the model has no template.
  std::string render(const core::Json& document, const std::string& place);

 private:
  std::string tokenizer_;
  std::optional<ChatTemplate> template_;
};

}  // namespace voronoi::model
