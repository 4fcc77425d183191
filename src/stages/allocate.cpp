// The stage that divides --bits among the linears, by what the loss feels of their errors: quantizes some rows of each
// under a quick setting, measures in the guided Hessian what that adds to the loss, and predicts from it what every
// other setting would add. The choice becomes rules of the run, in its journal and in RUN/allocation.cfg.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "calib/row_groups.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/thread_pool.h"
#include "model/each_linear.h"
#include "planning/allocation.h"
#include "planning/bits.h"
#include "quant/method.h"
#include "run/layer_store.h"
#include "stages/site_task.h"
#include "stages/stage.h"

namespace voronoi::stages {
namespace {

constexpr const char* kAllocate = "allocate";
/// The rows that are looked at lie in pieces, spread over the linear.
constexpr std::int64_t kPieceRows = 16;
/// Settings of less than this share of the wanted bits are left out: the prediction is for small errors.
constexpr double kLeastShare = 0.6;

/// "...experts.5.w1" as "...experts.*.w1": the experts of a layer at the same place take one setting.
std::string pattern_of(const model::SiteSpec& site, std::string linear) {
  if (site.expert < 0) return linear;
  const std::string number = fmt::format(".{}.", site.expert);
  const std::size_t at = linear.rfind(number);
  VORONOI_REQUIRE(at != std::string::npos, linear + " does not name its expert");
  return linear.replace(at, number.size(), ".*.");
}

constexpr std::int64_t kPieces = planning::kLookRows / kPieceRows;

/// Of a linear of more rows than are looked at.
std::int64_t piece_begin(std::int64_t out_features, std::int64_t piece) {
  return (out_features - kPieceRows) * piece / (kPieces - 1);
}

std::vector<float> sampled_rows(std::vector<float> weight, std::int64_t out_features, std::int64_t in_features) {
  if (out_features <= planning::kLookRows) return weight;
  std::vector<float> rows;
  for (std::int64_t piece = 0; piece < kPieces; ++piece) {
    const auto begin = weight.begin() + piece_begin(out_features, piece) * in_features;
    rows.insert(rows.end(), begin, begin + kPieceRows * in_features);
  }
  return rows;
}

/// Rows that stand for a group of rows.
struct SampledGroup {
  const calib::GuidedHessian* hessian = nullptr;
  std::int64_t rows = 0;                ///< of the linear
  std::int64_t first = 0, sampled = 0;  ///< among those that are looked at
};

/// Of all groups of which rows are looked at, in order.
std::vector<SampledGroup> sampled_groups(std::span<const calib::GuidedHessian> guided, std::int64_t out_features,
                                         std::int64_t row_groups) {
  const auto row_at = [&](std::int64_t sample) {
    if (out_features <= planning::kLookRows) return sample;
    return piece_begin(out_features, sample / kPieceRows) + sample % kPieceRows;
  };
  std::vector<SampledGroup> groups;
  std::int64_t sample = 0;
  for (const calib::GuidedHessian& hessian : guided) {
    const std::int64_t begin = calib::row_group_begin(out_features, row_groups, hessian.group),
                       end = calib::row_group_begin(out_features, row_groups, hessian.group + 1), first = sample;
    while (sample < std::min(out_features, planning::kLookRows) && row_at(sample) < end) ++sample;
    if (sample > first) groups.push_back({&hessian, end - begin, first, sample - first});
  }
  return groups;
}

class Allocation {
 public:
  explicit Allocation(Work& work)
      : work_(work),
        base_(work.run.parameters.of_run()),
        method_(quant::find_method(base_.method)),
        quick_(method_.quick_setting(base_)) {}

  void run() {
    const Clock::time_point start = Clock::now();
    if (!look()) {
      work_.stopped = true;
      return;
    }
    std::string record;
    comm::on_root(work_.world, [&] { record = run::to_json(choose()).dump(); });
    record = work_.world.broadcast(record, 0);
    if (work_.world.rank() != 0)
      work_.run.take_into_account(
          run::record_from_json(core::parse_json(record, "what was allocated"), work_.run.paths.journal().string(), 0));
    comm::together(work_.world, [&] { work_.run.take_parameters(work_.settings); });
    work_.journal_time(kAllocate, start);
  }

