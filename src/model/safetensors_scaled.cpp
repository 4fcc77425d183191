// Reading of tensors that are stored in 8 or 4 bits beside scales.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/work_counts.h"
#include "model/safetensors_folder.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

constexpr std::string_view kF8 = "F8_E4M3", kByteType = "U8";
constexpr std::int64_t kF4Group = 32, kF4Bytes = 16;

bool is_bytes(const SafetensorsFolder::Stored* stored, const core::Shape& shape) {
  return stored != nullptr && stored->tensor->dtype_name == kByteType && stored->tensor->shape == shape;
}

[[noreturn]] void refuse_bad(const std::string& file, std::string_view name, const core::Shape& shape,
                             std::span<const float> values) {
  throw bad_values(file, name, shape,
                   [&](std::int64_t i) { return static_cast<double>(values[static_cast<std::size_t>(i)]); });
}

}  // namespace

bool SafetensorsFolder::has_mxfp4(const std::string& stored, const core::Shape& shape) const {
  if (scaled_.kind != ScaledWeights::Kind::mxfp4 || shape.size() != 3 || shape[1] % kF4Group != 0) return false;
  const std::int64_t n_blocks = shape[1] / kF4Group;
  return is_bytes(find(stored + "_blocks"), {shape[0], shape[2], n_blocks, kF4Bytes}) &&
         is_bytes(find(stored + "_scales"), {shape[0], shape[2], n_blocks});
}

bool SafetensorsFolder::has_narrow_tensors() const {
  return std::any_of(tensors_.begin(), tensors_.end(), [](const auto& entry) {
    const std::string& type = entry.second.tensor->dtype_name;
    return type == kF8 || type == kByteType;
  });
}

void SafetensorsFolder::read_mxfp4(const TensorSpec& spec, const ExpertSlice& slice, std::span<float> out) const {
  const Stored &blocks = *find(slice.stored + "_blocks"), &scales = *find(slice.stored + "_scales");
  const std::int64_t columns = slice.shape[2], n_in = slice.shape[1], n_scales = n_in / kF4Group;
  VORONOI_REQUIRE(spec.shape == (core::Shape{slice.n_out, n_in}) && std::cmp_equal(slice.n_out * n_in, out.size()),
                  spec.name);
  for (std::int64_t o = 0; o < slice.n_out; ++o) {
    const std::int64_t row = slice.expert * columns + slice.first_column + o * slice.column_step;
    decode_mxfp4_row(
        blocks.tensor->bytes.subspan(static_cast<std::size_t>(row * n_scales * kF4Bytes),
                                     static_cast<std::size_t>(n_scales * kF4Bytes)),
        scales.tensor->bytes.subspan(static_cast<std::size_t>(row * n_scales), static_cast<std::size_t>(n_scales)),
        out.data() + o * n_in);
  }
  core::count_work(core::Counted::model_bytes, slice.n_out * n_scales * (kF4Bytes + 1));
  blocks.file->require_unchanged();
  scales.file->require_unchanged();
  if (!all_finite(out)) refuse_bad(blocks.file->path(), spec.name, spec.shape, out);
}

const SafetensorsFolder::Stored* SafetensorsFolder::scales_of(const std::string& name, const Stored& stored) const {
  const core::Shape& shape = stored.tensor->shape;
  if (stored.tensor->dtype_name != kF8 || shape.size() != 2) return nullptr;
  const Stored* scales = nullptr;
  core::Shape wanted;
  if (scaled_.kind == ScaledWeights::Kind::fp8_blocks) {
    scales = find(name + "_scale_inv");
    wanted = {core::ceil_div(shape[0], scaled_.block_rows), core::ceil_div(shape[1], scaled_.block_columns)};
  } else if (scaled_.kind == ScaledWeights::Kind::fp8_rows) {
    scales = find(name + "_scale");
    wanted = {shape[0], 1};
  }
  return scales != nullptr && scales->tensor->dtype && scales->tensor->shape == wanted ? scales : nullptr;
}

void SafetensorsFolder::read_f8(const TensorSpec& spec, const Stored& stored, const Stored& scales,
                                std::span<float> out) const {
  const bool blocks = scaled_.kind == ScaledWeights::Kind::fp8_blocks;
  const std::int64_t rows = spec.shape[0], columns = spec.shape[1], n_scales = scales.tensor->shape[1];
  std::vector<float> factors(static_cast<std::size_t>(core::element_count(scales.tensor->shape).value_or(0)));
  bool good = convert_finite(*scales.tensor->dtype, scales.tensor->bytes.data(), factors);
  for (std::int64_t row = 0; row < rows; ++row)
    decode_f8_row(
        stored.tensor->bytes.subspan(static_cast<std::size_t>(row * columns), static_cast<std::size_t>(columns)),
        factors.data() + (blocks ? row / scaled_.block_rows : row) * n_scales, blocks ? scaled_.block_columns : columns,
        out.data() + row * columns);
  core::count_work(core::Counted::model_bytes, std::ssize(stored.tensor->bytes) + std::ssize(scales.tensor->bytes));
  stored.file->require_unchanged();
  scales.file->require_unchanged();
  good = all_finite(out) && good;
  if (!good && all_finite(out)) refuse_bad(scales.file->path(), scales.name, scales.tensor->shape, factors);
  if (!good) refuse_bad(stored.file->path(), stored.name, spec.shape, out);
}

}  // namespace voronoi::model
