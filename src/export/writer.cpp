#include "export/writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/file.h"
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
constexpr const char* kHead = "lm_head.weight";
constexpr std::int64_t kConvertChunk = 1 << 20;  // elements narrowed at a time

/// An open directory, or nothing when it cannot be opened.
class DirectoryHandle {
 public:
  explicit DirectoryHandle(const fs::path& path)
      : descriptor_(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) {}
  ~DirectoryHandle() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  DirectoryHandle(const DirectoryHandle&) = delete;
  DirectoryHandle& operator=(const DirectoryHandle&) = delete;
  /// Until it is closed; false when somebody else has locked it, or the file system cannot.
  bool lock() const { return descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0; }

 private:
  int descriptor_;
};

/// A new directory that goes away unless it is published. Without a lock on it, it merely stays when the process is
/// killed.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    fs::remove_all(path_, error);  // of a killed process of the same name
    fs::create_directory(path_, error);
    if (!error && !fs::is_directory(path_)) error = std::make_error_code(std::errc::no_such_file_or_directory);
    if (error)
      throw core::StoreError(
          fmt::format("{}: cannot create the directory: {}; choose another --out or check its "
                      "permissions",
                      path_.string(), error.message()));
    handle_.emplace(path_);
    handle_->lock();
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    if (!published_) fs::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const fs::path& path() const { return path_; }

  void publish(const fs::path& target) {
    core::sync_directory(path_);
    std::error_code error;
    fs::remove(target, error);  // an empty directory; anything else stays and fails the rename
    fs::rename(path_, target, error);
    if (error)
      throw core::StoreError(
          fmt::format("{}: cannot rename to {}: {}", path_.string(), target.string(), error.message()));
    published_ = true;
    core::sync_directory(target.parent_path());
  }

 private:
  fs::path path_;
  std::optional<DirectoryHandle> handle_;
  bool published_ = false;
};

class Writer {
 public:
  explicit Writer(const ExportRequest& request)
      : request_(request),
        source_(*request.original),
        dtype_(source_.config().stored_dtype),
        layers_(request.layout->writer(request.origin.profile)),
        folding_(source_.config(), request.unquantized, request.encoding) {
    model::for_each_linear(source_.config(), [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      if (!request_.unquantized.contains(linear.name)) linears_.emplace(linear.name, linear);
    });
    tensors_ = model::expected_tensors(source_.config());
    if (source_.config().tied_embeddings) {
      const auto embedding = std::find_if(tensors_.begin(), tensors_.end(), [](const model::TensorSpec& spec) {
        return spec.name == "model.embed_tokens.weight";
      });
      VORONOI_REQUIRE(embedding != tensors_.end(), "a model without an embedding");
      tensors_.push_back({kHead, embedding->shape});
    }
  }

