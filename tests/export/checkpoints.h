// A small model, encodings drawn at random for its linears, and their export: nothing here depends on a quantizer.
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/random.h"
#include "core/types.h"
#include "export/writer.h"
#include "format/vptq.h"
#include "model/config.h"
#include "model/each_linear.h"
#include "model/weights.h"
#include "support/small_config.h"
#include "support/temporary.h"

namespace voronoi::test {

/// What the codes of a layer look like.
struct LayerKind {
  std::int64_t v = 4, k = 256, kr = 0, groups = 1, outliers = 0;
};

class Draw {
 public:
  explicit Draw(std::uint64_t stream) : random_(7, stream) {}
  double uniform() { return random_.uniform(counter_++); }
  std::uint64_t below(std::uint64_t n) { return static_cast<std::uint64_t>(uniform() * static_cast<double>(n)); }
  std::vector<std::uint16_t> numbers(std::int64_t n, core::DType dtype, double size) {
    std::vector<std::uint16_t> bits;
    for (std::int64_t i = 0; i < n; ++i)
      bits.push_back(core::to_bits16(dtype, static_cast<float>(size * (uniform() - 0.5))));
    return bits;
  }

 private:
  core::CounterRandom random_;
  std::uint64_t counter_ = 0;
};

/// Random indices (whole packed words, so codes of every width), codebooks and scales.
inline format::Encoding random_encoding(const model::LinearSpec& linear, LayerKind kind, core::DType dtype,
                                        std::uint64_t stream) {
  Draw draw(stream);
  format::VqEncoding e;
  e.out_features = linear.out_features;
  e.in_features = linear.in_features;
  e.vector_length = kind.v;
  e.centroids = kind.k;
  e.residual_centroids = kind.kr;
  e.groups = kind.groups;
  e.outlier_size = kind.outliers;
  e.dtype = dtype;
  if (kind.outliers > 0) {
    e.outlier_vector_length = 4;
    e.outlier_centroids = 16;
    e.outlier_codebook = draw.numbers(16 * 4, dtype, 2);
    for (std::int64_t i = 0; i < e.outlier_vector_rows() * e.outlier_size; ++i)
      e.outlier_indices.push_back(static_cast<std::uint16_t>(draw.below(16)));
  }
  const std::int64_t unused = 32 * e.row_words() - e.group_size() * (e.main_bits() + e.residual_bits());
  for (std::int64_t i = 0; i < e.groups * e.vector_rows() * e.row_words(); ++i) {
    auto word = static_cast<std::uint32_t>(draw.below(std::uint64_t{1} << 32));
    if ((i + 1) % e.row_words() == 0 && unused > 0) word &= 0xFFFFFFFFU >> unused;  // padding is zero
    e.indices.push_back(word);
  }
  e.codebook = draw.numbers(e.groups * kind.k * kind.v, dtype, 2);
  e.residual_codebook = draw.numbers(e.groups * kind.kr * kind.v, dtype, 0.5);
  e.scale = draw.numbers(e.in_features, dtype, 0.1);
  e.bias = draw.numbers(e.in_features, dtype, 0.02);
  if (kind.groups > 1 || kind.outliers > 0) {
    for (std::int64_t i = 0; i < e.in_features; ++i) e.perm.push_back(static_cast<std::uint16_t>(i));
    for (std::size_t i = e.perm.size() - 1; i > 0; --i) std::swap(e.perm[i], e.perm[draw.below(i + 1)]);
  }
  return format::to_encoding(e);
}

/// One safetensors file taken apart, to be changed and written again.
struct TensorSet {
  struct Tensor {
    std::string dtype;
    core::Shape shape;
    std::string bytes;
  };
  std::map<std::string, Tensor> tensors;

  static TensorSet read(const std::filesystem::path& path) {
    const std::string file = read_bytes(path);
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof length);
    const std::size_t data = sizeof length + length;
    TensorSet set;
    const core::Json header = core::parse_json(file.substr(sizeof length, length), path.string());
    for (const auto& [name, entry] : header.items())
      if (name != "__metadata__") {
        const auto begin = entry.at("data_offsets")[0].get<std::size_t>(),
                   end = entry.at("data_offsets")[1].get<std::size_t>();
        set.tensors[name] = {entry.at("dtype"), entry.at("shape").get<core::Shape>(),
                             file.substr(data + begin, end - begin)};
      }
    return set;
  }
  void write(const std::filesystem::path& path) const {
    core::Json header = core::Json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const std::size_t begin = data.size();
      data += tensor.bytes;
      header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
    const std::string text = header.dump();
    const auto length = static_cast<std::uint64_t>(text.size());
    write_bytes(path, std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data);
  }
};

/// Writes config.json, model.safetensors (values exact in either 16-bit type) and a tokenizer.json to `folder`.
inline void write_model(const std::filesystem::path& folder, const core::Json& config) {
  const model::ModelConfig parsed = model::parse_config(config, "config.json");
  TensorSet set;
  Draw draw(99);
  const std::string dtype(core::dtype_name(parsed.stored_dtype));
  for (const model::TensorSpec& spec : model::expected_tensors(parsed)) {
    TensorSet::Tensor tensor{dtype, spec.shape, ""};
    for (std::int64_t i = 0; i < core::element_count(spec.shape).value(); ++i) {
      const auto value = static_cast<float>(static_cast<double>(draw.below(255)) / 128 - 1);
      const std::uint16_t bits = core::to_bits16(parsed.stored_dtype, value);
      tensor.bytes.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    }
    set.tensors[spec.name] = std::move(tensor);
  }
  std::filesystem::create_directories(folder);
  write_bytes(folder / "config.json", config.dump(2));
  set.write(folder / "model.safetensors");
  write_bytes(folder / "tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}");
  write_bytes(folder / "generation_config.json", "{\"bos_token_id\": 1}");
}

/// The model's linears encoded after one another's kinds, round robin.
class SmallExport {
 public:
  explicit SmallExport(std::vector<LayerKind> kinds, const core::Json& config = small_config())
      : kinds_(std::move(kinds)) {
    write_model(folder_ / "model", config);
    source = model::open_model((folder_ / "model").string());
    model::for_each_linear(source->config(), [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      encodings[linear.name] = random_encoding(linear, kinds_[encodings.size() % kinds_.size()],
                                               source->config().stored_dtype, encodings.size());
      request.origin.layers[linear.name] = std::string(64, 'a');
    });
    request.layout = exporting::find_layout("vptq");
    request.original = source.get();
    request.tokenizer = (folder_ / "model").string();
    request.encoding = [this](const std::string& name) { return encodings.at(name); };
    request.origin.run = "/nowhere/run";
    request.origin.method = "vptq";
  }
  std::filesystem::path write(const std::string& name = "out") {
    exporting::write_checkpoint(request, folder_ / name, folder_ / (name + ".making"));
    return folder_ / name;
  }
  std::filesystem::path folder(const std::string& name) const { return folder_ / name; }

  std::unique_ptr<model::WeightSource> source;
  std::map<std::string, format::Encoding> encodings;
  exporting::ExportRequest request;

 private:
  std::vector<LayerKind> kinds_;
  TemporaryFolder folder_;
};

}  // namespace voronoi::test
