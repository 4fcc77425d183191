// A text for calibration or evaluation, read in each of the three ways and as its content tells and cut into windows.
#include <optional>

#include "fuzz/fuzz.h"
#include "model/calibration_windows.h"
#include "model/corpus.h"
#include "model/packed_text.h"
#include "model/text_kind.h"
#include "model/unicode.h"
#include "support/byte_tokenizer.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  const std::string path = folder.write("text.jsonl", input);
  using Joins = std::optional<model::Join>;
  for (const Joins join : {Joins(model::Join::raw), Joins(model::Join::wikitext), Joins(model::Join::jsonl), Joins()})
    accepts([&] {
      const model::Text text = model::load_text(path, join);
      require(join != model::Join::raw || text.content == model::without_mark(input) ||
                  model::packing_of(input) != model::TextPacking::none,
              "a raw text is another one");
      require(join != model::Join::jsonl || model::is_valid_utf8(text.content), "JSON that is not UTF-8");
      const auto ids = model::tokenize(test::byte_tokenizer(), text, model::BosRule::automatic);
      std::string storage;
      require(test::byte_tokenizer().decode(ids) == model::valid_utf8(text.content, storage),
              "bytes that do not come back");
      accepts([&] {
        const model::Windows windows = model::leading_windows(ids, 16, -1, path);
        require(static_cast<std::int64_t>(windows.ids.size()) == windows.count * windows.context, "size of windows");
      });
      const auto all = model::calibration_windows(test::byte_tokenizer(), {text, text}, {5, 8, {}, true});
      require(all.windows.ids.size() == 40, "size of calibration windows");
      const auto once = model::calibration_windows(test::byte_tokenizer(), {text, text}, {5, 8, {2000, 500}, false});
      require(once.windows.count + once.shares[0].duplicates + once.shares[1].duplicates == 5, "windows that are lost");
    });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
