// sentencepiece's tokenizer.model: checked by us, read by its library.
#include "fuzz/fuzz.h"
#include "fuzz/tokenizer_use.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace voronoi;
  static const fuzz::Folder folder;
  const std::string_view input = fuzz::text_of(data, size);
  const std::string path = folder.write("tokenizer.model", input);
  fuzz::accepts([&] { fuzz::use_tokenizer(*model::open_tokenizer(path), input); });
  return 0;
}
