#include "stages/progress.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/log.h"

namespace voronoi::stages {

double StageClock::Stage::ratio() const {
  const double predicted = finished + piece;
  return predicted > 0 ? (measured + elapsed + rest) / predicted : 1;
}

void StageClock::under_way(const std::string& stage, double predicted, double elapsed, double left) {
  Stage& at = stages_[stage];
  at.piece = predicted;
  at.elapsed = elapsed;
  at.rest = left;
}

void StageClock::done(const std::string& stage, double predicted, double measured) {
  Stage& at = stages_[stage];
  at.open = std::max(0.0, at.open - predicted);
  at.finished += predicted;
  at.measured += measured;
  at.piece = at.elapsed = at.rest = 0;
}

double StageClock::corrected(const std::string& stage, double predicted) const {
  const auto found = stages_.find(stage);
  return predicted * (found == stages_.end() ? 1 : found->second.ratio());
}

std::map<std::string, double> StageClock::left() const {
  std::map<std::string, double> left;
  for (const auto& [name, stage] : stages_) {
    const double seconds = std::max(0.0, stage.open - stage.piece) * stage.ratio() + stage.rest;
    if (seconds > 0) left[name] = seconds;
  }
  return left;
}

std::map<std::string, double> StageClock::spent() const {
  std::map<std::string, double> spent;
  for (const auto& [name, stage] : stages_) spent[name] = stage.measured + stage.elapsed;
  return spent;
}

std::string left_text(const std::map<std::string, double>& left) {
  double sum = 0;
  std::string parts;
  for (const auto& [stage, seconds] : left) {
    sum += seconds;
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", stage, core::format_duration(seconds));
  }
  if (left.empty()) return "";
  return fmt::format(", about {} left{}", core::format_duration(sum), left.size() > 1 ? " (" + parts + ")" : "");
}

}  // namespace voronoi::stages
