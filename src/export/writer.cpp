#include "export/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

#include "core/bytes.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"
#include "export/checkpoint.h"
#include "export/hf_files.h"
#include "export/layout.h"
#include "export/module_names.h"
#include "export/scale_folding.h"
#include "export/tensor_files.h"
#include "model/each_linear.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeightEnding = ".weight";
constexpr const char *kHead = "lm_head.weight", *kEmbedding = "model.embed_tokens.weight";
constexpr std::int64_t kConvertChunk = 1 << 20;  // elements narrowed at a time

/// What is to be known of a layer before anything is written.
struct Look {
  std::vector<std::string> reasons;  ///< why the checkpoint cannot hold it
  core::Json facts;                  ///< of the layout; none where there are reasons
  std::vector<TensorPlan> tensors;
  std::vector<float> column_scales;
};

/// A number of bytes, JSON of that length, scales.
std::string to_text(const Look& look) {
  core::Json tensors = core::Json::array();
  for (const TensorPlan& tensor : look.tensors)
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes});
  const std::string json = core::Json{{"reasons", look.reasons}, {"facts", look.facts}, {"tensors", tensors}}.dump();
  const std::uint64_t length = json.size();
  std::string text(reinterpret_cast<const char*>(&length), sizeof length);
  text += json;
  return text.append(reinterpret_cast<const char*>(look.column_scales.data()),
                     look.column_scales.size() * sizeof(float));
}

Look look_from_text(const std::string& text) {
  std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  std::vector<std::uint64_t> length;
  std::vector<char> json_text;
  core::take_values(bytes, 1, length);
  core::take_values(bytes, length.front(), json_text);
  const core::Json json = core::parse_json({json_text.data(), json_text.size()}, "what a rank tells of a layer");
  Look look;
  json.at("reasons").get_to(look.reasons);
  look.facts = json.at("facts");
  for (const core::Json& tensor : json.at("tensors"))
    look.tensors.push_back({tensor.at(0), tensor.at(1), tensor.at(2).get<core::Shape>(), tensor.at(3)});
  core::append_values(bytes, look.column_scales);
  return look;
}

}  // namespace

class CheckpointWriter::Impl {
 public:
  Impl(const ExportRequest& request, const UnfinishedExport& place)
      : request_(request),
        place_(place),
        source_(*request.original),
        dtype_(source_.config().stored_dtype),
        layers_(request.layout->writer(request.origin.profile)),
        folding_(source_.config(), request.unquantized, request.encoding) {
    model::for_each_linear(source_.config(), [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      if (!request_.unquantized.contains(linear.name)) linears_.emplace(linear.name, linear);
    });
    tensors_ = model::expected_tensors(source_.config());
    if (source_.config().tied_embeddings) {
      const auto embedding = std::find_if(tensors_.begin(), tensors_.end(),
                                          [](const model::TensorSpec& spec) { return spec.name == kEmbedding; });
      VORONOI_REQUIRE(embedding != tensors_.end(), "a model without an embedding");
      tensors_.push_back({kHead, embedding->shape});
    }
    for (const model::TensorSpec& spec : tensors_)
      if (const model::LinearSpec* linear = linear_of(spec)) order_.push_back(linear);
  }

  std::size_t n_layers() const { return order_.size(); }

  std::string look_at(std::size_t layer) {
    const model::LinearSpec& linear = *order_[layer];
    const format::Encoding encoding = request_.encoding(linear.name);
    Look look;
    look.column_scales = ScaleFolding::column_scales(encoding);
    const model::LinearSpec module = module_of(linear);
    look.reasons = layers_->check(module, encoding);
    const bool is_held = look.reasons.empty();
    if (encoding.out_features != linear.out_features || encoding.in_features != linear.in_features)
      look.reasons.emplace_back("export: a layer has another shape than the model's");
    if (encoding.dtype != dtype_)
      look.reasons.push_back(fmt::format("export: codebooks of type {} in a model of type {}",
                                         core::dtype_name(encoding.dtype), core::dtype_name(dtype_)));
    if (is_held) look.facts = layers_->facts(module, encoding);
    if (look.reasons.empty()) look.tensors = under_own_names(linear, layers_->plan(module.name, encoding));
    report("checking", ++n_looked_at_);
    return to_text(look);
  }

