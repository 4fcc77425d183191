#include "export/scale_folding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/index.h"
#include "format/uniform.h"

namespace voronoi::exporting {
namespace {

using core::index;

constexpr std::string_view kWeightName = ".weight", kBiasName = ".bias";

std::string without(const std::string& name, std::string_view ending) {
  return name.substr(0, name.size() - ending.size());
}

format::UniformEncoding own(const format::UniformView& e) {
  format::UniformEncoding copy;
  static_cast<format::UniformExtents&>(copy) = e;
  copy.codes.assign(e.codes.begin(), e.codes.end());
  copy.scale.assign(e.scale.begin(), e.scale.end());
  copy.zeros.assign(e.zeros.begin(), e.zeros.end());
  copy.perm.assign(e.perm.begin(), e.perm.end());
  return copy;
}

}  // namespace

ScaleFolding::ScaleFolding(const model::ModelConfig& config, std::set<std::string> unquantized, ReadLayer read)
    : norms_plus_one_(config.norm_plus_one), dtype_(config.stored_dtype), read_(std::move(read)) {
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const std::vector<model::SiteSpec> sites = model::block_sites(config, layer);
    for (std::size_t i = 0; i < sites.size(); ++i) {
      Site site;
      site.place = model::input_scale_place(config, layer, sites, i);
      if (site.place && !site.place->norm.empty()) site_of_norm_[site.place->norm] = sites_.size();
      if (site.place && !site.place->linear.empty()) site_behind_[site.place->linear] = sites_.size();
      for (const model::LinearSpec& linear : sites[i].linears) {
        site.all_quantized = site.all_quantized && !unquantized.contains(linear.name);
        if (unquantized.contains(linear.name)) continue;
        site.linears.push_back(linear.name);
        site_of_linear_[linear.name] = sites_.size();
      }
      sites_.push_back(std::move(site));
    }
  }
}

std::vector<float> ScaleFolding::column_scales(const format::Encoding& encoding) {
  std::vector<float> scales;  // of natural columns
  if (encoding.format != &format::uniform_format()) return scales;
  const format::UniformView e = format::uniform_view(encoding);
  for (const std::uint16_t bits : e.column_scale) scales.push_back(core::from_bits16(e.dtype, bits));
  if (std::all_of(scales.begin(), scales.end(), [](float scale) { return scale == 1; })) scales.clear();
  return scales;
}

void ScaleFolding::note(const std::string& linear, std::vector<float> column_scales) {
  columns_[linear] = std::move(column_scales);
}

const std::vector<float>& ScaleFolding::columns_of(const std::string& linear) {
  const auto found = columns_.find(linear);
  return found != columns_.end() ? found->second : columns_[linear] = column_scales(read_(linear));
}

std::string ScaleFolding::problem_of(const Site& site) {
  const auto scaled = std::find_if(site.linears.begin(), site.linears.end(),
                                   [&](const std::string& linear) { return !columns_of(linear).empty(); });
  if (scaled == site.linears.end()) return "";
  if (!site.place)
    return "export: column scales that fold into nothing before them; --column-scales foldable makes none of those";
  const bool same = std::all_of(site.linears.begin(), site.linears.end(),
                                [&](const std::string& linear) { return columns_of(linear) == columns_of(*scaled); });
  if (!site.all_quantized || !same)
    return "export: column scales that other linears on the same input do not share: they cannot be folded into what "
           "is before all of them; --column-scales none makes none";
  return "";
}

std::vector<std::pair<std::string, std::string>> ScaleFolding::problems() {
  std::vector<std::pair<std::string, std::string>> found;
  for (const Site& site : sites_)
    if (const std::string problem = problem_of(site); !problem.empty())
      for (const std::string& linear : site.linears)
        if (!columns_of(linear).empty()) found.emplace_back(linear, problem);
  return found;
}

std::size_t ScaleFolding::n_folded() {
  return static_cast<std::size_t>(
      std::count_if(sites_.begin(), sites_.end(), [&](const Site& site) { return !factors_of(site).empty(); }));
}

