// The JSON under all other formats: what is accepted is written and read again as the same.
#include "core/json.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace voronoi;
  const std::string_view input = fuzz::text_of(data, size);
  fuzz::check_message(core::quote_text(input));
  fuzz::accepts([&] {
    const core::Json value = core::parse_json(input, "file.json");
    fuzz::require(core::parse_json(value.dump(), "copy.json") == value, "a value written and read is another one");
    fuzz::require(core::parse_json(value.dump(2, ' ', true), "copy.json") == value, "so is one in ASCII");
  });
  return 0;
}
