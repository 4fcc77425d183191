// What stands beside a tokenizer's own file: added_tokens.json, special_tokens_map.json, tokenizer_config.json and
// config.json, a zero byte between each two, beside a small tokenizer.json.
#include "fuzz/fuzz.h"
#include "fuzz/tokenizer_use.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace voronoi;
  static const fuzz::Folder folder;
  folder.write("tokenizer.json",
               R"({"added_tokens": [{"id": 2, "content": "<s>", "special": true}], "normalizer": {"type": "NFC"},
                   "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
                   "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})");
  std::string_view input = fuzz::text_of(data, size);
  for (const char* name : {"added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "config.json"}) {
    const std::string_view content = fuzz::take_text(input);
    folder.write(name, content.empty() ? "{}" : content);
  }
  fuzz::accepts([&] { fuzz::use_tokenizer(*model::open_tokenizer(folder.path()), fuzz::text_of(data, size)); });
  return 0;
}
