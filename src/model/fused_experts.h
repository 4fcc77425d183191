// Experts that a checkpoint holds in one tensor a layer: where each one's lies.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "model/config.h"

namespace voronoi::model {

/// Of a stored tensor [experts, in, columns] (of a bias [experts, columns]) the part that is a linear's weight [out,
/// in] (bias [out]): output o is column first_column + o * column_step of one expert.
struct ExpertSlice {
  std::string stored;
  core::Shape shape;  ///< of all of it
  std::int64_t expert = 0, n_out = 0, first_column = 0, column_step = 1;
};

/// By the tensor of expected_tensors() that it is; empty where experts are linears of their own. is_there(tensor,
/// shape): whether there is one of that shape; of others there are no slices, however many experts a config claims.
std::map<std::string, ExpertSlice> expert_slices(
    const ModelConfig& config,
    const std::function<bool(const std::string& stored, const core::Shape& shape)>& is_there);

}  // namespace voronoi::model
