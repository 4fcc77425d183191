// Layers on the page: errors by block and operator, bits by operator, and what numbers forced on some.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "validation/html.h"
#include "validation/report_run_html.h"
#include "validation/svg.h"
#include "validation/svg_canvas.h"

namespace voronoi::validation {
namespace {

/// "model.layers.7.mlp.experts.3.w1": block 7, operator "mlp.experts.*.w1". A name without a number is an operator of
/// no block (-1).
struct LayerPlace {
  std::int64_t block = -1;
  std::string name;
};

LayerPlace place_of(const std::string& layer) {
  LayerPlace place;
  std::string name;
  for (std::size_t begin = 0; begin <= layer.size();) {
    const std::size_t end = std::min(layer.find('.', begin), layer.size());
    const std::string part = layer.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    if (number && place.block < 0) {
      place.block = std::stoll(part);
      name.clear();  // what stands before the block's number is the same for all
    } else {
      name += (name.empty() ? "" : ".") + (number ? std::string("*") : part);
    }
    begin = end + 1;
  }
  place.name = name.empty() ? layer : name;
  return place;
}

/// In the order of a block's work.
std::size_t order_of(std::string_view name) {
  constexpr std::array<std::string_view, 12> kOrder{"q_proj",       "k_proj",    "v_proj",    "qkv_proj",
                                                    "o_proj",       "gate_proj", "w1",        "up_proj",
                                                    "gate_up_proj", "w3",        "down_proj", "w2"};
  const std::string_view last = name.substr(name.find_last_of('.') + 1);
  return static_cast<std::size_t>(std::find(kOrder.begin(), kOrder.end(), last) - kOrder.begin());
}

struct Operator {
  std::string name;
  std::int64_t n = 0, n_unquantized = 0, weights = 0;  ///< n: quantized; weights: of both
  double bits = 0, least_bits = 0, most_bits = 0;      ///< bits: all of them
  double error = 0, most_error = 0;                    ///< error: the sum
  std::string worst;
  std::map<std::int64_t, std::pair<double, int>> by_block;  ///< sum of errors and their number
};

void add_bits(Operator& op, double bits, std::int64_t weights) {
  op.least_bits = op.weights == 0 ? bits : std::min(op.least_bits, bits);
  op.most_bits = std::max(op.most_bits, bits);
  op.weights += weights;
  op.bits += bits * static_cast<double>(weights);
}

std::vector<Operator> operators_of(const RunSection& run) {
  constexpr double kUnquantizedBits = 16;
  std::map<std::string, Operator> by_name;
  for (const UnquantizedLinear& linear : run.unquantized) {
    Operator& op = by_name[place_of(linear.name).name];
    op.name = place_of(linear.name).name;
    ++op.n_unquantized;
    add_bits(op, kUnquantizedBits, linear.weights);
  }
  for (const LayerRow& layer : run.layers) {
    const LayerPlace place = place_of(layer.name);
    Operator& op = by_name[place.name];
    op.name = place.name;
    ++op.n;
    add_bits(op, layer.true_bits, layer.weights);
    op.error += layer.relative_error;
    if (op.worst.empty() || layer.relative_error > op.most_error) op.worst = layer.name;
    op.most_error = std::max(op.most_error, layer.relative_error);
    auto& cell = op.by_block[place.block];
    cell.first += layer.relative_error;
    ++cell.second;
  }
  std::vector<Operator> operators;
  for (auto& entry : by_name) operators.push_back(std::move(entry.second));
  std::stable_sort(operators.begin(), operators.end(), [](const Operator& a, const Operator& b) {
    const auto key = [](const Operator& op) {
      return std::tuple(op.name.find("attn") == std::string::npos, order_of(op.name));
    };
    return key(a) < key(b);
  });
  return operators;
}

std::string error_map(const std::vector<Operator>& operators) {
  std::set<std::int64_t> blocks;
  for (const Operator& op : operators)
    for (const auto& entry : op.by_block)
      if (entry.first >= 0) blocks.insert(entry.first);
  HeatMap map;
  map.text.title = "Relative error by block and operator";
  map.text.description =
      "Rows are operators, columns blocks; the stronger the colour, the larger the error. The table below has every "
      "number.";
  map.column_label = "block";
  // As many rows as columns may be wanted: the table stands the other way round, a row a block.
  HtmlTable numbers{"Relative Hessian error by block and operator (experts: their mean)", {{"block"}}, {}};
  for (const std::int64_t block : blocks) {
    map.columns.push_back(std::to_string(block));
    numbers.rows.push_back({std::to_string(block)});
  }
  for (const Operator& op : operators) {
    if (op.n == 0) continue;
    map.rows.push_back(op.name);
    numbers.columns.push_back({op.name});
    std::vector<std::optional<double>> row;
    std::size_t at = 0;
    for (const std::int64_t block : blocks) {
      const auto cell = op.by_block.find(block);
      std::optional<double> value;
      if (cell != op.by_block.end()) value = cell->second.first / cell->second.second;
      row.push_back(value);
      numbers.rows[at++].push_back(value ? number_text(*value, 3) : "-");
    }
    map.values.push_back(std::move(row));
  }
  return figure(draw(map), numbers, true);
}

std::string bits_picture(const std::vector<Operator>& operators) {
  BarChart chart;
  chart.text = {"True bits a weight by operator",
                "Horizontal bars with their values; the table below has the same numbers."};
  chart.series = {"true bits"};
  chart.styles = {1};
  HtmlTable numbers{"True bits a weight by operator",
                    {{"operator", false}, {"layers"}, {"weights"}, {"bits"}, {"least"}, {"most"}},
                    {}};
  for (const Operator& op : operators) {
    const double bits = op.bits / static_cast<double>(std::max<std::int64_t>(1, op.weights));
    chart.categories.push_back(op.name);
    chart.bars.push_back({{bits, 0, fmt::format("{:.3f}", bits)}});
    numbers.rows.push_back({op.name, std::to_string(op.n + op.n_unquantized),
                            number_text(static_cast<double>(op.weights), 15), fmt::format("{:.3f}", bits),
                            fmt::format("{:.3f}", op.least_bits), fmt::format("{:.3f}", op.most_bits)});
  }
  return figure(draw(chart), numbers);
}

std::string error_picture(const std::vector<Operator>& operators) {
  BarChart chart;
  chart.text = {"Mean relative error by operator",
                "Horizontal bars with their values; the table below has the same numbers."};
  chart.series = {"mean relative error"};
  chart.styles = {2};
  HtmlTable numbers{
      "Relative Hessian error by operator", {{"operator", false}, {"mean"}, {"largest"}, {"of", false}}, {}};
  for (const Operator& op : operators) {
    if (op.n == 0) continue;
    const double error = op.error / static_cast<double>(op.n);
    chart.categories.push_back(op.name);
    chart.bars.push_back({{error, 0, number_text(error, 3)}});
    numbers.rows.push_back({op.name, number_text(error, 4), number_text(op.most_error, 4), op.worst});
  }
  return figure(draw(chart), numbers);
}

HtmlTable worst_layers(const RunSection& run) {
  constexpr std::size_t kShown = 20;
  std::vector<const LayerRow*> worst;
  for (const LayerRow& layer : run.layers) worst.push_back(&layer);
  std::stable_sort(worst.begin(), worst.end(),
                   [](const LayerRow* a, const LayerRow* b) { return a->relative_error > b->relative_error; });
  worst.resize(std::min(worst.size(), kShown));
  HtmlTable rows{fmt::format("The {} layers with the largest relative error; report.json has all {}", worst.size(),
                             run.layers.size()),
                 {{"layer", false}, {"error"}, {"true bits"}, {"weights"}, {"tokens"}, {"seconds"}},
                 {}};
  for (const LayerRow* layer : worst)
    rows.rows.push_back({layer->name, number_text(layer->relative_error), fmt::format("{:.3f}", layer->true_bits),
                         number_text(static_cast<double>(layer->weights), 15),
                         number_text(static_cast<double>(layer->calibration_tokens), 15),
                         fmt::format("{:.2f}", layer->seconds)});
  return rows;
}

}  // namespace

std::string layers_part(const RunSection& run) {
  if (run.layers.empty()) return paragraph("No layer is quantized yet.", "note");
  const std::vector<Operator> operators = operators_of(run);
  return heading(3, "Layers") +
         paragraph(
             "The relative error of a layer is the share of its output's energy over the calibration text that "
             "quantization lost: tr(E H E') over tr(W H W').",
             "note") +
         error_map(operators) + "<div class=\"pair\">\n" + bits_picture(operators) + error_picture(operators) +
         "</div>\n" + folded(worst_layers(run));
}

std::string problems_part(const RunSection& run) {
  std::string out = heading(3, "What went wrong, and what was done about it");
  HtmlTable failed{"Not quantized", {{"task, layer or tensor", false}, {"cause", false}}, {}};
  for (const auto& [name, error] : run.failures) failed.rows.push_back({name, error});
  HtmlTable damaged{"Damaged tensors: calibration took 0 for the values that cannot be used",
                    {{"tensor", false}, {"values"}, {"cause", false}},
                    {}};
  for (const DamagedTensor& tensor : run.damaged)
    damaged.rows.push_back({tensor.name, std::to_string(tensor.n_values), tensor.error});
  HtmlTable starved{"Starved experts: quantized with the pooled Hessian of their layer's experts",
                    {{"layer", false}, {"own tokens"}, {"pooled tokens"}, {"error"}},
                    {}};
  HtmlTable struck{
      "Numeric fallbacks: calibration rows left out (not finite or too large), more damping than asked for, inputs "
      "that were always zero",
      {{"layer", false}, {"tokens left out"}, {"of"}, {"damping"}, {"steps"}, {"dead inputs"}, {"error"}},
      {}};
  double least_damping = 0, most_damping = 0;
  for (const LayerRow& layer : run.layers) {
    if (layer.damping > 0) {
      least_damping = least_damping == 0 ? layer.damping : std::min(least_damping, layer.damping);
      most_damping = std::max(most_damping, layer.damping);
    }
    if (layer.pooled_tokens > 0)
      starved.rows.push_back({layer.name, std::to_string(layer.calibration_tokens), std::to_string(layer.pooled_tokens),
                              number_text(layer.relative_error)});
    if (layer.left_out_tokens > 0 || layer.damping_steps > 0 || layer.dead_inputs > 0)
      struck.rows.push_back({layer.name, std::to_string(layer.left_out_tokens),
                             std::to_string(layer.left_out_tokens + layer.calibration_tokens),
                             number_text(layer.damping), std::to_string(layer.damping_steps),
                             std::to_string(layer.dead_inputs), number_text(layer.relative_error)});
  }
  HtmlTable mishaps{"Overcome on the way", {{"what", false}, {"cause", false}}, {}};
  for (const Mishap& mishap : run.history.mishaps) mishaps.rows.push_back({mishap.what, mishap.error});
  if (failed.rows.empty()) out += paragraph("No layer failed.");
  bool any = false;
  for (const HtmlTable* part : {&failed, &damaged, &starved, &struck, &mishaps}) {
    if (part->rows.empty()) continue;
    any = any || part != &failed;
    out += part == &failed
               ? paragraph(fmt::format("{} not quantized:", part->rows.size()), "bad") + table(*part)
               : folded({fmt::format("{} ({})", part->caption, part->rows.size()), part->columns, part->rows});
  }
  if (!any)
    out += paragraph("No damaged tensors, starved experts, dead inputs, raised damping, failed tries or lost files.");
  if (most_damping > 0)
    out += paragraph(least_damping == most_damping
                         ? fmt::format("Damping: {} of the mean diagonal in every layer.", number_text(most_damping))
                         : fmt::format("Damping: {} to {} of the mean diagonal.", number_text(least_damping),
                                       number_text(most_damping)));
  return out;
}

}  // namespace voronoi::validation
