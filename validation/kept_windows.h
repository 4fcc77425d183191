// What an evaluation has computed so far, window by window, kept so that an interrupted one goes on and the unquantized
// reference is computed once.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "validation/text_pass.h"

namespace voronoi::validation {

/// All that decides the rows: the weights' `content` (of a comparison, both models'), the token ids of the windows,
/// product type, device and the version of this program.
std::string window_key(const std::string& content, const model::Windows& windows, core::DType dtype,
                       backend::Device device);

/// A file "<key>.windows" (sealed JSON, published atomically) in each of some directories. It is auxiliary: one that
/// cannot be read counts as none, one that cannot be written is warned of once. Processes that compute the same at the
/// same time write the same.
class KeptWindows {
 public:
  /// Reads what is there; `directories` need not exist. What is whole in one of them is put into the others.
  KeptWindows(std::vector<std::filesystem::path> directories, const std::string& key, std::int64_t n_windows,
              std::int64_t row_length);

  /// The rows that rank 0 has, on every rank; collective.
  WindowRows shared(const comm::Communicator& world) const;
  /// Wall time that was spent on them.
  double seconds() const { return seconds_; }
  void keep(const WindowRows& rows, double seconds);
  void remove() const;

 private:
  void write(const std::vector<std::filesystem::path>& directories);

  std::vector<std::filesystem::path> directories_;
  std::string name_;
  WindowRows rows_;
  double seconds_ = 0;
  bool warned_ = false;
};

}  // namespace voronoi::validation
