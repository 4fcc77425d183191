// README.md of an exported directory: the front matter that model hubs read, figures, and how to load it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "export/layout.h"

namespace voronoi::exporting {

/// A figure of the run, see validation/result.h.
struct CardFigure {
  std::string task, metric, protocol;
  double value = 0;
  std::optional<double> reference;  ///< the unquantized model's
};

struct CardFacts {
  std::string model;  ///< path of the original: a Hugging Face directory or a GGUF file
  const Layout* layout = nullptr;
  std::string method;
  Profile profile = Profile::safe;  ///< of the layout vptq
  double true_bits = 0, nominal_bits = 0;
  std::int64_t linears = 0;
  std::vector<CardFigure> figures;
};

/// The same facts give the same text anywhere: no dates, no paths. License and languages are those of the original's
/// own README.md where that tells them; `base_model` its name on a hub where config.json or the path tells it. Throws
/// StoreError where the original's README.md or config.json cannot be read.
std::string model_card(const CardFacts& facts);

}  // namespace voronoi::exporting
