// What the layouts of AutoGPTQ and AutoAWQ share: one setting of bits and groups for all linears, groups as rows of the
// stored arrays.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "export/int_layer.h"

namespace voronoi::exporting {

/// What is stored of a linear, and how.
struct GroupedArrays {
  core::Shape (*codes_shape)(const IntShape& layer);
  bool stores_groups;  ///< the group of each column
};
/// In the order in which they are written.
std::vector<IntTensor> grouped_tensors(const GroupedArrays& arrays, const std::string& linear, const IntShape& layer);

/// The linears of such a checkpoint being written.
class GroupedWriter : public LayerWriter {
 public:
  GroupedWriter(const Layout& layout, const GroupedArrays& arrays, std::int64_t row_multiple,
                std::int64_t column_multiple)
      : layout_(layout), arrays_(arrays), row_multiple_(row_multiple), column_multiple_(column_multiple) {}
  std::vector<std::string> check(const model::LinearSpec& linear, const format::Encoding& encoding) const override;
  core::Json facts(const model::LinearSpec& linear, const format::Encoding& encoding) const override;
  std::vector<std::string> take(const model::LinearSpec& linear, const core::Json& facts) override;
  std::vector<TensorPlan> plan(const std::string& linear, const format::Encoding& encoding) const override;
  std::vector<LayerTensor> tensors(const std::string& linear, const format::Encoding& encoding) const override;

 protected:
  /// Further facts of a linear, and what is made of them once it is fine.
  virtual void add_facts(const format::UniformView& /*fields*/, core::Json& /*facts*/) const {}
  virtual void note(const core::Json& /*facts*/) {}
  virtual std::vector<std::uint32_t> packed_codes(const IntLayer& layer) const = 0;
  virtual std::vector<std::uint32_t> packed_zeros(const IntLayer& layer) const = 0;
  /// 0: whole rows. Of the linears that were taken.
  std::int64_t bits() const { return bits_; }
  std::int64_t group_size() const { return group_size_; }
  bool ordered() const { return ordered_; }

 private:
  const Layout& layout_;
  const GroupedArrays& arrays_;
  std::int64_t row_multiple_, column_multiple_, bits_ = 0, group_size_ = 0;
  bool ordered_ = false;
};

/// The linears of such a checkpoint being read.
class GroupedReader : public LayerReader {
 public:
  /// Reads "bits" and "group_size"; `excluded`: modules that stay as they are, by names or parts of names.
  GroupedReader(const LayerSource& source, const GroupedArrays& arrays, std::int64_t least_bits, std::int64_t most_bits,
                std::set<std::string> excluded);
  std::optional<Stored> open(const model::LinearSpec& linear) override;
  format::Encoding read(const std::string& linear) const override;
  std::vector<std::string> tensor_names(const std::string& linear) const override;
  core::Json description(const std::string& linear) const override;
  std::string_view list_key() const override { return "quantization_config"; }

 protected:
  /// [in, out] as stored -> [out, in], and [n_groups, out] -> [out, n_groups]. Throw FormatError.
  virtual std::vector<std::uint8_t> codes(const std::vector<std::uint32_t>& words, const IntLayer& layer) const = 0;
  virtual std::vector<std::uint8_t> zeros(const std::vector<std::uint32_t>& words, const IntLayer& layer,
                                          const std::string& place) const = 0;
  const LayerSource& source() const { return source_; }
  int bits() const { return bits_; }

 private:
  const LayerSource source_;
  const GroupedArrays& arrays_;
  std::set<std::string> excluded_;
  int bits_ = 0;
  std::int64_t group_size_ = 0;
  std::map<std::string, IntShape, std::less<>> layers_;
};

}  // namespace voronoi::exporting
