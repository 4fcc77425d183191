// Goldens in safetensors files, read without the model room: from files that are trusted.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace voronoi::test {

class SafetensorsLite {
 public:
  explicit SafetensorsLite(const std::string& path) : path_(path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (file < 0 || ::fstat(file, &status) != 0) throw std::runtime_error("cannot open " + path);
    size_ = static_cast<std::size_t>(status.st_size);
    void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    if (map == MAP_FAILED) throw std::runtime_error("cannot map " + path);
    map_ = static_cast<const char*>(map);
    std::uint64_t header_size = 0;
    if (size_ >= sizeof header_size) std::memcpy(&header_size, map_, sizeof header_size);
    if (header_size == 0 || header_size > size_ - sizeof header_size)
      throw std::runtime_error("no safetensors header in " + path);
    body_ = sizeof header_size + static_cast<std::size_t>(header_size);
    header_ = nlohmann::json::parse(map_ + sizeof header_size, map_ + body_);
  }
  ~SafetensorsLite() { ::munmap(const_cast<char*>(map_), size_); }
  SafetensorsLite(const SafetensorsLite&) = delete;
  SafetensorsLite& operator=(const SafetensorsLite&) = delete;

  bool has(const std::string& name) const { return header_.contains(name); }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : header_.items())
      if (entry.key() != "__metadata__") result.push_back(entry.key());
    return result;
  }
  std::vector<std::int64_t> shape(const std::string& name) const {
    return header_.at(name).at("shape").get<std::vector<std::int64_t>>();
  }
  std::string dtype(const std::string& name) const { return header_.at(name).at("dtype").get<std::string>(); }
  /// The stored bits, of whatever type, as elements of T.
  template <class T>
  std::vector<T> bits(const std::string& name) const {
    return values<T>(name, nullptr);
  }
  std::vector<float> f32(const std::string& name) const { return values<float>(name, "F32"); }
  std::vector<std::int32_t> i32(const std::string& name) const { return values<std::int32_t>(name, "I32"); }

 private:
  template <class T>
  std::vector<T> values(const std::string& name, const char* dtype) const {
    const nlohmann::json& entry = header_.at(name);
    if (dtype != nullptr && entry.at("dtype").get<std::string>() != dtype)
      throw std::runtime_error(path_ + ": " + name + " is not " + dtype);
    const auto begin = entry.at("data_offsets").at(0).get<std::size_t>(),
               end = entry.at("data_offsets").at(1).get<std::size_t>();
    if (begin > end || end > size_ - body_ || (end - begin) % sizeof(T) != 0)
      throw std::runtime_error(path_ + ": offsets of " + name);
    std::vector<T> out((end - begin) / sizeof(T));
    if (!out.empty()) std::memcpy(out.data(), map_ + body_ + begin, end - begin);
    return out;
  }

  std::string path_;
  const char* map_ = nullptr;
  std::size_t size_ = 0, body_ = 0;
  nlohmann::json header_;
};

}  // namespace voronoi::test
