// What a quantization run works on: opened and checked before any computing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/json.h"
#include "core/types.h"
#include "model/calibration_windows.h"
#include "model/chat_template.h"
#include "model/weights.h"
#include "run/settings.h"
#include "tune/sequences.h"

namespace voronoi::stages {

struct Inputs {
  std::unique_ptr<model::WeightSource> model;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::unique_ptr<model::ModelChat> chat;
  std::vector<model::Text> texts;
  model::Windows windows;                ///< calibration
  std::vector<model::TextShare> shares;  ///< what each text gave of them
  model::Windows tuning_windows;         ///< empty where nothing is tuned
  tune::Sequences tuning_sequences;
  core::DType dtype = core::DType::f32;  ///< of the forward pass of calibration
  std::int64_t row_groups = 1;           ///< of a linear, with a guided Hessian each (calib/row_groups.h)
  std::string calibration;               ///< fingerprint of all that decides the Hessians
  core::Json identity;                   ///< for run.json
};

/// Opens and checks everything that can be checked before any computing; every problem of the settings at once. Puts
/// into the options what --bits leaves to the model's size.
Inputs open_inputs(run::Settings& options, const backend::Context& context);
/// For several runs that differ in directory, method and its settings alone; `identity` is that of the first.
/// Independent calibration.
Inputs open_inputs(const std::vector<run::Settings*>& runs, const backend::Context& context);

}  // namespace voronoi::stages
