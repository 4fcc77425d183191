// Checks a sentencepiece model file before its library, which trusts it in places, gets it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace voronoi::model {

/// Throws FormatError naming the file and the byte or piece at fault.
void check_sentencepiece_model(std::span<const std::byte> bytes, const std::string& file);

}  // namespace voronoi::model