  void plan(const std::vector<std::string>& looks) {
    VORONOI_REQUIRE(looks.size() == order_.size(), "every layer is looked at");
    std::map<std::string, std::vector<std::string>> problems;  // text -> layers
    std::vector<TensorPlan> plan;
    std::size_t n = 0;
    for (const model::TensorSpec& spec : tensors_) {
      const model::LinearSpec* linear = linear_of(spec);
      if (linear == nullptr) {
        const std::int64_t count = core::element_count(spec.shape).value_or(0);
        const core::DType dtype = stays_wide(spec) ? core::DType::f32 : dtype_;
        plan.push_back({source_.stored_name(spec.name), std::string(core::dtype_name(dtype)), spec.shape,
                        core::dtype_size(dtype) * count});
        continue;
      }
      Look look = look_from_text(looks[n++]);
      folding_.note(linear->name, std::move(look.column_scales));
      if (!look.facts.is_null())
        for (std::string& reason : layers_->take(module_of(*linear), look.facts))
          look.reasons.push_back(std::move(reason));
      for (const std::string& reason : look.reasons) problems[reason].push_back(linear->name);
      for (TensorPlan& tensor : look.tensors) {
        names_[linear->name].push_back(tensor.name);
        plan.push_back(std::move(tensor));
      }
    }
    for (const auto& [linear, problem] : folding_.problems()) problems[problem].push_back(linear);
    source_.visit_beside([&](const model::StoredTensor& tensor) {
      plan.push_back({std::string(tensor.name), std::string(tensor.dtype), tensor.shape,
                      static_cast<std::int64_t>(tensor.bytes.size())});
    });
    if (!problems.empty()) {
      std::vector<std::string> list;
      for (const auto& [text, layers] : problems)
        list.push_back(fmt::format("{} ({} of {} layers, {} first)", text, layers.size(), linears_.size(), layers[0]));
      throw core::ConfigError(list);
    }
    files_ = TensorFiles(plan, request_.max_file_bytes);
    made_of_ = digest_of_sources();
  }

  std::size_t n_files() const { return files_.size(); }

  void begin() const {
    std::set<std::string> names;
    for (std::size_t i = 0; i < files_.size(); ++i) names.insert(files_.name(i));
    place_.begin(names);
  }

  std::string write_file(std::size_t number) {
    const std::string& name = files_.name(number);
    const std::string made_of = core::sha256(made_of_ + files_.header(number));
    auto record = place_.find_whole(name, made_of, files_.size_bytes(number), request_.origin);
    if (record) {
      core::log_info("{}: is there already", (place_.directory() / name).string());
      for (const model::LinearSpec* linear : order_)
        if (holds_first(number, *linear)) report("writing", ++n_written_);
    } else {
      record.emplace();
      record->size_bytes = files_.size_bytes(number);
      const fs::path temporary = place_.temporary(place_.directory() / name);
      std::error_code ignored;
      fs::remove(temporary, ignored);  // of a process that was killed
      TensorFile file(files_, number, temporary);
      record->rounded = write_tensors(file);
      file.finish();
      record->sha256 = core::sha256_of_file(temporary);
      place_.publish_whole(name, made_of, *record);
    }
    return core::Json{{"sha256", record->sha256}, {"bytes", record->size_bytes}, {"rounded", record->rounded}}.dump();
  }