 private:
  void show(std::int64_t block) const {
    if (work_.world.rank() != 0) return;
    const std::string doing = fmt::format("block {}/{}", block + 1, work_.config().n_layers);
    core::show_progress("dividing bits: errors of " + doing);
    work_.tell(kAllocate, doing);
  }

  /// Sites are dealt to the ranks in turn. Whether it came to its end: false once a stop was asked for, on every rank.
  bool look() {
    core::Json mine = core::Json::object();
    bool stopped = false;
    comm::together(work_.world, [&] {
      const core::StopScope leaves(work_.context.pool(), [] { return core::stop_requested(); });
      std::int64_t n = 0;
      try {
        for (std::int64_t block = 0; block < work_.config().n_layers; ++block) {
          show(block);
          for (const planning::SiteTask& task : work_.all_tasks(block)) {
            if (n++ % work_.world.size() != work_.world.rank()) continue;
            if (core::stop_requested()) throw core::StopRequested();
            look_at(task, mine);
          }
        }
      } catch (const core::StopRequested&) {
        stopped = true;
      }
    });
    if (work_.world.all_max(stopped ? 1 : 0) != 0) return false;
    const std::string text = mine.dump();
    for (const std::vector<std::byte>& theirs : work_.world.all_gather(std::as_bytes(std::span(text)))) {
      const std::string_view words(reinterpret_cast<const char*>(theirs.data()), theirs.size());
      const core::Json looks = core::parse_json(words, "what a rank looked at");
      for (const auto& look : looks.items()) looks_[look.key()] = look.value().get<double>();
    }
    return true;
  }

  /// A linear whose numbers, or whose Hessian's, cannot be used is none to divide bits among: quantize will tell.
  void look_at(const planning::SiteTask& task, core::Json& looks) {
    if (std::none_of(task.site.linears.begin(), task.site.linears.end(),
                     [&](const model::LinearSpec& linear) { return is_free(linear.name); }))
      return;
    const calib::SiteHessian stored =
        run::read_hessian(work_.hessians, task.block, task.site.name, task.site.in_features, work_.inputs.calibration);
    if (!stored.fault.empty()) return;
    // Of experts the loss of a token is that of those routed to them.
    const double share = static_cast<double>(stored.n_tokens + stored.held_out_tokens) /
                         static_cast<double>(work_.inputs.windows.count * work_.inputs.windows.context);
    for (const model::LinearSpec& linear : task.site.linears) try {
        if (is_free(linear.name)) looks[linear.name] = share * loss_rise(task, stored, linear);
      } catch (const core::NumericError& error) {
        core::log_debug("{}: no look: {}", linear.name, error.what());
      } catch (const model::BadValues& error) {
        core::log_debug("{}: no look: {}", linear.name, error.what());
      }
  }

