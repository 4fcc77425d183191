// Weights from a source to the device.
#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "model/block_norms.h"
#include "model/rope.h"
#include "model/transformer_impl.h"

namespace voronoi::model {

using backend::Array;

std::int64_t product(std::int64_t a, std::int64_t b) {
  const auto result = core::checked_multiply(a, b);
  VORONOI_REQUIRE(result.has_value(), "a number of elements overflows");
  return *result;
}

core::DType default_dtype(const backend::Context& context, const ModelConfig& config) {
  return context.on_host() ? core::DType::f32 : config.stored_dtype;
}

Transformer::Impl::Impl(const WeightSource& weight_source, backend::Context& backend_context,
                        std::optional<core::DType> product_dtype, PackedLinears packed_or_not)
    : source(weight_source),
      context(backend_context),
      config(weight_source.config()),
      dtype(product_dtype.value_or(default_dtype(backend_context, weight_source.config()))),
      packed_linears(packed_or_not),
      places(site_places(weight_source.config())) {
  VORONOI_REQUIRE(dtype == core::DType::f32 || dtype == core::DType::f16 || dtype == core::DType::bf16,
                  "products are in f32, f16 or bf16");
  for (TensorSpec& spec : expected_tensors(config)) shapes.emplace(std::move(spec.name), std::move(spec.shape));
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) sites.push_back(block_sites(config, layer));
}

TensorSpec Transformer::Impl::spec_of(const std::string& name) const {
  const auto found = shapes.find(name);
  VORONOI_REQUIRE(found != shapes.end(), "the configuration has no tensor " + name);
  return {name, found->second};
}

std::vector<float> Transformer::Impl::read(const TensorSpec& spec) const {
  const auto n = core::element_count(spec.shape);
  VORONOI_REQUIRE(n.has_value(), "the size of " + spec.name + " overflows");
  std::vector<float> values(static_cast<std::size_t>(*n));
  source.read(spec, values);
  return values;
}

HostTensor Transformer::Impl::take(const std::string& name, core::DType type, StagedBlock* staged) const {
  if (staged == nullptr) return host_tensor(type, read(spec_of(name)));
  const auto found = staged->tensors.find(name);
  VORONOI_REQUIRE(found != staged->tensors.end() && found->second.dtype == type, name + " was not staged");
  HostTensor tensor = std::move(found->second);
  staged->tensors.erase(found);
  return tensor;
}

PackedTensor Transformer::Impl::packed(const std::string& name) const {
  const bool keep = packed_linears == PackedLinears::keep;
  // Decoded by the host as it is read, where the host is the device.
  if (!keep && context.on_host()) return nullptr;
  PackedTensor tensor = source.packed(spec_of(name));
  // Decoding gives fp32 or the type that is stored; another 16-bit type is made by the host.
  if (tensor && !keep && dtype != core::DType::f32 && dtype != tensor->dtype) return nullptr;
  return tensor;
}

HostTensor Transformer::Impl::take_matrix(const std::string& name, StagedBlock* staged) const {
  if (staged != nullptr) return take(name, dtype, staged);
  HostTensor tensor;
  tensor.dtype = dtype;
  tensor.packed = packed(name);
  return tensor.packed ? tensor : take(name, dtype, nullptr);
}

template <class T>
Array<T> Transformer::Impl::place(const std::vector<T>& values, StagedBlock* staged) const {
  if (staged == nullptr) return Array<T>(context, std::span<const T>(values));
  Array<T> array(context, static_cast<std::int64_t>(values.size()));
  context.memory().upload(context.exec(), values.data(), static_cast<std::int64_t>(values.size() * sizeof(T)),
                          array.data());
  return array;
}

Array<float> Transformer::Impl::load(const std::string& name, StagedBlock* staged) const {
  if (staged == nullptr && context.on_host()) {  // without a copy between
    const TensorSpec spec = spec_of(name);
    Array<float> array(context, core::element_count(spec.shape).value_or(0));
    source.read(spec, array.span());
    return array;
  }
  return place(take(name, core::DType::f32, staged).wide, staged);
}

LinearWeight Transformer::Impl::load_matrix(const std::string& name, StagedBlock* staged) const {
  LinearWeight weight;
  weight.dtype = dtype;
  if (dtype == core::DType::f32 && staged == nullptr && context.on_host() && packed_linears == PackedLinears::decode) {
    weight.wide = load(name);  // without a copy between
    return weight;
  }
  const HostTensor tensor = take_matrix(name, staged);
  if (tensor.packed) {
    std::unique_ptr<format::PackedMatrix> on_device = tensor.packed->format->upload(context, *tensor.packed);
    if (packed_linears == PackedLinears::decode) return decoded(context, *on_device, dtype);
    if (dtype != core::DType::f32) weight.dtype = tensor.packed->dtype;
    weight.packed = std::move(on_device);
  } else if (dtype == core::DType::f32) {
    weight.wide = place(tensor.wide, staged);
  } else {
    weight.narrow = place(tensor.narrow, staged);
  }
  return weight;
}