  void finish(const std::vector<std::string>& written) {
    Manifest manifest = request_.origin;
    std::int64_t n_rounded = 0;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const core::Json record = core::parse_json(written.at(i), files_.name(i));
      manifest.files.push_back({files_.name(i), record.at("sha256"), record.at("bytes")});
      n_rounded += record.at("rounded").get<std::int64_t>();
    }
    tell_of_tensors(n_rounded);
    const auto publish = [&](const std::string& name, const std::string& content) {
      place_.publish(name, content);
      manifest.files.push_back({name, core::sha256(content), std::ssize(content)});
    };
    publish("model.safetensors.index.json", files_.index());
    for (const auto& [name, content] : companion_files(source_.path(), request_.tokenizer)) publish(name, content);
    core::Json config = original_config(source_.path(), source_.config());
    config["quantization_config"] = layers_->quantization_config(plain_modules());
    publish("config.json", config.dump(2) + "\n");
    // What cannot be opened again must not be published.
    const Checkpoint made(place_.directory().string());
    VORONOI_REQUIRE(made.linears().size() == linears_.size(), "the export lacks layers");
    publish("README.md", model_card({source_.path(), request_.layout, request_.origin.method, request_.origin.profile,
                                     made.true_bits(), made.nominal_bits(), std::ssize(linears_), request_.figures}));
    std::sort(manifest.files.begin(), manifest.files.end(),
              [](const Manifest::File& a, const Manifest::File& b) { return fs::path(a.name) < fs::path(b.name); });
    place_.publish(kManifestName, manifest_text(manifest));
    place_.drop_records();
  }

 private:
  /// The quantized linear whose weight `spec` is, or nullptr.
  const model::LinearSpec* linear_of(const model::TensorSpec& spec) const {
    if (!spec.name.ends_with(kWeightEnding)) return nullptr;
    const auto found = linears_.find(spec.name.substr(0, spec.name.size() - kWeightEnding.size()));
    return found == linears_.end() ? nullptr : &found->second;
  }

  /// Modules with a matrix that stays as it is: the head, linears that were left out, routers, other parts.
  std::vector<std::string> plain_modules() const {
    std::vector<std::string> names{"lm_head"};
    for (const model::TensorSpec& spec : tensors_) {
      if (linear_of(spec) != nullptr || !spec.name.ends_with(kWeightEnding) || spec.shape.size() != 2) continue;
      const std::string module = spec.name.substr(0, spec.name.size() - kWeightEnding.size());
      if (module != "lm_head" && module != "model.embed_tokens") names.push_back(module_name(source_.config(), module));
    }
    source_.visit_beside([&](const model::StoredTensor& tensor) {
      if (tensor.shape.size() == 2 && tensor.name.ends_with(kWeightEnding))
        names.push_back(
            other_module_name(source_.config(), tensor.name.substr(0, tensor.name.size() - kWeightEnding.size())));
    });
    return names;
  }

  /// What the choice of experts is corrected by: the client keeps it in fp32, and its differences are small. What the
  /// delta rule decays by: an exponent's logarithm.
  bool stays_wide(const model::TensorSpec& spec) const {
    const std::string& bias = source_.config().mixture.choice_bias;
    if (!bias.empty() && spec.name.ends_with(bias)) return true;
    return spec.name.ends_with("linear_attn.A_log") || spec.name.ends_with("linear_attn.dt_bias");
  }

  /// Tensors of a linear under the names of the original.
  template <class Tensor>
  std::vector<Tensor> under_own_names(const model::LinearSpec& linear, std::vector<Tensor> tensors) const {
    const std::string module = module_name(source_.config(), linear.name), stored = source_.stored_name(linear.name);
    for (Tensor& tensor : tensors) tensor.name = stored + tensor.name.substr(module.size());
    return tensors;
  }

  model::LinearSpec module_of(const model::LinearSpec& linear) const {
    model::LinearSpec module = linear;
    module.name = module_name(source_.config(), linear.name);
    return module;
  }

  /// Decides the bytes of all files, beside their headers.
  std::string digest_of_sources() const {
    core::Sha256 hash;
    hash.update(fmt::format("{} {}\n{}\n", request_.layout->name(), profile_name(request_.origin.profile),
                            source_.fingerprint()));
    for (const auto& [name, sum] : request_.origin.layers) hash.update(fmt::format("{} {}\n", name, sum));
    for (const std::string& name : request_.unquantized) hash.update(fmt::format("{}\n", name));
    return hash.hex();
  }

  bool holds_first(std::size_t file, const model::LinearSpec& linear) const {
    return files_.holds(file, names_.at(linear.name).front());
  }

  void write_layer(TensorFile& file, const model::LinearSpec& linear) {
    const std::vector<std::string>& names = names_.at(linear.name);
    if (std::none_of(names.begin(), names.end(), [&](const std::string& name) { return file.holds(name); })) return;
    const format::Encoding encoding = folding_.folded(linear.name, request_.encoding(linear.name));
    const std::string module = module_name(source_.config(), linear.name);
    for (const LayerTensor& tensor : under_own_names(linear, layers_->tensors(module, encoding)))
      file.write(tensor.name, 0, tensor.bytes);
    // A layer that two files share is told of with the first.
    if (file.holds(names.front())) report("writing", ++n_written_);
  }

  /// Those of a file. Returns how many were rounded.
  std::int64_t write_tensors(TensorFile& file) {
    std::int64_t n_rounded = 0;
    for (const model::TensorSpec& spec : tensors_) {
      if (const model::LinearSpec* linear = linear_of(spec)) {
        write_layer(file, *linear);
      } else if (spec.name != kHead || !source_.config().tied_embeddings) {
        n_rounded += write_plain(file, spec) ? 1 : 0;
      }
    }
    source_.visit_beside([&](const model::StoredTensor& tensor) { file.write(tensor.name, 0, tensor.bytes); });
    return n_rounded;
  }

  /// A tensor that is not quantized, in the model's 16-bit type; the embedding also as the tied head. Whether it is one
  /// of the file that was rounded.
  bool write_plain(TensorFile& file, const model::TensorSpec& spec) {
    const std::string name = source_.stored_name(spec.name);
    std::vector<std::string> wanted;
    if (file.holds(name)) wanted.push_back(name);
    if (source_.config().tied_embeddings && spec.name == kEmbedding && file.holds(source_.stored_name(kHead)))
      wanted.push_back(source_.stored_name(kHead));
    if (wanted.empty()) return false;
    std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value_or(0)));
    (request_.tensors != nullptr ? *request_.tensors : source_).read(spec, values);
    folding_.fold(spec, values);
    if (stays_wide(spec)) {
      file.write(name, 0, std::as_bytes(std::span(values)));
      return false;
    }
    std::vector<std::uint16_t> narrow;
    bool exact = true;
    const auto n = static_cast<std::int64_t>(values.size());
    for (std::int64_t begin = 0; begin < n; begin += kConvertChunk) {
      const std::int64_t end = std::min(n, begin + kConvertChunk);
      narrow.clear();
      for (std::int64_t i = begin; i < end; ++i) {
        const float value = values[static_cast<std::size_t>(i)];
        narrow.push_back(core::to_bits16(dtype_, value));
        exact = exact && core::from_bits16(dtype_, narrow.back()) == value;
      }
      for (const std::string& tensor : wanted) file.write(tensor, 2 * begin, std::as_bytes(std::span(narrow)));
    }
    return !exact && wanted.front() == name;
  }

  void tell_of_tensors(std::int64_t n_rounded) {
    if (const std::size_t n = folding_.n_folded(); n > 0)
      core::log_info(
          "column scales of {} inputs are folded into the norms or linears before them, and rounded there to {}", n,
          core::dtype_name(dtype_));
    std::size_t n_others = 0;
    source_.visit_beside([&](const model::StoredTensor& /*tensor*/) { ++n_others; });
    if (n_others > 0) core::log_info("{} tensors beside the language model were copied as they are", n_others);
    if (n_rounded > 0)
      core::log_info("{} tensors that are not quantized were rounded to {}, the type of the model's activations",
                     n_rounded, core::dtype_name(dtype_));
  }

  void report(const char* stage, std::size_t done) const {
    if (request_.progress) request_.progress(stage, done, linears_.size());
  }

  const ExportRequest& request_;
  const UnfinishedExport& place_;
  const model::WeightSource& source_;
  core::DType dtype_;
  std::map<std::string, model::LinearSpec> linears_;
  std::vector<model::TensorSpec> tensors_;
  std::vector<const model::LinearSpec*> order_;  ///< the linears, as tensors_ has them
  std::unique_ptr<LayerWriter> layers_;
  ScaleFolding folding_;
  // Once planned.
  std::map<std::string, std::vector<std::string>> names_;  ///< of the tensors of a linear
  TensorFiles files_;
  std::string made_of_;
  std::size_t n_looked_at_ = 0, n_written_ = 0;
};

