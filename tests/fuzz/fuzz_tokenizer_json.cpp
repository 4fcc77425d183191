// A directory's tokenizer.json, a zero byte, and its tokenizer_config.json.
#include "fuzz/fuzz.h"
#include "fuzz/tokenizer_use.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace voronoi;
  static const fuzz::Folder folder;
  std::string_view input = fuzz::text_of(data, size);
  const std::string_view tokenizer = fuzz::take_text(input);
  folder.write("tokenizer.json", tokenizer);
  folder.write("tokenizer_config.json", input.empty() ? "{}" : input);
  fuzz::accepts([&] { fuzz::use_tokenizer(*model::open_tokenizer(folder.path()), tokenizer); });
  return 0;
}