Array<float> Transformer::Impl::load_norm(const std::string& name, StagedBlock* staged) const {
  if (!config.norm_plus_one) return load(name, staged);
  HostTensor weight = take(name, core::DType::f32, staged);
  for (float& value : weight.wide) value += 1.0F;
  return place(weight.wide, staged);
}

BlockWeights Transformer::Impl::load_block(std::int64_t layer, StagedBlock* staged, core::ThreadPool* parts) const {
  VORONOI_REQUIRE(layer >= 0 && layer < config.n_layers, "no such block");
  BlockWeights weights;
  weights.layer = layer;
  for_each_norm(config, layer, weights,
                [&](const std::string& name, Array<float>& norm) { norm = load_norm(name, staged); });
  for_each_small(config, layer, weights, [&](const std::string& name, const core::Shape&, Array<float>& values) {
    values = load(name, staged);
  });
  if (config.qk_norm_plain && config.layer_rope[static_cast<std::size_t>(layer)] != LayerRope::none) {
    const std::vector<float> plain(static_cast<std::size_t>(config.head_dim), 1.0F);
    weights.q_norm = place(plain, nullptr);
    weights.k_norm = place(plain, nullptr);
  }
  std::vector<Wanted> matrices;
  if (parts != nullptr)
    for (const SiteSpec& site : sites[static_cast<std::size_t>(layer)])
      for (const LinearSpec& linear : site.linears) matrices.push_back({linear.name + ".weight", dtype, true});
  StagedBlock part;
  std::size_t n_staged = 0;
  const auto load_linear = [&](const std::string& name) {
    if (parts == nullptr) return load_matrix(name, staged);
    if (!part.tensors.contains(name)) n_staged = stage_part(matrices, n_staged, *parts, part);
    return load_matrix(name, &part);
  };
  for (const SiteSpec& site : sites[static_cast<std::size_t>(layer)]) {
    auto& linears = weights.linears.emplace_back();
    auto& biases = weights.biases.emplace_back();
    for (const LinearSpec& linear : site.linears) {
      linears.push_back(load_linear(linear.name + ".weight"));
      biases.push_back(linear.has_bias ? load(linear.name + ".bias", staged) : Array<float>());
    }
  }
  return weights;
}

StagedBlock Transformer::Impl::stage_block(std::int64_t layer, core::ThreadPool& pool) const {
  VORONOI_REQUIRE(layer >= 0 && layer < config.n_layers, "no such block");
  std::map<std::string, core::DType> types;
  std::set<std::string> linears;
  for (const SiteSpec& site : sites[static_cast<std::size_t>(layer)])
    for (const LinearSpec& linear : site.linears) {
      types.emplace(linear.name + ".weight", dtype);
      linears.insert(linear.name + ".weight");
    }
  const std::string prefix = block_prefix(layer);
  for (auto at = shapes.lower_bound(prefix); at != shapes.end() && at->first.starts_with(prefix); ++at)
    types.emplace(at->first, core::DType::f32);
  std::vector<Wanted> wanted;
  for (const auto& [name, type] : types) wanted.push_back({name, type, linears.contains(name)});
  StagedBlock block;
  block.layer = layer;
  for (std::size_t next = 0; next < wanted.size();) next = stage_part(wanted, next, pool, block);
  return block;
}

std::size_t Transformer::Impl::stage_part(std::span<const Wanted> tensors, std::size_t first, core::ThreadPool& pool,
                                          StagedBlock& staged) const {
  std::size_t last = first;
  for (std::int64_t bytes = 0; last < tensors.size(); ++last) {
    bytes += core::element_count(shapes.at(tensors[last].name)).value_or(0) * std::int64_t{sizeof(float)};
    if (last > first && bytes > kStagedPartBytes) break;
  }
  std::vector<HostTensor> read(last - first);
  pool.parallel_for(static_cast<std::int64_t>(read.size()), [&](std::int64_t i) {
    const Wanted& tensor = tensors[first + static_cast<std::size_t>(i)];
    read[static_cast<std::size_t>(i)] =
        tensor.is_linear ? take_matrix(tensor.name, nullptr) : take(tensor.name, tensor.dtype, nullptr);
  });
  for (std::size_t i = 0; i < read.size(); ++i) staged.tensors.emplace(tensors[first + i].name, std::move(read[i]));
  return last;
}