CheckpointWriter::CheckpointWriter(const ExportRequest& request, const UnfinishedExport& place)
    : impl_(std::make_unique<Impl>(request, place)) {}
CheckpointWriter::~CheckpointWriter() = default;
std::size_t CheckpointWriter::n_layers() const { return impl_->n_layers(); }
std::string CheckpointWriter::look_at(std::size_t layer) { return impl_->look_at(layer); }
void CheckpointWriter::plan(const std::vector<std::string>& looks) { impl_->plan(looks); }
std::size_t CheckpointWriter::n_files() const { return impl_->n_files(); }
void CheckpointWriter::begin() const { impl_->begin(); }
std::string CheckpointWriter::write_file(std::size_t file) { return impl_->write_file(file); }
void CheckpointWriter::finish(const std::vector<std::string>& written) {
  try {
    impl_->finish(written);
  } catch (const fs::filesystem_error& error) {
    throw core::StoreError(error.what());
  }
}

void leave_unfinished(const UnfinishedExport& place) {
  if (!place.holds_any()) place.remove();
}

void require_room_for_export(const fs::path& directory) {
  std::error_code error;
  if (fs::exists(directory, error) && (!fs::is_directory(directory, error) || !fs::is_empty(directory, error)))
    throw core::ConfigError(directory.string() + ": is there already; remove it or choose another --out");
}

void publish_export(const UnfinishedExport& place, const fs::path& directory) {
  core::sync_directory(place.directory());
  std::error_code error;
  fs::remove(directory, error);  // an empty directory; anything else stays and fails the rename
  fs::rename(place.directory(), directory, error);
  if (error)
    throw core::StoreError(
        fmt::format("{}: cannot rename to {}: {}", place.directory().string(), directory.string(), error.message()));
  core::sync_directory(directory.parent_path());
}

void write_checkpoint(const ExportRequest& request, const fs::path& directory, const fs::path& unfinished) {
  require_room_for_export(directory);
  const UnfinishedExport place(unfinished);
  try {
    CheckpointWriter writer(request, place);
    std::vector<std::string> looks, written;
    while (looks.size() < writer.n_layers()) looks.push_back(writer.look_at(looks.size()));
    writer.plan(looks);
    writer.begin();
    while (written.size() < writer.n_files()) written.push_back(writer.write_file(written.size()));
    writer.finish(written);
    publish_export(place, directory);
  } catch (...) {
    leave_unfinished(place);
    throw;
  }
}

}  // namespace voronoi::exporting
