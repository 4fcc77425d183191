// A decoder block of packed linears whose numbers, and norms, are parameters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "format/encoding.h"
#include "format/tuned.h"
#include "model/transformer.h"
#include "tune/parameters.h"

namespace voronoi::tune {

/// What tuning made of a block.
struct BlockResult {
  std::map<std::string, format::Encoding> linears;
  std::map<std::string, std::vector<float>> norms;  ///< by tensor, as its file holds it
};

/// What may move of packed linears: the numbers that are parameters (Format::tuned), or all of a linear that follows a
/// dense weight (format::UniformFollower), of which none is a parameter here.
enum class PackedParts { numbers, followers };

/// The codes lie on the device, or in host memory between calls; parameters come from the caller with each call, as one
/// vector [n_parameters()].
class TunedBlock {
 public:
  /// The encoding that a linear is to start from, by its name; nothing: it stays as the transformer loads it.
  using LayerReader = std::function<std::optional<format::Encoding>(const std::string& linear)>;

  /// Norms, biases and routers as `transformer` loads them, which must outlive the block, as the context must. Throws
  /// ConfigError for a linear of a format without parameters, or without followers where those are asked for.
  TunedBlock(backend::Context& context, const model::Transformer& transformer, std::int64_t layer,
             const LayerReader& read_layer, PackedParts parts = PackedParts::numbers);

  const std::vector<Segment>& segments() const { return segments_; }
  std::int64_t n_parameters() const { return n_parameters_; }
  const std::vector<float>& initial() const { return initial_; }
  std::int64_t code_bytes() const;
  /// From now on the codes are on the device from fetch() or assemble() to drop() only; and always again.
  void keep_codes_on_host();
  void keep_codes_on_device();
  /// Their way to the device begins, beside the computing.
  void fetch();

  /// The block with these parameters (device memory), until the next call; its linears are fp32 and dense.
  const model::BlockWeights& assemble(const float* parameters);
  /// Gives back the memory of the dense linears, and of codes that are kept on the host.
  void drop();
  /// The same, but the memory of the dense linears goes to another block, whose shapes are mostly the same: it does not
  /// wander through the heap.
  void drop_for(TunedBlock& next);
  /// Called with part of the loss's derivative by a linear's weight [out, in] (device memory): the parts of all calls
  /// add up.
  using WeightObserver = std::function<void(std::size_t linear, const float* d_weight)>;
  /// Transformer::backward_block of the block as it was last assembled, from these parameters. sum [n_parameters()]
  /// (device memory) += the loss's derivative by the parameters.
  void backward(model::Transformer& transformer, const float* parameters, const model::HiddenStates& input,
                model::HiddenStates& gradient, float* sum, const WeightObserver& observer = nullptr);
  /// The same of the tape that the block's run kept.
  void backward(model::Transformer& transformer, const float* parameters, const model::BlockTape& tape,
                model::HiddenStates& gradient, float* sum, const WeightObserver& observer = nullptr);

  struct Linear {
    std::size_t site = 0, index = 0;
    std::string name;
    std::int64_t out_features = 0, in_features = 0, first = 0;  ///< first: of its parameters
    core::DType dtype = core::DType::f16;
    std::unique_ptr<format::TunedMatrix> matrix;
  };
  const std::vector<Linear>& linears() const { return linears_; }
  /// A linear's dense weight, as the block was last assembled.
  std::vector<float> assembled(const Linear& linear) const {
    return weights_.linears[linear.site][linear.index].wide.to_host();
  }

  /// The parameters (host) as they will be stored: each array in its 16-bit type. Throws NumericError naming the
  /// linear for what that type cannot hold.
  std::vector<float> rounded(std::span<const float> parameters) const;
  /// Of rounded parameters.
  BlockResult result(std::span<const float> parameters) const;

 private:
  model::LinearWeight& dense(const Linear& linear) { return weights_.linears[linear.site][linear.index]; }
  /// Anew where it has another size.
  template <class T>
  void fit(backend::Array<T>& array, std::int64_t n);
  void add_norms();
  /// Input: HiddenStates or BlockTape.
  template <class Input>
  void backward_from(model::Transformer& transformer, const float* parameters, const Input& input,
                     model::HiddenStates& gradient, float* sum, const WeightObserver& observer);

  backend::Context& context_;
  const model::ModelConfig& config_;
  core::DType dtype_;  ///< of products: f32, or bf16, where a dense linear is there in both
  model::BlockWeights weights_;
  std::vector<Linear> linears_;
  std::vector<Segment> segments_;
  std::ptrdiff_t first_norm_ = 0;  ///< segment from which on they are norms, in the order of for_each_norm
  std::int64_t n_parameters_ = 0;
  std::vector<float> initial_;
  backend::Array<float> d_weight_;
  bool codes_on_host_ = false;
};

/// What the normed value is multiplied by, as it is after storing the norm in the model's 16-bit type.
float rounded_norm(const model::ModelConfig& config, float value);
/// Norms as their files hold them, of what the normed value is multiplied by.
std::vector<float> stored_norm(const model::ModelConfig& config, std::span<const float> values);
/// The other way round.
std::vector<float> loaded_norm(const model::ModelConfig& config, std::span<const float> stored);

}  // namespace voronoi::tune