float* Transformer::Impl::grow(backend::Context& context, Array<float>& array, std::int64_t n) {
  if (array.size() < n) {
    array = Array<float>();
    array = Array<float>(context, n);
  }
  return array.data();
}

LinearWeight Transformer::Impl::load_table(const std::string& name, bool is_gathered) const {
  if (!is_gathered && dtype == core::DType::f32 && context.on_host()) return load_matrix(name);  // in its place at once
  const TensorSpec spec = spec_of(name);
  const std::int64_t n_rows = spec.shape.front(), width = spec.shape.back(),
                     n_part = std::min(n_rows, std::max<std::int64_t>(1, kTablePartBytes / (4 * width)));
  std::vector<float> part(static_cast<std::size_t>(n_part * width));
  if (packed(name) || !source.read_rows(spec, 0, part)) return load_matrix(name);
  LinearWeight table;
  table.dtype = is_gathered && dtype == core::DType::f32 ? config.stored_dtype : dtype;
  if (table.dtype == core::DType::f32)
    table.wide = Array<float>(context, product(n_rows, width));
  else
    table.narrow = Array<std::uint16_t>(context, product(n_rows, width));
  const auto put = [&](const auto& values, auto& array, std::int64_t first) {
    context.memory().copy_from_host(context.exec(), values.data(),
                                    static_cast<std::int64_t>(values.size() * sizeof(values[0])),
                                    array.data() + first * width);
  };
  for (std::int64_t first = 0; first < n_rows; first += n_part) {
    if (first > 0) {
      part.resize(static_cast<std::size_t>(std::min(n_part, n_rows - first) * width));
      source.read_rows(spec, first, part);
    }
    if (table.dtype != core::DType::f32) {
      const std::vector<std::uint16_t> bits = host_tensor(table.dtype, part).narrow;
      const bool holds = table.dtype == dtype ||
                         std::equal(part.begin(), part.end(), bits.begin(), [&](float value, std::uint16_t stored) {
                           return value == core::from_bits16(table.dtype, stored);
                         });
      if (holds) {
        put(bits, table.narrow, first);
        continue;
      }
      // Of more than 16 bits after all: what has been read is widened again.
      Array<float> wide(context, product(n_rows, width));
      if (first > 0) {
        const Array<float> before = widened_rows(context, table, first, width);
        context.memory().copy_on_device(context.exec(), before.data(), 4 * before.size(), wide.data());
      }
      table = {core::DType::f32, std::move(wide), {}, nullptr};
    }
    put(part, table.wide, first);
  }
  return table;
}

const LinearWeight& Transformer::Impl::embedding_table() {
  if (config.tied_embeddings && !head.empty()) return head;
  if (embedding.empty()) embedding = load_table("model.embed_tokens.weight", true);
  return embedding;
}

const LinearWeight& Transformer::Impl::head_table() {
  if (!head.empty()) return head;
  if (!config.tied_embeddings) {
    head = load_table("lm_head.weight", false);
    return head;
  }
  const LinearWeight& table = embedding_table();
  if (table.packed || table.dtype == dtype) return table;
  head.wide = widened_rows(context, table, config.vocab_size, config.hidden_size);
  embedding = {};
  return head;
}

const Array<float>& Transformer::Impl::final_norm_weight() {
  if (final_norm.empty()) final_norm = load_norm("model.norm.weight");
  return final_norm;
}

Turn Transformer::Impl::turn_of(std::int64_t layer, std::int64_t n_positions, std::int64_t length) {
  const LayerRope which = config.layer_rope[static_cast<std::size_t>(layer)];
  const bool none = which == LayerRope::none;
  if (none && config.query_growth == 0) return {};
  const RopeConfig& rope = which == LayerRope::local ? config.local_rope : config.rope;
  const std::int64_t kind = none ? 0 : rope_kind(rope, length);
  RopeTable& table = rope_tables[static_cast<std::size_t>(which)];
  if (table.n_positions < n_positions || table.kind != kind) {
    const std::vector<float> values =
        none ? growth_table(config, n_positions) : rope_table(rope, config.n_turned, n_positions, length);
    table.values = Array<float>(context, std::span<const float>(values));
    table.n_positions = n_positions;
    table.kind = kind;
  }
  if (none) return {table.values.data(), config.head_dim, 0, false, false};
  return {table.values.data(), config.n_turned, config.latent.nope, config.rope_interleaved, true};
}

const float* Transformer::Impl::ones(std::int64_t n) {
  if (all_ones.size() < n) {
    const std::vector<float> values(static_cast<std::size_t>(n), 1.0F);
    all_ones = Array<float>(context, std::span<const float>(values));
  }
  return all_ones.data();
}

}  // namespace voronoi::model
