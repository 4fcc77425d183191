// SHA-256: checksums of artefacts and fingerprints of inputs.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace voronoi::core {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  Sha256& update(std::span<const std::byte> bytes);
  Sha256& update(std::string_view text);
  /// 64 lower-case hexadecimal digits; the object may not be updated afterwards.
  std::string hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string sha256(std::span<const std::byte> bytes);
std::string sha256(std::string_view text);
/// Of a whole file, read piece by piece; throws StoreError.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace voronoi::core