  void run(const fs::path& directory) {
    plan();
    TensorFiles files(directory, plan_, request_.max_file_bytes);
    write_tensors(files);
    files.finish();
    for (const auto& [name, content] : companion_files(source_.path(), request_.tokenizer)) {
      const fs::path file = directory / name;
      fs::create_directories(file.parent_path());
      core::write_file_atomic(file, content, "export");
    }
    core::Json config = original_config(source_.path(), source_.config());
    config["quantization_config"] = layers_->quantization_config(plain_modules());
    core::write_file_atomic(directory / "config.json", config.dump(2) + "\n", "export");
    // What cannot be opened again must not be published.
    const Checkpoint written(directory.string());
    VORONOI_REQUIRE(written.linears().size() == linears_.size(), "the export lacks layers");
    const std::string card =
        model_card({source_.path(), request_.layout, request_.origin.method, request_.origin.profile,
                    written.true_bits(), written.nominal_bits(), std::ssize(linears_), request_.figures});
    core::write_file_atomic(directory / "README.md", card, "export");
    write_manifest(directory, request_.origin);
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

  /// Looks at every layer before anything is written.
  void plan() {
    std::map<std::string, std::vector<std::string>> problems;  // text -> layers
    std::size_t done = 0;
    for (const model::TensorSpec& spec : tensors_) {
      const model::LinearSpec* linear = linear_of(spec);
      if (linear == nullptr) {
        const std::int64_t count = core::element_count(spec.shape).value_or(0);
        const core::DType dtype = stays_wide(spec) ? core::DType::f32 : dtype_;
        plan_.push_back(
            {source_.stored_name(spec.name), core::dtype_name(dtype), spec.shape, core::dtype_size(dtype) * count});
        continue;
      }
      const format::Encoding encoding = request_.encoding(linear->name);
      folding_.note(linear->name, encoding);
      model::LinearSpec module = *linear;
      module.name = module_name(source_.config(), linear->name);
      std::vector<std::string> reasons = layers_->add(module, encoding);
      if (encoding.out_features != linear->out_features || encoding.in_features != linear->in_features)
        reasons.emplace_back("export: a layer has another shape than the model's");
      if (encoding.dtype != dtype_)
        reasons.push_back(fmt::format("export: codebooks of type {} in a model of type {}",
                                      core::dtype_name(encoding.dtype), core::dtype_name(dtype_)));
      for (const std::string& reason : reasons) problems[reason].push_back(linear->name);
      if (reasons.empty())
        for (TensorPlan& tensor : under_own_names(*linear, layers_->plan(module.name, encoding)))
          plan_.push_back(std::move(tensor));
      report("checking", ++done);
    }
    for (const auto& [linear, problem] : folding_.problems()) problems[problem].push_back(linear);
    source_.visit_beside([&](const model::StoredTensor& tensor) {
      plan_.push_back(
          {std::string(tensor.name), tensor.dtype, tensor.shape, static_cast<std::int64_t>(tensor.bytes.size())});
    });
    if (!problems.empty()) {
      std::vector<std::string> list;
      for (const auto& [text, layers] : problems)
        list.push_back(fmt::format("{} ({} of {} layers, {} first)", text, layers.size(), linears_.size(), layers[0]));
      throw core::ConfigError(list);
    }
  }

  void write_tensors(TensorFiles& files) {
    std::size_t done = 0;
    for (const model::TensorSpec& spec : tensors_) {
      if (const model::LinearSpec* linear = linear_of(spec)) {
        const format::Encoding encoding = folding_.folded(linear->name, request_.encoding(linear->name));
        const std::string module = module_name(source_.config(), linear->name);
        for (const LayerTensor& tensor : under_own_names(*linear, layers_->tensors(module, encoding)))
          files.write(tensor.name, 0, tensor.bytes);
        report("writing", ++done);
      } else if (spec.name != kHead || !source_.config().tied_embeddings) {
        write_plain(files, spec);
      }
    }
    if (const std::size_t n = folding_.n_folded(); n > 0)
      core::log_info(
          "column scales of {} inputs are folded into the norms or linears before them, and rounded there to {}", n,
          core::dtype_name(dtype_));
    std::size_t n_others = 0;
    source_.visit_beside([&](const model::StoredTensor& tensor) {
      files.write(std::string(tensor.name), 0, tensor.bytes);
      ++n_others;
    });
    if (n_others > 0) core::log_info("{} tensors beside the language model were copied as they are", n_others);
    if (n_rounded_ > 0)
      core::log_info("{} tensors that are not quantized were rounded to {}, the type of the model's activations",
                     n_rounded_, core::dtype_name(dtype_));
  }

  /// A tensor that is not quantized, in the model's 16-bit type; the embedding also as the tied head.
  void write_plain(TensorFiles& files, const model::TensorSpec& spec) {
    std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value_or(0)));
    (request_.tensors != nullptr ? *request_.tensors : source_).read(spec, values);
    folding_.fold(spec, values);
    const std::string name = source_.stored_name(spec.name);
    if (stays_wide(spec)) return files.write(name, 0, std::as_bytes(std::span(values)));
    const bool twice = source_.config().tied_embeddings && spec.name == "model.embed_tokens.weight";
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
      files.write(name, 2 * begin, std::as_bytes(std::span(narrow)));
      if (twice) files.write(source_.stored_name(kHead), 2 * begin, std::as_bytes(std::span(narrow)));
    }
    if (!exact) ++n_rounded_;
  }

  void report(const char* stage, std::size_t done) const {
    if (request_.progress) request_.progress(stage, done, linears_.size());
  }

  const ExportRequest& request_;
  const model::WeightSource& source_;
  core::DType dtype_;
  std::map<std::string, model::LinearSpec> linears_;
  std::vector<model::TensorSpec> tensors_;
  std::vector<TensorPlan> plan_;
  std::size_t n_rounded_ = 0;
  std::unique_ptr<LayerWriter> layers_;
  ScaleFolding folding_;
};

}  // namespace

void write_checkpoint(const ExportRequest& request, const fs::path& directory, const fs::path& temporary) {
  try {
    if (fs::exists(directory) && (!fs::is_directory(directory) || !fs::is_empty(directory)))
      throw core::ConfigError(directory.string() + ": is there already; remove it or choose another --out");
    TemporaryDirectory made(temporary);
    Writer(request).run(made.path());
    made.publish(directory);
  } catch (const fs::filesystem_error& error) {
    throw core::StoreError(fmt::format("{}: {}", directory.string(), error.what()));
  }
}

void remove_abandoned(const fs::path& prefix) {
  const std::string start = prefix.filename().string();
  std::error_code error;
  std::vector<fs::path> found;
  const fs::path parent = prefix.has_parent_path() ? prefix.parent_path() : fs::path(".");
  for (auto entry = fs::directory_iterator(parent, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.size() > start.size() && name.starts_with(start) &&
        name.find_first_not_of("0123456789", start.size()) == std::string::npos)
      found.push_back(entry->path());
  }
  for (const fs::path& path : found)
    if (DirectoryHandle(path).lock()) {
      fs::remove_all(path, error);
      core::log_info("{}: removed, an export that was killed left it", path.string());
    }
}

}  // namespace voronoi::exporting
