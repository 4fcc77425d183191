// Scales of columns on their way into a checkpoint: no public layout has them, so they go into what computes the input
// of their linears.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "format/encoding.h"
#include "model/config.h"
#include "model/input_scale.h"

namespace voronoi::exporting {

/// A uniform layer with scales c of its columns computes G (c * x): without them its codes and grids, to the bit, are
/// G, and c moves to where x comes from (model/input_scale.h). There it is rounded once to the stored type: in the
/// weight of a norm, w c; in the scales of v's or up's rows, which are integers as they were; in a bias, or in a matrix
/// that was left as it is. A norm that multiplies by 1 + w stores (1 + w) c - 1, whose error would be large beside a
/// small c: there all c of the site are taken times the power of two that leaves none below 1, and the scales of the
/// site's groups by the same less, which is exact. Scales that are 1 throughout are left out.
class ScaleFolding {
 public:
  /// A quantized linear by its name.
  using ReadLayer = std::function<format::Encoding(const std::string& linear)>;

  /// unquantized: linears that stay as they are. `read` is called for layers that note() did not bring before.
  ScaleFolding(const model::ModelConfig& config, std::set<std::string> unquantized, ReadLayer read);

  /// What is to be known of a layer: the scales of its columns; empty: none, or 1 throughout.
  static std::vector<float> column_scales(const format::Encoding& encoding);
  void note(const std::string& linear, std::vector<float> column_scales);
  void note(const std::string& linear, const format::Encoding& encoding) { note(linear, column_scales(encoding)); }

  /// A linear, and why its scales have no place in a checkpoint, in the names of the command line. Of those that were
  /// noted.
  std::vector<std::pair<std::string, std::string>> problems();
  /// Sites whose scales are folded, of those noted.
  std::size_t n_folded();

  /// The layer as it is stored. Throws ConfigError when scales have no place, or a number none in its type.
  format::Encoding folded(const std::string& linear, format::Encoding encoding);
  /// A tensor that is no quantized linear's, before it is rounded to the stored type. Throws likewise.
  void fold(const model::TensorSpec& spec, std::span<float> values);

 private:
  struct Site {
    std::vector<std::string> linears;  ///< the quantized ones
    bool all_quantized = true;
    std::optional<model::InputScalePlace> place;
  };
  const std::vector<float>& columns_of(const std::string& linear);
  std::string problem_of(const Site& site);
  /// Of its columns; empty: 1 throughout. Throws ConfigError.
  const std::vector<float>& factors_of(const Site& site);
  /// The power of two that they are taken times.
  float unit_of(const Site& site);
  std::vector<float> row_factors(const std::string& linear, std::int64_t out_features);
  float stored(float value, const std::string& name) const;

  bool norms_plus_one_;
  core::DType dtype_;
  ReadLayer read_;
  std::vector<Site> sites_;
  std::map<std::string, std::size_t, std::less<>> site_of_linear_, site_of_norm_,
      site_behind_;  ///< behind_: of the linear whose rows give the site's input
  std::map<std::string, std::vector<float>, std::less<>> columns_;  ///< by linear; empty: 1 throughout
};

}  // namespace voronoi::exporting