const std::vector<float>& ScaleFolding::factors_of(const Site& site) {
  static const std::vector<float> none;
  if (site.linears.empty()) return none;
  if (const std::string problem = problem_of(site); !problem.empty())
    throw core::ConfigError(fmt::format("{}: {}", site.linears.front(), problem));
  return columns_of(site.linears.front());
}

float ScaleFolding::unit_of(const Site& site) {
  const std::vector<float>& factors = factors_of(site);
  if (!norms_plus_one_ || factors.empty() || site.place->norm.empty()) return 1;
  int exponent = 0;
  std::frexp(*std::min_element(factors.begin(), factors.end()), &exponent);
  return std::ldexp(1.0F, std::max(0, 1 - exponent));
}

std::vector<float> ScaleFolding::row_factors(const std::string& linear, std::int64_t out_features) {
  const auto behind = site_behind_.find(linear);
  if (behind == site_behind_.end()) return {};
  const Site& site = sites_[behind->second];
  const std::vector<float>& factors = factors_of(site);
  if (factors.empty()) return {};
  std::vector<float> by_row(index(out_features), 1);
  for (std::size_t i = 0; i < factors.size(); ++i) by_row[index(site.place->rows[i])] = factors[i];
  return by_row;
}

float ScaleFolding::stored(float value, const std::string& name) const {
  if (!std::isfinite(core::round_to(dtype_, value)))
    throw core::ConfigError(fmt::format(
        "export: {}: with column scales folded into it, a number is beyond {}; --column-scales none makes none", name,
        core::dtype_name(dtype_)));
  return value;
}

format::Encoding ScaleFolding::folded(const std::string& linear, format::Encoding encoding) {
  if (encoding.format != &format::uniform_format()) return encoding;
  const format::UniformView view = format::uniform_view(encoding);
  const std::vector<float> rows = row_factors(linear, view.out_features);
  const float unit = unit_of(sites_[site_of_linear_.at(linear)]);
  if (view.column_scale.empty() && rows.empty()) return encoding;
  format::UniformEncoding e = own(view);
  const std::int64_t n_groups = std::ssize(e.scale) / e.out_features;
  for (std::int64_t at = 0; at < std::ssize(e.scale) && (unit != 1 || !rows.empty()); ++at) {
    const float before = core::from_bits16(e.dtype, e.scale[index(at)]);
    const float value = before / unit * (rows.empty() ? 1.0F : rows[index(at / n_groups)]);
    e.scale[index(at)] = core::to_bits16(e.dtype, value);
    const float after = core::from_bits16(e.dtype, e.scale[index(at)]);
    // Rounded as every number of its size: none that is lost in the smallest of its type.
    if (!std::isfinite(after) || std::abs(after - value) > std::abs(value) / 256)
      throw core::ConfigError(
          fmt::format("export: {}: with column scales folded, the scale {:g} of a group has no place in {}; "
                      "--column-scales none makes none",
                      linear, value, core::dtype_name(e.dtype)));
  }
  return format::to_encoding(e);
}

void ScaleFolding::fold(const model::TensorSpec& spec, std::span<float> values) {
  if (const auto norm = site_of_norm_.find(spec.name); norm != site_of_norm_.end()) {
    const Site& site = sites_[norm->second];
    const std::vector<float>& factors = factors_of(site);
    const double unit = unit_of(site), one = norms_plus_one_ ? 1 : 0;
    for (std::size_t i = 0; i < factors.size(); ++i)
      values[i] =
          stored(static_cast<float>((one + static_cast<double>(values[i])) * factors[i] * unit - one), spec.name);
    return;
  }
  const bool bias = spec.name.ends_with(kBiasName);
  if (!bias && !spec.name.ends_with(kWeightName)) return;
  const std::vector<float> rows = row_factors(without(spec.name, bias ? kBiasName : kWeightName), spec.shape.front());
  const std::size_t columns = rows.empty() ? 0 : values.size() / rows.size();
  for (std::size_t i = 0; i < columns * rows.size(); ++i) values[i] = stored(values[i] * rows[i / columns], spec.name);
}

}  // namespace voronoi::exporting
