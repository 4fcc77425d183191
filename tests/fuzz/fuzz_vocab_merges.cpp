// GPT-2's files: vocab.json, merges.txt and tokenizer_config.json, a zero byte between each two.
#include "fuzz/fuzz.h"
#include "fuzz/tokenizer_use.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace voronoi;
  static const fuzz::Folder folder;
  std::string_view input = fuzz::text_of(data, size);
  const std::string_view vocabulary = fuzz::take_text(input);
  folder.write("vocab.json", vocabulary);
  folder.write("merges.txt", fuzz::take_text(input));
  folder.write("tokenizer_config.json", input.empty() ? "{}" : input);
  fuzz::accepts([&] { fuzz::use_tokenizer(*model::open_tokenizer(folder.path()), vocabulary); });
  return 0;
}
