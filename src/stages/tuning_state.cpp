#include "stages/tuning_state.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "store/shard.h"

namespace voronoi::stages {
namespace {

constexpr std::string_view kKind = "voronoi state of tuning, version 1";
constexpr std::string_view kBuffersKind = "voronoi buffers of codes, version 1";
constexpr std::string_view kBuffersPrefix = "codes.block_";

/// Every number of the state that is no vector, in the order of the file; whole ones are far below 2^53.
template <class State, class Visit>
void for_each_number(State& state, const Visit& visit) {
  visit(state.step);
  visit(state.adam.steps);
  visit(state.best_loss);
  visit(state.best_step);
  visit(state.first_loss);
  visit(state.looked_at);
  visit(state.without_gain);
  visit(state.loss_sum);
  visit(state.n_summed);
  visit(state.fallbacks);
}

template <class Codes, class Visit>
void for_each_codes(Codes& codes, const Visit& visit) {
  visit("codes", codes.now);
  visit("best_codes", codes.best);
}

template <class State, class Visit>
void for_each_vector(State& state, const Visit& visit) {
  visit("values", state.values);
  visit("first_moment", state.adam.first);
  visit("second_moment", state.adam.second);
  visit("best", state.best);
}

}  // namespace

std::string digest_of_generation(const run::RunState& state, std::int64_t generation) {
  std::string layers;
  for (const auto& [name, layer] : state.layers) {
    if (layer.generation == generation) layers += name + " " + layer.sha256 + "\n";
    const auto earlier = state.earlier_layers.find(name);
    if (earlier == state.earlier_layers.end()) continue;
    for (const run::LayerRecord& record : earlier->second)
      if (record.generation == generation) layers += name + " " + record.sha256 + "\n";
  }
  return core::sha256(layers);
}

void write_tuning_state(const store::Start& start, const std::string& phase, const std::string& settings,
                        const tune::DescentState& state, const TuningCodes* codes) {
  store::Shard shard;
  shard.attributes["kind"] = kKind;
  shard.attributes["phase"] = phase;
  shard.attributes["settings"] = settings;
  std::vector<double> numbers;
  for_each_number(state, [&](const auto& number) { numbers.push_back(static_cast<double>(number)); });
  shard.arrays.push_back(store::make_array<double>("numbers", core::DType::f64, numbers));
  for_each_vector(state, [&](const char* name, const std::vector<float>& values) {
    if (!values.empty()) shard.arrays.push_back(store::make_array<float>(name, core::DType::f32, values));
  });
  if (codes != nullptr)
    for_each_codes(*codes, [&](const char* name, const std::vector<std::byte>& bytes) {
      shard.arrays.push_back(store::make_array<std::byte>(name, core::DType::u8, bytes));
    });
  start.publish(start.paths().tuning_state(phase), store::serialize(shard));
}

tune::DescentState read_tuning_state(const store::RunPaths& paths, const std::string& phase,
                                     const std::string& settings, std::size_t n_parameters, TuningCodes* codes) {
  const std::string file = paths.tuning_state(phase).string();
  store::Shard shard = store::read_shard(file);
  if (shard.attributes["kind"] != kKind || shard.attributes["phase"] != phase)
    throw core::FormatError(file, fmt::format("is not a file of kind '{}' and phase '{}'", kKind, phase));
  if (shard.attributes["settings"] != settings)
    throw core::FormatError(file, "is of other settings of tuning, or of other quantized layers");
  tune::DescentState state;
  std::size_t n_numbers = 0;
  for_each_number(state, [&](const auto&) { ++n_numbers; });
  const auto find = [&](const std::string& name) {
    for (const store::ShardArray& array : shard.arrays)
      if (array.name == name) return &array;
    return static_cast<const store::ShardArray*>(nullptr);
  };
  const store::ShardArray* numbers = find("numbers");
  if (numbers == nullptr || numbers->dtype != core::DType::f64 || numbers->bytes.size() != n_numbers * sizeof(double))
    throw core::FormatError(file, fmt::format("does not hold {} numbers of F64", n_numbers));
  std::size_t at = 0;
  for_each_number(state, [&](auto& number) {
    double value = 0;
    std::memcpy(&value, numbers->bytes.data() + at++ * sizeof(double), sizeof value);
    using T = std::decay_t<decltype(number)>;
    if constexpr (std::is_same_v<T, std::int64_t>) {
      if (!(value >= -1 && value < 0x1p53) || value != std::floor(value))
        throw core::FormatError(file, fmt::format("counts {:g} where a whole number is wanted", value));
    }
    number = static_cast<T>(value);
  });
  for_each_vector(state, [&](const char* name, std::vector<float>& values) {
    const store::ShardArray* array = find(name);
    if (array == nullptr) return;
    if (array->dtype != core::DType::f32 || array->bytes.size() != n_parameters * sizeof(float))
      throw core::FormatError(file, fmt::format("{}: {} F32 numbers are wanted", name, n_parameters));
    values.resize(n_parameters);
    std::memcpy(values.data(), array->bytes.data(), array->bytes.size());
  });
  if (state.values.empty() || state.best.empty() || state.adam.first.size() != state.adam.second.size())
    throw core::FormatError(file, "lacks the parameters, or one of Adam's two moments");
  if (codes != nullptr)
    for_each_codes(*codes, [&](const char* name, std::vector<std::byte>& bytes) {
      const store::ShardArray* array = find(name);
      if (array == nullptr || array->dtype != core::DType::u8 || array->bytes.size() != bytes.size())
        throw core::FormatError(file, fmt::format("{}: {} bytes are wanted", name, bytes.size()));
      std::memcpy(bytes.data(), array->bytes.data(), bytes.size());
    });
  return state;
}

void write_tuning_buffers(const store::Start& start, const std::string& settings, std::int64_t step,
                          std::int64_t n_layers, const tune::MovingCodes& codes) {
  for (std::int64_t layer = 0; layer < n_layers; ++layer) {
    if (!codes.owns(layer)) continue;
    store::Shard shard;
    shard.attributes["kind"] = kBuffersKind;
    shard.attributes["settings"] = settings;
    for (format::NamedArray& array : codes.settled(layer))
      shard.arrays.push_back({std::move(array.name), array.dtype, std::move(array.shape), std::move(array.bytes)});
    start.publish(start.paths().tuning_buffers(layer, step), store::serialize(shard));
  }
}

void read_tuning_buffers(const store::RunPaths& paths, const std::string& settings, std::int64_t step,
                         std::int64_t n_layers, tune::MovingCodes& codes) {
  for (std::int64_t layer = 0; layer < n_layers; ++layer) {
    if (!codes.owns(layer)) continue;
    const std::filesystem::path file = paths.tuning_buffers(layer, step);
    if (!std::filesystem::exists(file)) throw core::FormatError(file.string(), "is missing");
    store::Shard shard = store::read_shard(file);
    if (shard.attributes["kind"] != kBuffersKind || shard.attributes["settings"] != settings)
      throw core::FormatError(file.string(), "is of another kind, or of other settings of tuning");
    tune::MovingCodes::Settled arrays;
    for (store::ShardArray& array : shard.arrays)
      arrays.push_back({std::move(array.name), array.dtype, std::move(array.shape), std::move(array.bytes)});
    codes.set_settled(layer, arrays);
  }
}

void remove_tuning_buffers(const store::Start& start, std::int64_t n_layers, std::optional<std::int64_t> but_of_step) {
  std::set<std::filesystem::path> wanted;
  for (std::int64_t layer = 0; but_of_step && layer < n_layers; ++layer)
    wanted.insert(start.paths().tuning_buffers(layer, *but_of_step));
  std::vector<std::filesystem::path> old;
  for (const auto& entry : std::filesystem::directory_iterator(start.paths().tuning()))
    if (entry.path().filename().string().starts_with(kBuffersPrefix) && !wanted.contains(entry.path()))
      old.push_back(entry.path());
  for (const std::filesystem::path& file : old) start.remove(file);
}

}  // namespace voronoi::stages
