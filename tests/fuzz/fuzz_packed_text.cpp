// A packed text: as it is given, and packed from the input in up to nine pieces.
#include "fuzz/fuzz.h"
#include "model/packed_text.h"
#include "support/packed.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  if (model::packing_of(input) != model::TextPacking::none)
    accepts([&] {
      const std::string text = model::unpack(input, "text");
      require(text.size() <= model::kAlwaysUnpackedBytes + model::kMostUnpackedRatio * input.size(),
              "beyond the bound");
    });
  if (input.empty()) return;
  const std::size_t piece = 1 + input.size() / (1 + static_cast<unsigned char>(input.front()) % 8);
  constexpr int kWindow = 9, kMemory = 1;  // the packer's memory costs more than the rest
  std::string gzip, zstd;
  for (std::size_t at = 0; at < input.size(); at += piece) {
    gzip += test::gzip(input.substr(at, piece), 1, kWindow, kMemory);
    zstd += test::zstd(input.substr(at, piece), 1);
  }
  require(model::unpack(gzip, "text") == input, "gzip does not come back");
  require(model::unpack(zstd, "text") == input, "Zstandard does not come back");
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
