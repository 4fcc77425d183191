// What the tuned matrices of the formats share: which arrays of an encoding are parameters, and those that stay, in
// device memory.
#pragma once

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/tensor.h"
#include "format/tuned.h"

namespace voronoi::format {

class TunedArrays : public TunedMatrix {
 public:
  const std::vector<ParameterRun>& runs() const final { return runs_; }
  std::vector<float> initial() const final;
  std::int64_t size_bytes() const final;
  void leave_device() final;
  void enter_device(bool stay) final;
  Encoding rounded(std::span<const float> parameters) const override;
  std::vector<std::byte> codes() const final;
  void set_codes(std::span<const std::byte> codes) final;

 protected:
  /// Of a sound encoding. parameters: its arrays of 16-bit numbers that are tuned, in the order of the runs; those that
  /// the encoding lacks are passed over. codes: those that are codes, likewise.
  TunedArrays(backend::Context& context, const Encoding& encoding,
              std::initializer_list<std::pair<std::string_view, ParameterKind>> parameters,
              std::initializer_list<std::string_view> codes);

  /// Where an array that stays lies on the device now; null of one that the encoding lacks.
  template <class T>
  const T* fixed(const std::string& name) const {
    const auto found = fixed_.find(name);
    return found == fixed_.end() ? nullptr : reinterpret_cast<const T*>(found->second.device.data());
  }
  /// The same with its number of values.
  template <class T>
  std::span<const T> fixed_values(const std::string& name) const {
    const auto found = fixed_.find(name);
    if (found == fixed_.end()) return {};
    return {fixed<T>(name), static_cast<std::size_t>(found->second.size()) / sizeof(T)};
  }
  /// An array that stays, in host memory; empty: the encoding lacks it.
  template <class T>
  std::vector<T> on_host(const std::string& name) const {
    const auto found = fixed_.find(name);
    if (found == fixed_.end()) return {};
    const std::vector<std::byte> bytes = found->second.bytes();
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  /// Its new content, of the same size.
  template <class T>
  void set_fixed(const std::string& name, const std::vector<T>& values) {
    if (const auto found = fixed_.find(name); found != fixed_.end())
      found->second.assign(std::as_bytes(std::span(values)));
  }
  /// The part of [n_parameters()] values that is the named array; null of one that the encoding lacks.
  template <class T>
  T* part_of(T* parameters, std::string_view name) const {
    for (const ParameterRun& run : runs_)
      if (run.array == name) return parameters + run.first;
    return nullptr;
  }

 private:
  struct Fixed {
    backend::Array<std::byte> device;  ///< empty while it is away
    std::vector<std::byte> host;       ///< once it has been away
    std::int64_t size() const { return host.empty() ? device.size() : std::ssize(host); }
    std::vector<std::byte> bytes() const { return host.empty() ? device.to_host() : host; }
    void assign(std::span<const std::byte> values) {
      if (!host.empty()) host.assign(values.begin(), values.end());
      if (!device.empty()) device.assign(values);
    }
  };
  backend::Context& context_;
  Encoding encoding_;  // without the bytes of fixed_
  std::map<std::string, Fixed> fixed_;
  std::vector<ParameterRun> runs_;
  std::vector<std::string> codes_;  // of fixed_
};

}  // namespace voronoi::format
