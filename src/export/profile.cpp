#include "export/profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/packing.h"
#include "format/vptq.h"
#include "quant/method.h"

namespace voronoi::exporting {
namespace {

constexpr std::array<std::int64_t, 5> kVectorLengths{4, 6, 8, 12, 16};
constexpr std::array<int, 6> kIndexBits{8, 12, 13, 14, 15, 16};
constexpr std::array<int, 13> kResidualBits{0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16};
constexpr std::int64_t kOutlierVectorLength = 4;
constexpr std::int64_t kMaxStoredOrder = 65535;  // the order of the columns is stored in 16 bits

bool among(const auto& list, auto value) { return std::find(list.begin(), list.end(), value) != list.end(); }

std::vector<std::int64_t> sizes(const auto& bits) {
  std::vector<std::int64_t> list;
  for (const int b : bits) list.push_back(b == 0 ? 0 : std::int64_t{1} << b);
  return list;
}

std::vector<std::string> problems_of(const quant::PublicLayout& layout, Profile profile) {
  std::vector<std::string> problems;
  const auto refuse = [&](std::string text) { problems.push_back("export: " + std::move(text)); };
  if (!among(kVectorLengths, layout.vector_length))
    refuse(fmt::format("--vector-length {}: VPTQ's client has kernels for {} only", layout.vector_length,
                       fmt::join(kVectorLengths, ", ")));
  if (!among(kIndexBits, core::index_bits(layout.centroids)))
    refuse(fmt::format("--centroids {}: VPTQ's client has kernels for {} only", layout.centroids,
                       fmt::join(sizes(kIndexBits), ", ")));
  if (!among(kResidualBits, core::index_bits(layout.residual_centroids)) || layout.residual_centroids == 1)
    refuse(fmt::format("--residual-centroids {}: VPTQ's client has kernels for {} only", layout.residual_centroids,
                       fmt::join(sizes(kResidualBits), ", ")));
  if (layout.residual_centroids > layout.centroids)
    refuse(fmt::format("--residual-centroids {} is above --centroids {}: VPTQ's client reads such a layer wrongly",
                       layout.residual_centroids, layout.centroids));
  if (layout.groups > 1 && layout.residual_centroids != 0 && layout.residual_centroids != layout.centroids)
    refuse(
        fmt::format("--groups {} with --residual-centroids {}: VPTQ's kernels read past the residual codebook unless "
                    "it is as large as the main one; use --groups 1, --residual-centroids 0 or {}",
                    layout.groups, layout.residual_centroids, layout.centroids));
  if (profile == Profile::safe && layout.groups > 1)
    refuse(
        fmt::format("--groups {} is outside of the safe profile: only VPTQ's own client and transformers read it; "
                    "use --groups 1, or --export-profile full",
                    layout.groups));
  if (profile == Profile::safe && layout.outliers)
    refuse(
        "--outlier-percent is outside of the safe profile: only VPTQ's own client and transformers read outliers; "
        "use --outlier-percent 0, or --export-profile full");
  if (layout.outliers && layout.outlier_vector_length != kOutlierVectorLength)
    refuse(fmt::format("--outlier-vector-length {}: VPTQ's client takes {} only", layout.outlier_vector_length,
                       kOutlierVectorLength));
  if (layout.outliers && layout.vector_length % kOutlierVectorLength != 0)
    refuse(
        fmt::format("--vector-length {} with outliers: VPTQ's kernels compute them wrongly unless it is a multiple of "
                    "{}",
                    layout.vector_length, kOutlierVectorLength));
  return problems;
}

std::string format_problem(const std::string& what) {
  std::vector<std::string_view> others;
  for (const quant::Method* method : quant::methods())
    if (method->public_layout({})) others.push_back(method->name());
  return fmt::format(
      "export: {}: VPTQ's format holds vector-quantized layers only; use --method {}, or leave export out of --stages",
      what, fmt::join(others, " or "));
}

std::string order_problem(std::int64_t in_features) {
  return fmt::format(
      "export: a layer of {} columns is past the {} whose order VPTQ's format can store; use --groups 1 "
      "and --outlier-percent 0",
      in_features, kMaxStoredOrder);
}

}  // namespace

std::optional<Profile> profile_from_name(std::string_view name) {
  for (const Profile profile : {Profile::safe, Profile::full})
    if (name == profile_name(profile)) return profile;
  return std::nullopt;
}

std::string_view profile_name(Profile profile) { return profile == Profile::safe ? "safe" : "full"; }

std::vector<std::string> check_exportable(const quant::QuantParameters& p, std::span<const LayerShape> shapes,
                                          Profile profile) {
  const auto layout = quant::find_method(p.method).public_layout(p);
  if (!layout) return {format_problem("--method " + p.method)};
  std::vector<std::string> problems = problems_of(*layout, profile);
  std::int64_t widest = 0;
  for (const LayerShape& shape : shapes) widest = std::max(widest, shape.in_features);
  if ((layout->outliers || layout->groups > 1) && widest > kMaxStoredOrder) problems.push_back(order_problem(widest));
  return problems;
}

std::vector<std::string> check_exportable(const model::ModelConfig& config, std::string_view layout) {
  std::vector<std::string> problems;
  if (config.mixture.n_experts > 0 && config.mixture.storage != model::ExpertStorage::linears)
    problems.push_back(fmt::format(
        "export: the experts of {} are one parameter a layer, where public clients look for linears; the run itself, "
        "eval and generate serve it",
        config.model_type));
  if (!config.wrapper.empty() && layout == "gptq")
    problems.push_back(fmt::format(
        "export: {} is a model of several kinds of input, and the layout gptq cannot say that its other parts are not "
        "quantized; choose another --export-format (--format)",
        config.wrapper));
  return problems;
}

std::vector<std::string> check_exportable(const format::Encoding& encoding, Profile profile) {
  if (encoding.format != &format::vptq_format()) return {format_problem("a layer of another format")};
  const format::VqView e = format::vq_view(encoding);
  std::vector<std::string> problems = problems_of(
      {e.vector_length, e.centroids, e.residual_centroids, e.groups, e.outlier_size > 0, e.outlier_vector_length},
      profile);
  if (!e.perm.empty() && e.in_features > kMaxStoredOrder) problems.push_back(order_problem(e.in_features));
  if (profile == Profile::safe && !e.perm.empty() && e.groups == 1 && e.outlier_size == 0)
    problems.emplace_back("export: a stored column order is outside of the safe profile; use --export-profile full");
  return problems;
}

}  // namespace voronoi::exporting