  /// What the quick setting adds to the loss by a row that enters the linear, tr(D H D^T) / 2 with the guided H (see
  /// calib::TokenWeights), of tokens that were held out where there are any; of groups of its rows the sum, each in its
  /// own H. 0 where no row counts.
  double loss_rise(const planning::SiteTask& task, const calib::SiteHessian& stored, const model::LinearSpec& linear) {
    const std::vector<SampledGroup> groups =
        sampled_groups(stored.guided_for(linear.name), linear.out_features, work_.inputs.row_groups);
    if (std::all_of(groups.begin(), groups.end(), [](const SampledGroup& g) { return g.hessian->lower.empty(); }))
      return 0;
    const std::int64_t n = linear.in_features;
    const std::vector<float> rows =
        sampled_rows(read_weight(work_.inputs, linear.name, linear.out_features, n), linear.out_features, n);
    const std::int64_t n_rows = std::ssize(rows) / n;
    if (!quant::check_shape(quick_, n_rows, n).empty()) return 0;  // then no setting fits, which is told later
    std::vector<float> decoded(rows.size());
    {
      core::SoloTeam alone;
      quant::SiteInput input;
      input.name = task.name();
      input.in_features = n;
      // Groups of rows are told by the rows that are looked at.
      input.linears.push_back({linear.name, groups.size() > 1 ? n_rows : linear.out_features});
      // Without the tokens that are held out: choosing the metric by them takes as long as the look.
      input.moments.plain = stored.lower;
      input.moments.guided = groups.front().hessian->lower;
      input.moments.effective_tokens = groups.front().hessian->effective_tokens;
      for (const SampledGroup& group : std::span(groups).subspan(1))
        input.moments.later_groups.push_back(
            {group.first, group.hessian->lower, group.hessian->effective_tokens, {}, {}, {}});
      input.moments.tokens = stored.n_tokens;
      input.read_weight = [this, n](const quant::SiteLinear& wanted) {
        return read_weight(work_.inputs, wanted.name, wanted.out_features, n);
      };
      const quant::PreparedSite site = quant::prepare_site(work_.context, alone, std::move(input), quick_);
      quant::QuantInput weight;
      weight.name = linear.name;
      weight.out_features = n_rows;
      weight.in_features = n;
      weight.weight = rows;
      weight.hessian = &site.hessian;
      weight.later_groups = site.row_groups();
      weight.stored_dtype = work_.config().stored_dtype;
      weight.site = site.state.get();
      format::decode(quant::quantize(work_.context, alone, weight, quick_).encoding, decoded);
    }
    double rise = 0;
    for (const SampledGroup& group : groups) {
      const std::vector<float>& judge =
          group.hessian->held_out.empty() ? group.hessian->lower : group.hessian->held_out;
      if (judge.empty()) continue;
      const auto first = static_cast<std::size_t>(group.first * n), count = static_cast<std::size_t>(group.sampled * n);
      const double error = quant::hessian_energies(
                               work_.context, group.sampled, n, std::span(rows).subspan(first, count),
                               std::span(decoded).subspan(first, count), quant::both_triangles(work_.context, n, judge))
                               .error;
      rise += std::max(error, 0.0) * static_cast<double>(group.rows) / static_cast<double>(group.sampled) / 2;
    }
    return rise;
  }

  /// No rule of the options says what it gets.
  bool is_free(const std::string& linear) const {
    return quant::deciding_rule(work_.settings.rules, linear) == nullptr;
  }

  /// What a setting of the linear is predicted to add to the loss a token.
  double predicted(const std::string& linear, const quant::QuantParameters& setting) const {
    return looks_.at(linear) * method_.expected_error(setting) / method_.expected_error(quick_);
  }

  /// Once it is tuned, where it will be.
  std::int64_t stored_bits(const quant::QuantParameters& setting, const model::LinearSpec& linear) const {
    const auto planned = run::tune_phases(work_.settings).empty() ? quant::planned_bits : quant::planned_tuned_bits;
    return planned(setting, linear.out_features, linear.in_features).total();
  }

  /// Of a shape, each with the bits that it stores.
  using Settings = std::vector<std::pair<quant::QuantParameters, std::int64_t>>;
  Settings settings_of(const model::LinearSpec& linear) const {
    Settings settings;
    const quant::LayerCount layer{linear.out_features, linear.in_features, 1};
    const auto weights = static_cast<double>(linear.out_features * linear.in_features);
    for (quant::QuantParameters& setting : method_.settings(base_, {&layer, 1})) {
      const std::int64_t bits = stored_bits(setting, linear);
      if (static_cast<double>(bits) >= kLeastShare * *work_.settings.bits * weights)
        settings.emplace_back(std::move(setting), bits);
    }
    if (settings.empty())
      throw core::ConfigError(fmt::format("--allocate: no setting of {} fits {}, of {} x {}; give a --rule for it",
                                          base_.method, linear.name, linear.out_features, linear.in_features));
    return settings;
  }

