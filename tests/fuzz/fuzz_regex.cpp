// A tokenizer's regular expression, a zero byte, and the text it splits: the pieces are the text.
#include "fuzz/fuzz.h"
#include "model/regex_split.h"
#include "model/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace voronoi;
  std::string_view input = fuzz::text_of(data, size);
  const std::string_view pattern = fuzz::take_text(input);
  std::string storage;
  const std::string_view text = model::valid_utf8(input, storage);
  fuzz::accepts([&] {
    const model::Regex regex(pattern, "tokenizer.json");
    static model::Regex::Workspace workspace;
    std::string pieces;
    regex.split(text, workspace, [&](std::string_view piece, bool) {
      fuzz::require(!piece.empty(), "an empty piece");
      fuzz::require(model::is_valid_utf8(piece), "a cut inside a character");
      pieces += piece;
    });
    fuzz::require(pieces == text, "the pieces are not the text");
  });
  return 0;
}
