#include "validation/kept_windows.h"

#include <algorithm>
#include <span>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/log.h"
#include "core/version.h"
#include "model/precision.h"

namespace voronoi::validation {
namespace {

struct Kept {
  WindowRows rows;
  double seconds = 0;
};

core::Json rows_to_json(const WindowRows& rows) {
  core::Json list = core::Json::array();
  for (const auto& row : rows) list.push_back(row ? core::Json(*row) : core::Json(nullptr));
  return list;
}

WindowRows rows_from_json(const core::Json& list) {
  WindowRows rows;
  for (const core::Json& row : list)
    rows.push_back(row.is_null() ? std::nullopt : std::optional(row.get<std::vector<double>>()));
  return rows;
}

Kept read_kept(const std::filesystem::path& file, std::int64_t n_windows, std::int64_t row_length) {
  const core::Json json = core::read_sealed_json(file.string(), "it will be computed again");
  Kept kept;
  kept.rows = rows_from_json(json.at("rows"));
  if (std::ssize(kept.rows) != n_windows)
    throw core::FormatError(file.string(), "is of another number of windows; it will be computed again");
  for (const auto& row : kept.rows)
    if (row && std::ssize(*row) != row_length)
      throw core::FormatError(file.string(), "holds rows of another length; it will be computed again");
  kept.seconds = json.at("seconds").get<double>();
  return kept;
}

std::int64_t count_done(const WindowRows& rows) {
  return std::count_if(rows.begin(), rows.end(), [](const auto& row) { return row.has_value(); });
}

}  // namespace

std::string window_key(const std::string& content, const model::Windows& windows, core::DType dtype,
                       backend::Device device) {
  core::Sha256 hash;
  hash.update(content + "\n" + std::to_string(windows.count) + "\n" + std::to_string(windows.context) + "\n");
  hash.update(std::as_bytes(std::span(windows.ids)));
  hash.update("\n" + std::string(model::product_dtype_name(dtype)) +
              (device == backend::Device::cuda ? "\ncuda\n" : "\ncpu\n") + core::program_version());
  return hash.hex();
}

KeptWindows::KeptWindows(std::vector<std::filesystem::path> directories, const std::string& key, std::int64_t n_windows,
                         std::int64_t row_length)
    : directories_(std::move(directories)),
      name_(key.substr(0, 32) + ".windows"),
      rows_(static_cast<std::size_t>(n_windows)) {
  std::vector<std::filesystem::path> lacking;
  for (const std::filesystem::path& directory : directories_) {
    const std::filesystem::path file = directory / name_;
    lacking.push_back(directory);
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) continue;
    try {
      Kept kept = read_kept(file, n_windows, row_length);
      if (count_done(kept.rows) == n_windows) lacking.pop_back();
      if (count_done(kept.rows) <= count_done(rows_)) continue;
      rows_ = std::move(kept.rows);
      seconds_ = kept.seconds;
    } catch (const core::Error& error) {
      core::log_warning("{}", error.what());
    } catch (const core::Json::exception& error) {
      core::log_warning("{}: holds no rows of windows: {}; they will be computed again", file.string(), error.what());
    }
  }
  // What one of them has whole, all shall have.
  if (count_done(rows_) == n_windows) write(lacking);
}

WindowRows KeptWindows::shared(const comm::Communicator& world) const {
  return rows_from_json(core::parse_json(world.broadcast(rows_to_json(rows_).dump(), 0), "kept rows"));
}

void KeptWindows::keep(const WindowRows& rows, double seconds) {
  rows_ = rows;
  seconds_ = seconds;
  write(directories_);
}

void KeptWindows::write(const std::vector<std::filesystem::path>& directories) {
  const std::string text =
      core::seal_json({{"format", 2}, {"seconds", seconds_}, {"rows", rows_to_json(rows_)}}).dump();
  for (const std::filesystem::path& directory : directories) {
    try {
      std::error_code error;
      std::filesystem::create_directories(directory, error);
      if (error) throw core::system_error(directory, "create the directory", error.value());
      core::write_file_shared(directory / name_, text + "\n");
    } catch (const core::StoreError& error) {
      if (!std::exchange(warned_, true)) core::log_warning("{}; an interrupted evaluation begins again", error.what());
    }
  }
}

void KeptWindows::remove() const {
  std::error_code ignored;
  for (const std::filesystem::path& directory : directories_) std::filesystem::remove(directory / name_, ignored);
}

}  // namespace voronoi::validation
