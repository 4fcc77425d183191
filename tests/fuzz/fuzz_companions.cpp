// The small files of a model's folder that an export takes over: config.json, tokenizer_config.json,
// special_tokens_map.json, generation_config.json, chat_template.json, the code that the tokenizer's settings name, and
// the card, a zero byte between each two.
#include "export/hf_files.h"
#include "export/layout.h"
#include "export/model_card.h"
#include "fuzz/fuzz.h"
#include "model/chat_template.h"
#include "model/unicode.h"

namespace voronoi::fuzz {
namespace {

void check_card(const std::string& folder, const char* layout) {
  exporting::CardFacts facts{folder, exporting::find_layout(layout), "gptq", {}, 4.25, 4, 2, {}};
  facts.figures.push_back({"wikitext", "perplexity", "context 64", 20, 19.5});
  const std::string card = exporting::model_card(facts);
  require(model::is_valid_utf8(card), "a card that is not UTF-8");
  require(card.starts_with("---\n") && card.find("\n---\n\n# ") != std::string::npos, "front matter without an end");
  for (const char c : card)
    require(c == '\n' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F), "control characters in a card");
}

void run(std::string_view input) {
  static const Folder folder;
  for (const char* name : {"config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                           "chat_template.json"}) {
    const std::string_view content = take_text(input);
    folder.write(name, content.empty() ? "{}" : content);
  }
  folder.write("tokenization_x.py", take_text(input));
  folder.write("words.py", "from .tokenization_x import X\n");
  folder.write("README.md", input);

  accepts([&] {
    const std::string file = folder / "config.json";
    model::ModelConfig config = model::parse_config(core::read_json_file(file), file);
    model::add_generation_ends(folder.path(), config);
    for (const std::int64_t id : config.end_ids) require(id >= 0 && id < config.vocab_size, "an end that is no token");
    const core::Json written = exporting::original_config(folder.path(), config);
    require(!written.contains("auto_map") && !written.contains("quantization_config"), "keys that are to go");
    model::parse_config(written, "config.json of an export");
  });
  accepts([&] {
    for (const auto& [name, content] : exporting::companion_files(folder.path(), folder.path()))
      require(std::filesystem::exists(folder / name) && name.find("..") == std::string::npos, "a file from elsewhere");
  });
  accepts([&] { check_card(folder.path(), "gptq"); });
  accepts([&] {
    const auto chat = model::find_chat_template(folder.path());
    if (!chat) return;
    static_cast<void>(chat->render({{"messages", {{{"role", "user"}, {"content", "q"}}}}}, "d.jsonl: line 1"));
  });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
