// How far a start has come: what is left of each stage by predicted rates, corrected by what was measured.
#pragma once

#include <map>
#include <string>

namespace voronoi::stages {

/// Seconds of wall time. A stage's pieces (blocks, windows of tasks) run one after another; their predictions need only
/// be right in proportion, since what was measured of the stage scales what is left of it.
class StageClock {
 public:
  /// More work of a stage lies ahead.
  void expect(const std::string& stage, double predicted) { stages_[stage].open += predicted; }
  /// The piece at work is so long under way, and it is thought to take so much longer.
  void under_way(const std::string& stage, double predicted, double elapsed, double left);
  /// A piece is over.
  void done(const std::string& stage, double predicted, double measured);

  /// What a piece of the stage that is predicted to take so long will take.
  double corrected(const std::string& stage, double predicted) const;
  /// By stage; stages without work left are not in it.
  std::map<std::string, double> left() const;
  /// Measured of each stage in this start, the piece under way included.
  std::map<std::string, double> spent() const;

 private:
  struct Stage {
    double open = 0;                          ///< predicted, the piece under way included
    double finished = 0, measured = 0;        ///< predicted and measured of the pieces that are over
    double piece = 0, elapsed = 0, rest = 0;  ///< predicted, measured, thought to be left of the piece under way
    double ratio() const;
  };
  std::map<std::string, Stage> stages_;
};

/// ", about 13 min left (calibrate 3 min, quantize 10 min)"; nothing when nothing is left.
std::string left_text(const std::map<std::string, double>& left);

}  // namespace voronoi::stages
