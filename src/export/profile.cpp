#include "export/profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/packing.h"
#include "format/vptq.h"

namespace voronoi::exporting {
namespace {

constexpr std::array<std::int64_t, 5> kVectorLengths{4, 6, 8, 12, 16};
constexpr std::array<int, 6> kIndexBits{8, 12, 13, 14, 15, 16};
constexpr std::array<int, 13> kResidualBits{0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16};
constexpr std::int64_t kOutlierVectorLength = 4;
constexpr std::int64_t kMaxStoredOrder = 65535;  // the order of the columns is stored in 16 bits

/// What decides, of parameters or of a layer.
struct Settings {
  std::int64_t v = 0, k = 0, kr = 0, groups = 1;
  bool outliers = false;
  std::int64_t outlier_vector_length = 0;
};

bool among(const auto& list, auto value) { return std::find(list.begin(), list.end(), value) != list.end(); }

std::vector<std::int64_t> sizes(const auto& bits) {
  std::vector<std::int64_t> list;
  for (const int b : bits) list.push_back(b == 0 ? 0 : std::int64_t{1} << b);
  return list;
}

std::vector<std::string> problems_of(const Settings& s, Profile profile) {
  std::vector<std::string> problems;
  const auto refuse = [&](std::string text) { problems.push_back("export: " + std::move(text)); };
  if (!among(kVectorLengths, s.v))
    refuse(
        fmt::format("--vector-length {}: VPTQ's client has kernels for {} only", s.v, fmt::join(kVectorLengths, ", ")));
  if (!among(kIndexBits, core::index_bits(s.k)))
    refuse(
        fmt::format("--centroids {}: VPTQ's client has kernels for {} only", s.k, fmt::join(sizes(kIndexBits), ", ")));
  if (!among(kResidualBits, core::index_bits(s.kr)) || s.kr == 1)
    refuse(fmt::format("--residual-centroids {}: VPTQ's client has kernels for {} only", s.kr,
                       fmt::join(sizes(kResidualBits), ", ")));
  if (s.kr > s.k)
    refuse(fmt::format("--residual-centroids {} is above --centroids {}: VPTQ's client reads such a layer wrongly",
                       s.kr, s.k));
  if (s.groups > 1 && s.kr != 0 && s.kr != s.k)
    refuse(
        fmt::format("--groups {} with --residual-centroids {}: VPTQ's kernels read past the residual codebook unless "
                    "it is as large as the main one; use --groups 1, --residual-centroids 0 or {}",
                    s.groups, s.kr, s.k));
  if (profile == Profile::safe && s.groups > 1)
    refuse(
        fmt::format("--groups {} is outside of the safe profile: only VPTQ's own client and transformers read it; "
                    "use --groups 1, or --export-profile full",
                    s.groups));
  if (profile == Profile::safe && s.outliers)
    refuse(
        "--outlier-percent is outside of the safe profile: only VPTQ's own client and transformers read outliers; "
        "use --outlier-percent 0, or --export-profile full");
  if (s.outliers && s.outlier_vector_length != kOutlierVectorLength)
    refuse(fmt::format("--outlier-vector-length {}: VPTQ's client takes {} only", s.outlier_vector_length,
                       kOutlierVectorLength));
  if (s.outliers && s.v % kOutlierVectorLength != 0)
    refuse(
        fmt::format("--vector-length {} with outliers: VPTQ's kernels compute them wrongly unless it is a multiple of "
                    "{}",
                    s.v, kOutlierVectorLength));
  return problems;
}

std::string method_problem(const std::string& method) {
  return "export: --method " + method +
         ": VPTQ's format holds vector-quantized layers only; use vptq or voronoi, or leave export out of --stages";
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
  if (p.method == "rtn" || p.method == "gptq") return {method_problem(p.method)};
  const bool outliers = p.outlier_percent > 0;
  std::vector<std::string> problems = problems_of(
      {p.vector_length, p.centroids, p.residual_centroids, p.groups, outliers, p.outlier_vector_length}, profile);
  std::int64_t widest = 0;
  for (const LayerShape& shape : shapes) widest = std::max(widest, shape.in_features);
  if ((outliers || p.groups > 1) && widest > kMaxStoredOrder) problems.push_back(order_problem(widest));
  return problems;
}

std::vector<std::string> check_exportable(const format::Encoding& encoding, Profile profile) {
  if (encoding.format != &format::vptq_format()) return {method_problem("rtn or gptq")};
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