  /// Rank 0.
  run::Allocated choose() {
    std::map<std::pair<std::int64_t, std::int64_t>, Settings> by_shape;
    std::map<std::string, std::size_t> places;
    std::vector<planning::Share> shares;
    std::vector<const Settings*> settings;
    run::Allocated record;
    model::for_each_linear(work_.config(), [&](const model::SiteSpec& site, const model::LinearSpec& linear) {
      if (!looks_.contains(linear.name)) return;
      Settings& own = by_shape[{linear.out_features, linear.in_features}];
      if (own.empty()) own = settings_of(linear);
      const std::string pattern = pattern_of(site, linear.name);
      const auto [entry, fresh] = places.try_emplace(pattern, shares.size());
      if (fresh) {
        shares.push_back({pattern, std::vector<planning::Candidate>(own.size())});
        settings.push_back(&own);
      }
      std::vector<planning::Candidate>& candidates = shares[entry->second].candidates;
      for (std::size_t i = 0; i < own.size(); ++i) {
        candidates[i].stored_bits += own[i].second;
        candidates[i].loss_rise += predicted(linear.name, own[i].first);
      }
      ++record.linears;
      record.weights += linear.out_features * linear.in_features;
      record.uniform_bits += stored_bits(base_, linear);
      record.uniform_loss_rise += predicted(linear.name, base_);
    });
    const double wanted = *work_.settings.bits;
    const auto budget = static_cast<std::int64_t>(wanted * static_cast<double>(record.weights));
    const auto chosen = planning::allocate(shares, budget);
    if (!chosen)
      throw core::ConfigError(
          fmt::format("--allocate: --bits {:g}: even the least settings of {} take more", wanted, base_.method));
    record.stored_bits = chosen->stored_bits;
    record.loss_rise = chosen->loss_rise;
    std::string tables;
    const bool fits =
        static_cast<double>(record.uniform_bits) <= (1 + quant::kBitsMargin) * static_cast<double>(budget);
    if (record.loss_rise < record.uniform_loss_rise || !fits)
      for (std::size_t s = 0; s < shares.size(); ++s) {
        const auto& [setting, bits] = (*settings[s])[chosen->choice[s]];
        quant::Rule rule{shares[s].name, true, {}, planning::chosen_values(setting), ""};
        record.rules.push_back(quant::rule_text(rule));
        tables +=
            table(rule, fmt::format("{:.4g} more loss a token", shares[s].candidates[chosen->choice[s]].loss_rise));
      }
    for (const quant::Rule& rule : work_.settings.rules) tables += table(rule, "given");
    work_.run.start->publish(work_.run.paths.allocation(), header(record) + tables);
    work_.run.append(record);
    core::log_info("{}; {}", summary(record), work_.run.paths.allocation().string());
    return record;
  }

  std::string summary(const run::Allocated& record) const {
    const auto bits = [&](std::int64_t stored) {
      return static_cast<double>(stored) / static_cast<double>(std::max<std::int64_t>(record.weights, 1));
    };
    return fmt::format(
        "--bits {:g} --allocate: {} linears; divided, {:.3f} true bits a weight are predicted to add {:.4g} to the "
        "loss "
        "a token, with one setting for all {:.3f} add {:.4g}{}",
        *work_.settings.bits, record.linears, bits(record.stored_bits), record.loss_rise, bits(record.uniform_bits),
        record.uniform_loss_rise, record.rules.empty() ? ": one setting for all it is" : "");
  }

  static std::string table(const quant::Rule& rule, const std::string& comment) {
    std::string text = fmt::format("\n[[rules]]  # {}\nmatch = {}\n", comment, rule.pattern);
    if (!rule.quantize) text += "quantize = false\n";
    for (const auto& [name, value] : rule.values) text += fmt::format("{} = {}\n", name, value);
    return text;
  }

  std::string header(const run::Allocated& record) const {
    std::string text = fmt::format(
        "# {}.\n# For other runs: voronoi quantize --config FILE --model MODEL --run RUN --calibration-text FILE\n"
        "hessian = {}\nmethod = {}\n",
        summary(record), work_.settings.hessian, base_.method);
    if (work_.settings.hessian_groups > 1) text += fmt::format("hessian-groups = {}\n", work_.settings.hessian_groups);
    for (const quant::Parameter* parameter : quant::parameters_of(base_))
      text += fmt::format("{} = {}\n", parameter->name, quant::parameter_text(parameter->value(base_)));
    return text;
  }

  Work& work_;
  quant::QuantParameters base_;
  const quant::Method& method_;
  quant::QuantParameters quick_;
  std::map<std::string, double> looks_;  ///< by linear: what the quick setting adds to the loss a token
};

}  // namespace

StageRun begin_allocate(Work& work) {
  if (!work.run.state.allocated) require_hessians(work);
  return [&work](const Window&) {
    if (work.run.state.allocated) {
      if (work.world.rank() == 0) core::log_debug("{}: is there already", work.run.paths.allocation().string());
    } else {
      Allocation(work).run();
    }
  };
}

}  // namespace voronoi::stages
