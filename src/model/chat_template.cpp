#include "model/chat_template.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "model/gguf.h"
#include "model/jinja/lexer.h"
#include "model/jinja/renderer.h"
#include "model/jinja/syntax.h"
#include "model/tokenizer_settings.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

constexpr const char* kDefaultTemplate = "default";

/// The text of a message: a string, or the texts of its parts.
Json content_of(const Json& content, const std::string& where) {
  if (!content.is_array()) {
    if (content.is_string() || content.is_null()) return content;
    throw FormatError(where, "has a content that is neither a string nor a list of parts");
  }
  std::string text;
  for (const Json& part : content) {
    const auto held = part.is_object() ? part.find("text") : part.end();
    if (part.is_string())
      text += part.get_ref<const std::string&>();
    else if (part.is_object() && held != part.end() && held->is_string())
      text += held->get_ref<const std::string&>();
    else
      throw FormatError(where, "has a part without a \"text\" (an image, a sound?); leave the conversation out");
  }
  return text;
}

Json messages_of(const Json& document, const std::string& place) {
  Json messages = document.at("messages");
  if (messages.empty()) throw FormatError(place, "has no message");
  for (std::size_t i = 0; i < messages.size(); ++i) {
    Json& message = messages[i];
    const std::string where = fmt::format("{}, message {}", place, i + 1);
    if (!message.is_object() || !message.contains("role") || !message.at("role").is_string())
      throw FormatError(where, "is no object with a \"role\" and a \"content\"");
    if (message.contains("content")) message["content"] = content_of(message.at("content"), where);
  }
  return messages;
}

/// A template's text, and where it stands.
struct Found {
  std::string source, file;
};

Found of_config(const Json& value, const std::string& file) {
  if (value.is_string()) return {value.get<std::string>(), file};
  if (!value.is_array()) throw FormatError(file, "chat_template is neither a string nor a list of named ones");
  std::string names;
  const auto text_of = [&](const Json& entry, const char* key) {
    if (!entry.is_object() || !entry.contains(key) || !entry.at(key).is_string())
      throw FormatError(file, fmt::format("an entry of chat_template has no string \"{}\"", key));
    return entry.at(key).get<std::string>();
  };
  for (const Json& entry : value) {
    const std::string name = text_of(entry, "name");
    if (name == kDefaultTemplate) return {text_of(entry, "template"), file};
    names += (names.empty() ? "" : ", ") + name;
  }
  throw FormatError(file,
                    fmt::format("has chat templates ({}), and none of them is called {}", names, kDefaultTemplate));
}

std::optional<Found> find_in_folder(const std::filesystem::path& folder) {
  if (const auto file = folder / "chat_template.jinja"; std::filesystem::exists(file))
    return Found{core::read_text_file(file.string(), jinja::kMostTemplateBytes), file.string()};
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    const std::filesystem::path file = folder / name;
    if (!std::filesystem::exists(file)) continue;
    const Json json = core::read_json_file(file.string());
    if (const auto value = json.find("chat_template"); json.is_object() && value != json.end() && !value->is_null())
      return of_config(*value, file.string());
  }
  return std::nullopt;
}

std::optional<ChatTemplate> find_in_gguf(const std::string& path) {
  const GgufFile gguf(path);
  const GgufValue* source = gguf.find("tokenizer.chat_template");
  if (source == nullptr) return std::nullopt;
  std::map<std::string, std::string> tokens;
  const GgufValue* all = gguf.find("tokenizer.ggml.tokens");
  for (const auto& [key, name] :
       {std::pair("bos", "bos_token"), std::pair("eos", "eos_token"), std::pair("unknown", "unk_token"),
        std::pair("padding", "pad_token"), std::pair("seperator", "sep_token")}) {
    const GgufValue* id = gguf.find(fmt::format("tokenizer.ggml.{}_token_id", key));
    if (id != nullptr && all != nullptr && id->as_u64() < all->as_strings().size())
      tokens[name] = all->as_strings()[id->as_u64()];
  }
  return ChatTemplate(source->as_string(), path, std::move(tokens));
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, std::string file, std::map<std::string, std::string> tokens,
                           const jinja::Limits& limits)
    : file_(std::move(file)), tokens_(std::move(tokens)), limits_(limits) {
  syntax_ = std::make_unique<jinja::Syntax>(jinja::parse(source, file_));
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const Json& document, const std::string& place) const {
  std::vector<std::pair<std::string, jinja::Value>> variables;
  try {
    variables.emplace_back("messages", jinja::from_json(messages_of(document, place)));
    const auto tools = document.find("tools");
    variables.emplace_back("tools", tools == document.end() ? jinja::Value() : jinja::from_json(*tools));
    variables.emplace_back("documents", jinja::Value());
    variables.emplace_back("add_generation_prompt", jinja::Value::boolean(false));
    for (const auto& [name, text] : tokens_) variables.emplace_back(name, jinja::Value::text(text));
    return jinja::render(*syntax_, file_, variables, limits_);
  } catch (const jinja::Fault& fault) {
    throw FormatError(place, fault.message());
  } catch (const jinja::Refusal& refusal) {
    throw FormatError(place, fmt::format("the chat template of {} refuses the conversation: {}; leave it out", file_,
                                         refusal.message()));
  } catch (FormatError& error) {
    if (!std::string_view(error.what()).starts_with(place)) error.add_context(place);
    throw;
  }
}

std::optional<ChatTemplate> find_chat_template(const std::string& path) {
  if (!std::filesystem::is_directory(path) && is_gguf_file(path)) return find_in_gguf(path);
  const std::filesystem::path place(path);
  const std::filesystem::path folder = std::filesystem::is_directory(place) ? place
                                       : place.parent_path().empty()        ? std::filesystem::path(".")
                                                                            : place.parent_path();
  const std::optional<Found> found = find_in_folder(folder);
  if (!found) return std::nullopt;
  return ChatTemplate(found->source, found->file, read_tokenizer_settings(folder.string()).special_names);
}

std::string ModelChat::render(const Json& document, const std::string& place) {
  if (!template_) template_ = find_chat_template(tokenizer_);
  if (!template_)
    throw FormatError(place, fmt::format("is a conversation (\"messages\"), and {} has no chat template to read it by; "
                                         "put the model's chat_template.jinja beside its tokenizer, or give documents "
                                         "with a \"text\"",
                                         tokenizer_));
  return template_->render(document, place);
}

}  // namespace voronoi::model
