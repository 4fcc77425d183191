// A public layout of checkpoints owns itself: one unit says what it can hold, which tensors a quantized linear becomes,
// what config.json says of them, and reads all of it back. Adding one is a unit and a line in layout.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/types.h"
#include "export/layer_tensor.h"
#include "export/profile.h"
#include "format/encoding.h"
#include "model/config.h"
#include "model/safetensors_folder.h"
#include "quant/parameters.h"

namespace voronoi::exporting {

/// The linears of one checkpoint on their way into a layout, all without scales of columns (export/scale_folding.h). A
/// linear is looked at by itself, anywhere: check() and facts(); what was found is taken by every writer of the
/// checkpoint.
class LayerWriter {
 public:
  virtual ~LayerWriter() = default;
  /// What the layout cannot hold of a linear by itself, in the names of the command line. Empty: nothing.
  virtual std::vector<std::string> check(const model::LinearSpec& linear, const format::Encoding& encoding) const = 0;
  /// What the checkpoint as a whole has to know of a linear that check() has nothing against.
  virtual core::Json facts(const model::LinearSpec& linear, const format::Encoding& encoding) const = 0;
  /// The facts of every linear, before the first tensors() call, in the order of the model; says why it cannot stand
  /// beside those before it.
  virtual std::vector<std::string> take(const model::LinearSpec& linear, const core::Json& facts) = 0;
  /// All three.
  std::vector<std::string> add(const model::LinearSpec& linear, const format::Encoding& encoding);
  /// Names, types, shapes and sizes of its tensors, in their order. Of tensors() here; a layout whose tensors take
  /// work says it without.
  virtual std::vector<TensorPlan> plan(const std::string& linear, const format::Encoding& encoding) const;
  /// Of a linear that was taken without a problem, once all are.
  virtual std::vector<LayerTensor> tensors(const std::string& linear, const format::Encoding& encoding) const = 0;
  /// config.json's "quantization_config". `plain`: modules of the model that stay as they are, in its order.
  virtual core::Json quantization_config(const std::vector<std::string>& plain) = 0;
};

/// The quantized linears of a checkpoint, which counts as hostile.
class LayerReader {
 public:
  struct Stored {
    std::int64_t bits = 0;  ///< of all tensors of the linear
    double nominal_bits = 0;
  };
  virtual ~LayerReader() = default;
  /// Checks what config.json and the headers of the tensors say of a linear, reads no data; nothing where it is not
  /// quantized. Throws FormatError naming file and key or tensor.
  virtual std::optional<Stored> open(const model::LinearSpec& linear) = 0;
  /// Of a linear that open() found, as the three below.
  virtual format::Encoding read(const std::string& linear) const = 0;
  /// Every tensor that read() reads.
  virtual std::vector<std::string> tensor_names(const std::string& linear) const = 0;
  /// Shape, type and settings, for people.
  virtual core::Json description(const std::string& linear) const = 0;
  /// The key of config.json that lists the linears, for messages.
  virtual std::string_view list_key() const = 0;
};

/// Where a checkpoint's layers are read from; must outlive the reader.
struct LayerSource {
  const core::Json& quantization;  ///< config.json's "quantization_config", an object
  const std::string& config_file;  ///< for messages
  const model::SafetensorsFolder& folder;
};

/// The text under a key of quantization_config; empty: there is none.
std::string text_of(const core::Json& quantization, std::string_view key);
/// Names that quantization_config lists under `key`; none where it does not have it. Throws FormatError.
std::set<std::string> listed_names(const LayerSource& source, std::string_view key);
/// A number of quantization_config from low to high; `otherwise` where it does not have it. Throws FormatError.
std::int64_t number_of(const LayerSource& source, const core::Json& json, std::string_view key, std::int64_t low,
                       std::int64_t high, std::optional<std::int64_t> otherwise = std::nullopt);

/// Stateless.
class Layout {
 public:
  virtual ~Layout() = default;
  /// As --export-format takes it, and manifests have it.
  virtual std::string_view name() const = 0;
  /// For people: "VPTQ's format".
  virtual std::string_view title() const = 0;
  /// Packages of Python, by blanks, with which transformers loads it; empty: transformers does not.
  virtual std::string_view packages() const = 0;

  /// Whether layers of the kind that the method makes, or of this storage format, are what it is for.
  virtual bool holds(const quant::QuantParameters& parameters) const = 0;
  virtual bool holds(const format::Encoding& encoding) const = 0;

  /// Every reason why a run with these parameters could not be exported (empty: none), in the names of the command
  /// line. Scales of columns are no matter of a layout. `profile` is the layout vptq's matter.
  virtual std::vector<std::string> check(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                         Profile profile) const = 0;
  /// The same for a layer that is there.
  virtual std::vector<std::string> check(const format::Encoding& encoding, Profile profile) const = 0;

  /// Whether all linears of a checkpoint have the same additive_layout.
  virtual bool one_setting() const { return false; }

  virtual std::unique_ptr<LayerWriter> writer(Profile profile) const = 0;

  /// Whether a checkpoint with this "quantization_config" (an object) is of the layout.
  virtual bool reads(const core::Json& quantization) const = 0;
  /// Throws FormatError when the settings of the whole are none that it reads.
  virtual std::unique_ptr<LayerReader> reader(const LayerSource& source) const = 0;
};

/// In the order of layout.cpp.
std::span<const Layout* const> layouts();
/// nullptr: there is none of that name.
const Layout* find_layout(std::string_view name);
/// What --export-format takes: the names, and "auto".
std::vector<std::string> layout_choices();

/// The layout that `target` means for a run whose own parameters these are, and for a checkpoint whose first layer this
/// is. nullptr: none holds what the method makes.
const Layout* layout_of(const Target& target, const quant::QuantParameters& parameters);
const Layout* layout_of(const Target& target, const format::Encoding& encoding);

/// What the target's layout cannot hold of a run with these parameters, or of a layer; or that none holds any.
std::vector<std::string> check_exportable(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                          const Target& target);
std::vector<std::string> check_exportable(const format::Encoding& encoding, const Target& target);

/// What the layout of a run with `parameters` cannot hold of linears with `other` ones beside them, which
/// quantization chooses for each where `allocated`.
std::vector<std::string> check_together(const quant::QuantParameters& parameters, const quant::QuantParameters& other,
                                        bool allocated, const Target& target);

}  // namespace voronoi::exporting
