// The methods: the one place that a new one is entered.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "quant/aqlm/aqlm_method.h"
#include "quant/baselines/afpq.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/bitdistiller.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/rtn.h"
#include "quant/gptvq/gptvq_method.h"
#include "quant/method.h"
#include "quant/quip/quip_sharp.h"
#include "quant/trellis/trellis_method.h"
#include "quant/vq/voronoi_method.h"
#include "quant/vq/vptq_method.h"

namespace voronoi::quant {
namespace {

std::vector<const Method*>& registered() {
  static std::vector<const Method*> methods{
      &rtn_method(),  &gptq_method(),  &bitdistiller_method(), &awq_method(),
      &afpq_method(), &gptvq_method(), &quip_sharp_method(),   &trellis_method(),
      &aqlm_method(), &vptq_method(),  &voronoi_method(),
  };
  return methods;
}

}  // namespace

std::vector<const Method*> methods() { return registered(); }

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const Method* method : registered()) names.emplace_back(method->name());
  return names;
}

const Method& find_method(std::string_view name) {
  for (const Method* method : registered())
    if (method->name() == name) return *method;
  throw core::ConfigError(
      fmt::format("method '{}' is unknown; it must be one of {}", name, fmt::join(method_names(), ", ")));
}

MethodRegistration::MethodRegistration(const Method& method) : method_(method) {
  for (const Method* known : registered())
    VORONOI_REQUIRE(known->name() != method.name(), "there is a method '" + std::string(method.name()) + "' already");
  registered().push_back(&method);
  try {
    all_parameters();
  } catch (...) {
    registered().pop_back();
    throw;
  }
}

MethodRegistration::~MethodRegistration() { std::erase(registered(), &method_); }

}  // namespace voronoi::quant
