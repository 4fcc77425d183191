#include "planning/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "calib/collector.h"
#include "calib/footprint.h"
#include "calib/row_groups.h"
#include "core/log.h"
#include "core/types.h"
#include "model/each_linear.h"
#include "model/sentencepiece_tokenizer.h"
#include "planning/allocation.h"
#include "planning/linear_summary.h"
#include "planning/run_work.h"
#include "planning/window_schedule.h"
#include "quant/memory.h"
#include "tune/footprint.h"

namespace voronoi::planning {
namespace {

/// Tokens of WikiText-2's test split under a vocabulary of 32,000, about: the evaluation that papers quote.
constexpr double kEvaluationTokens = 340e3;
/// Memory a byte of text: while it is tokenized, and after; and of the part that sentencepiece is at, where it can take
/// a text in parts (BPE models without a map of characters; others take 134 a byte).
constexpr std::int64_t kSentencepieceBytes = 7, kBpeBytes = 4, kTextBytes = 2, kSentencepieceWork = 134;
/// A longer window must save this share of the time to be suggested.
constexpr double kWorthAWindow = 0.05;
// Of the GPU whose rates are assumed.
constexpr std::int64_t kAssumedGpuMemory = std::int64_t{80} << 30;
// From host memory through pinned staging, which a thread fills.
constexpr double kUploadBytes = 8e9;
// SHA-256 by the instructions of a core that has them.
constexpr double kSumBytes = 1.5e9;
// Looks at each codebook of additive codes when a vector is coded anew.
constexpr std::int64_t kRecodingPasses = 5;

std::string bytes_text(std::int64_t bytes) { return core::format_bytes(static_cast<double>(bytes)); }

using OperatorsBySetting = std::map<const quant::QuantParameters*, std::vector<quant::OperatorShape>>;
OperatorsBySetting operators_of(const model::SiteSpec& site, const quant::RunParameters& parameters) {
  OperatorsBySetting operators;
  for (const model::LinearSpec& linear : site.linears)
    operators[parameters.of(linear.name)].push_back({linear.name, linear.out_features});
  return operators;
}

class Planner {
 public:
  explicit Planner(const PlanRequest& request)
      : request_(request),
        config_(request.config),
        parameters_(run::run_parameters(request.options)),
        rates_(request.rates) {}

  Plan make() {
    count_bits();
    plan_.windows = simulate(run::hessian_window(request_.options, config_.n_layers));
    suggest_window();
    widths_ = task_widths(request_, parameters_, plan_.windows.blocks);
    count_stages();
    count_memory();
    return std::move(plan_);
  }

 private:
  PlannedLinear planned_linear(const std::string& role, const model::SiteSpec& site, const model::LinearSpec& linear,
                               const quant::QuantParameters* own, const std::string& setting) const {
    PlannedLinear planned{role,           site.name, linear.name, linear.out_features, linear.in_features, 0,
                          own != nullptr, setting,   {}};
    if (own != nullptr)
      planned.stored = run::tune_phases(request_.options).empty()
                           ? quant::planned_bits(*own, linear.out_features, linear.in_features)
                           : quant::planned_tuned_bits(*own, linear.out_features, linear.in_features);
    else
      planned.stored.indices = 16 * planned.weights();
    return planned;
  }

  void count_bits() {
    std::int64_t all_elements = 0;
    for (const model::TensorSpec& tensor : model::expected_tensors(config_))
      all_elements += core::element_count(tensor.shape).value_or(0);
    std::map<std::string, std::size_t> known;
    std::vector<std::pair<double, std::int64_t>> nominal;
    model::for_each_linear(config_, [&](const model::SiteSpec& site, const model::LinearSpec& linear) {
      const std::string role = role_of(linear.name);
      const quant::QuantParameters* own = parameters_.of(linear.name);
      const std::string setting = own != nullptr ? method_.setting(*own) : "not quantized";
      const auto [entry, fresh] = known.try_emplace(
          fmt::format("{} {} {} {}", role, linear.out_features, linear.in_features, setting), plan_.linears.size());
      if (fresh) plan_.linears.push_back(planned_linear(role, site, linear, own, setting));
      ++plan_.linears[entry->second].count;
      if (own != nullptr)
        nominal.emplace_back(quant::planned_nominal_bits(*own), linear.out_features * linear.in_features);
    });
    for (const PlannedLinear& linear : plan_.linears) {
      (linear.quantized ? plan_.quantized_weights : plan_.kept_weights) += linear.count * linear.weights();
      if (linear.quantized) plan_.quantized_bits += linear.count * linear.stored.total();
    }
    plan_.nominal_bits = weighted_mean(nominal);
    plan_.rest_bytes = 2 * (all_elements - plan_.quantized_weights);
    plan_.original_bytes = 2 * all_elements;
    for (std::int64_t block = 0; block < config_.n_layers; ++block) {
      std::int64_t bytes = 0;
      for (const SiteTask& task : tasks_of(config_, parameters_, block, block + 1))
        bytes += calib::hessian_bytes(task.site, hessian_kind());
      all_hessian_bytes_ += bytes;
      plan_.hessian_bytes = std::max(plan_.hessian_bytes, bytes);
    }
  }

  PlannedWindows simulate(std::int64_t blocks) const {
    blocks = std::clamp<std::int64_t>(blocks, 1, config_.n_layers);
    PlannedWindows windows;
    windows.blocks = blocks;
    windows.count = core::ceil_div(config_.n_layers, blocks);
    const auto run = [&](std::int64_t n_blocks) {
      const std::vector<sched::Task> tasks =
          window_tasks(tasks_of(config_, parameters_, 0, n_blocks), parameters_, hessian_kind(), rates_,
                       request_.n_ranks, request_.options.team_size);
      sched::Simulation simulation(tasks, request_.n_ranks);
      simulation.run();
      windows.tasks = std::ssize(tasks);
      windows.widest = 1;
      for (const sched::Task& task : tasks) windows.widest = std::max<std::int64_t>(windows.widest, task.width);
      return sched::summarize(simulation, tasks, request_.n_ranks);
    };
    const std::int64_t left = config_.n_layers % blocks;
    if (left > 0) windows.seconds += run(left).seconds;
    windows.window = run(blocks);
    windows.seconds += windows.window.seconds * static_cast<double>(config_.n_layers / blocks);
    return windows;
  }

  void suggest_window() {
    if (request_.options.calibration == "sequential") return;
    double best = plan_.windows.seconds;
    for (std::int64_t blocks = 2 * plan_.windows.blocks; blocks <= config_.n_layers; blocks *= 2) {
      const double seconds = simulate(blocks).seconds;
      if (seconds > (1 - kWorthAWindow) * best) continue;
      best = seconds;
      plan_.suggested_window = blocks;
    }
  }

  calib::HessianKind hessian_kind() const { return run::hessian_kind(request_.options); }
  quant::StoredMoments moments_of(const model::SiteSpec& site) const {
    const calib::HessianKind kind = hessian_kind();
    return {calib::hessian_bytes(site, kind), kind.guided, kind.held_out_share > 0, kind.cross, request_.cuda,
            kind.guided ? kind.row_groups : 1};
  }

  double forward_rate(const std::string& dtype) const {
    return planning::forward_rate(rates_, request_.device(), dtype);
  }

  void add_stage(const char* name, double flops, double bytes, double seconds) {
    plan_.stages.push_back({name, flops, bytes, seconds});
    plan_.total_seconds += seconds;
  }

  void count_stages() {
    const auto ranks = static_cast<double>(request_.n_ranks);
    const std::int64_t sequences = request_.options.calibration_sequences,
                       context = request_.options.calibration_context;
    const RunWork work = run_work(request_, parameters_, widths_);
    plan_.work["calibrate"] = work.collecting;
    plan_.work["calibrate"] += work.weighing;
    plan_.work["quantize"] = work.quantizing;
    const quant::OperatorWork& operators = work.operators;
    // The rank with the most chunks sets the pace; every rank loads every block.
    const std::int64_t chunks = calib::calibration_chunks(sequences, context);
    const double pace =
        static_cast<double>(core::ceil_div(chunks, std::int64_t{request_.n_ranks})) / static_cast<double>(chunks);
    const auto hessians = static_cast<double>(all_hessian_bytes_);
    using core::Counted;
    if (const double flops = work.weighing[Counted::gemm_flops]; flops > 0) {
      const double read = work.weighing[Counted::model_bytes];
      add_stage("calibrate: what tokens count", flops, read,
                flops * pace / sweep_rate(rates_, request_.device(), request_.options.dtype) +
                    read / ranks / rates_.disk_bytes);
    }
    if (const double flops = work.collecting[Counted::gemm_flops]; flops > 0) {
      const double read = work.collecting[Counted::model_bytes] + work.collecting[Counted::layer_bytes_read];
      add_stage("calibrate: forward", flops, read,
                flops * pace / forward_rate(request_.options.dtype) + read / ranks / rates_.disk_bytes);
      // Slices of partial sums go from every rank to every other, the means to their owners and to disk.
      const double reduced =
          hessians * calib::sent_share(sequences, context, request_.n_ranks, hessian_kind()) / rates_.link_bytes;
      add_stage("calibrate: Hessians", work.collecting[Counted::gram_flops],
                work.collecting[Counted::hessian_bytes_written],
                work.gram * pace / rates_.gram + reduced + hessians / ranks / rates_.disk_bytes);
    }

    if (request_.options.allocate) count_allocation();

    // The wall time of the tasks, shared out by the work of their parts.
    const double loading = work.quantizing[Counted::model_bytes] + work.quantizing[Counted::hessian_bytes_read];
    const double alone_factor = seconds(work.factor, rates_), alone_kmeans = seconds(operators.kmeans, rates_),
                 alone_loop = seconds(operators.column_loop, rates_), alone_refine = seconds(operators.refine, rates_);
    const double alone = alone_factor + alone_kmeans + alone_loop + alone_refine;
    const double wall = alone > 0 ? plan_.windows.seconds / alone : 0;
    add_stage("quantize: factor Hessians", work.factor.flops(), loading, alone_factor * wall);
    if (operators.kmeans.flops() > 0) add_stage("quantize: k-means", operators.kmeans.flops(), 0, alone_kmeans * wall);
    add_stage("quantize: column loop", operators.column_loop.flops(), 0, alone_loop * wall);
    if (operators.refine.flops() > 0)
      add_stage("quantize: refits, sweeps", operators.refine.flops(), 0, alone_refine * wall);
    const double output = static_cast<double>(plan_.quantized_bits) / 8;
    add_stage("write layers", 0, output, output / ranks / rates_.disk_bytes);
    count_tuning();
    count_export(output);
    quant::Work decoding;
    decoding.bytes = output + 4 * static_cast<double>(plan_.quantized_weights);
    double evaluation = 0;
    for (std::int64_t block = 0; block < config_.n_layers; ++block)
      evaluation += calib::block_work(config_, block, 1, context).gemm;
    evaluation *= kEvaluationTokens / static_cast<double>(context);
    evaluation += 2 * kEvaluationTokens * static_cast<double>(config_.hidden_size * config_.vocab_size);
    evaluation *= 2;  // the unquantized model beside it
    add_stage("evaluate, original too", evaluation, output,
              evaluation / ranks / forward_rate(request_.options.dtype) + seconds(decoding, rates_) +
                  output / rates_.disk_bytes);
  }

  /// Layers are looked at, then a file of the checkpoint is written by one rank, and read again for its sum; layers are
  /// summed as they are read.
  void count_export(double layers) {
    const bool asked = run::asks_for_stage(request_.options, "export");
    if (!asked && !(request_.options.stages.empty() && run::export_problems(request_.options).empty())) return;
    const double written = layers + static_cast<double>(plan_.rest_bytes),
                 files = std::ceil(written / static_cast<double>(exporting::kMaxFileBytes)),
                 summed = 2 * layers + written, ranks = request_.n_ranks;
    add_stage("export", 0, 2 * layers + static_cast<double>(plan_.rest_bytes) + written,
              written / rates_.disk_bytes / std::min(ranks, files) + summed / kSumBytes / std::min(ranks, files));
  }

  quant::QuantParameters quick_setting() const { return method_.quick_setting(parameters_.of_run()); }

  /// A look at some rows of each linear, with a factor of its own.
  void count_allocation() {
    const quant::QuantParameters quick = quick_setting();
    quant::Work looks;
    model::for_each_linear(config_, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      const std::int64_t rows = std::min(kLookRows, linear.out_features);
      if (quant::deciding_rule(parameters_.rules(), linear.name) != nullptr ||
          !quant::check_shape(quick, rows, linear.in_features).empty())
        return;
      // Its rows lie in all groups.
      looks += quant::hessian_work(linear.in_features) *
               static_cast<double>(calib::n_row_groups(linear.out_features, hessian_kind().row_groups));
      looks += quant::operator_work(quick, rows, linear.in_features).total();
      looks += quant::product_work(rows, linear.in_features, 2);
    });
    add_stage("allocate", looks.flops(), static_cast<double>(all_hessian_bytes_ + 2 * plan_.quantized_weights),
              seconds(looks, rates_) / static_cast<double>(request_.n_ranks));
  }

  /// As the stage will divide it, where the texts are long enough.
  tune::Sequences tuned_sequences() const {
    const run::Settings& options = request_.options;
    const std::int64_t tokens =
        options.tune_tokens > 0 ? options.tune_tokens : options.calibration_sequences * options.calibration_context;
    return tune::divide(std::max<std::int64_t>(2, core::ceil_div(tokens, tuned_context())), options.tune_passes,
                        options.tune_held_out);
  }
  std::int64_t tuned_context() const { return std::min(run::kTuningContext, request_.options.calibration_context); }

  void count_tuning() {
    const tune::Sequences sequences = tuned_sequences();
    const auto of_step = static_cast<double>(sequences.batch);
    // Ranks beyond the sequences of a step have nothing to do.
    const double ranks = std::min(of_step, static_cast<double>(request_.n_ranks));
    const auto steps = static_cast<double>(sequences.stripe_length() * request_.options.tune_passes);
    const auto looked_at = static_cast<double>(sequences.held_out.size()) * (run::kTuningLooks + 1);
    const auto add = [&](const char* name, const tune::TuneWork& work, double codes_from_host) {
      const double flops = work.teacher + work.step * steps * of_step + work.held_out * looked_at;
      const double rate = forward_rate(request_.options.tune_dtype);
      // Codes come beside the computing, to and fro through the blocks in a step: the slower of both sets the pace.
      const double a_step = std::max(work.step / rate, 2 * codes_from_host / kUploadBytes),
                   a_look = std::max(work.held_out / rate, codes_from_host / kUploadBytes);
      add_stage(name, flops, 0,
                a_step * steps * of_step / ranks +
                    (work.teacher / rate + a_look * looked_at) / static_cast<double>(request_.n_ranks));
    };
    for (const std::string& phase : run::tune_phases(request_.options)) {
      if (phase != "block") {
        add(phase == "codes"     ? "tune: codes"
            : phase == "weights" ? "tune: weights"
                                 : "tune: end to end",
            tune::end_to_end_work(config_, tuned_context(), sequences, residence()),
            residence().codes_on_host ? static_cast<double>(tuned_sizes().code_bytes) : 0);
        if (phase == "codes") count_recoding(steps, ranks);
        if (phase == "weights") count_training(steps, ranks);
        continue;
      }
      tune::TuneWork blocks;
      for (std::int64_t layer = 0; layer < config_.n_layers; ++layer) {
        const tune::TuneWork one = tune::block_work(config_, layer, tuned_context(), sequences);
        blocks.teacher += one.teacher;
        blocks.step += one.step;
        blocks.held_out += one.held_out;
      }
      add("tune: blocks", blocks, 0);
    }
  }

  /// On the host, the blocks divided over the ranks that have something to do.
  void count_recoding(double steps, double ranks) {
    quant::Work work;
    model::for_each_linear(config_, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      const quant::QuantParameters* own = parameters_.of(linear.name);
      if (own == nullptr) return;
      const auto layout = method_.public_layout(*own);
      const auto additive = method_.additive_layout(*own);
      std::int64_t centroids = layout ? layout->centroids + layout->residual_centroids : 0;
      if (additive) centroids = kRecodingPasses * additive->codebooks << additive->code_bits;
      const tune::CodesWork once = tune::codes_work(linear.out_features * linear.in_features, centroids);
      work.nearest += once.operations * steps;
      work.bytes += once.bytes * steps;
    });
    add_stage("tune: codes, searches", work.nearest, 0, seconds(work, rates_) / ranks);
  }

  /// On the host.
  void count_training(double steps, double ranks) {
    quant::Work work;
    work.bytes = steps * tune::weights_bytes(plan_.quantized_weights, tuned_sequences());
    add_stage("tune: weights, steps", 0, 0, seconds(work, rates_) / ranks);
  }

  tune::TunedSizes tuned_sizes() const {
    tune::TunedSizes sizes;
    std::int64_t number_bits = 0;
    for (const PlannedLinear& linear : plan_.linears)
      number_bits += linear.count * (linear.stored.codebooks + linear.stored.scales);
    // What is not quantized lies beside the codes, in fp32.
    sizes.code_bytes = (plan_.quantized_bits - number_bits) / 8 + 4 * plan_.kept_weights;
    sizes.dtype = request_.options.tune_dtype == "bf16" ? core::DType::bf16 : core::DType::f32;
    sizes.n_parameters = number_bits / 16 + (2 * config_.n_layers + 1) * config_.hidden_size;
    return sizes;
  }

  /// As the stage will choose it, on a GPU that holds nothing else.
  tune::Residence residence() const {
    const std::int64_t gpu = request_.gpu_memory > 0 ? request_.gpu_memory : kAssumedGpuMemory;
    return tune::choose_residence(config_, tuned_sizes(), tuned_context(), tuned_sequences(), request_.n_ranks,
                                  request_.cuda ? gpu : 0);
  }

  void count_tuning_memory(std::int64_t base) {
    const tune::TuneMemory memory =
        tune::tune_memory(config_, tuned_sizes(), tuned_context(), tuned_sequences(), request_.n_ranks, residence());
    for (const std::string& phase : run::tune_phases(request_.options)) {
      const tune::PhaseMemory& bytes = phase == "block"     ? memory.block
                                       : phase == "codes"   ? memory.codes
                                       : phase == "weights" ? memory.weights
                                                            : memory.end_to_end;
      const std::string where = "tuning (" + phase + ")";
      plan_.tuning.consider(base + bytes.host + (request_.cuda ? 0 : bytes.device), where);
      if (!request_.cuda) continue;
      plan_.device.consider(bytes.device, where);
      if (phase != "block") plan_.device.consider(memory.teaching, where);
    }
  }

  void count_memory() {
    const calib::CalibrationMemory calibration = calib::calibration_memory(
        config_, request_.options.calibration_sequences, request_.options.calibration_context, request_.n_ranks,
        hessian_kind(), request_.options.dtype == "f32" ? core::DType::f32 : config_.stored_dtype,
        stored_bytes_a_weight(request_) < 4 ? 2 : 4);
    const std::int64_t program = request_.program_bytes + request_.tokenizer_bytes;
    const std::int64_t part =
        request_.sentencepiece
            ? kSentencepieceWork * std::min(static_cast<std::int64_t>(model::kSentencepiecePart), request_.text_bytes)
            : 0;
    plan_.tokenizing = {
        program + part + request_.text_bytes * (request_.sentencepiece ? kSentencepieceBytes : kBpeBytes),
        "tokenizing the calibration texts"};
    const std::int64_t base = program + kTextBytes * request_.text_bytes +
                              4 * request_.options.calibration_sequences * request_.options.calibration_context;
    const bool collects = request_.options.hessians_from.empty();
    const std::int64_t lasting = collects ? calibration.lasting : 0;
    if (collects) {
      const bool cuda = request_.cuda;
      plan_.calibrating = {base + (cuda ? calibration.every_on_host : calibration.every.bytes),
                           calibration.every.where};
      plan_.collecting = plan_.calibrating;
      plan_.calibrating.consider(base + (cuda ? calibration.weighing_on_host : calibration.weighing.bytes),
                                 calibration.weighing.where);
      plan_.gathering = {base + (cuda ? calibration.owner_on_host : calibration.owner.bytes), calibration.owner.where};
      if (cuda) plan_.device.consider(calibration.on_device.bytes, calibration.on_device.where);
    }
    // Sites of one shape once, at the least width that tasks of that kind have in a whole window.
    std::set<std::pair<const quant::QuantParameters*, std::vector<std::int64_t>>> seen;
    for (const SiteTask& site_task : tasks_of(config_, parameters_, 0, config_.n_layers)) {
      const model::SiteSpec& site = site_task.site;
      const quant::StoredMoments moments = moments_of(site);
      const auto known = widths_.find(site_task.kind());
      for (const auto& [own, operators] : operators_of(site, parameters_)) {
        std::vector<std::int64_t> shape{site.in_features};
        for (const quant::OperatorShape& one : operators) shape.push_back(one.out_features);
        if (!seen.insert({own, shape}).second) continue;
        const int team = known == widths_.end() ? 1 : known->second;
        const core::MemoryPeak task =
            quant::site_memory(*own, site.in_features, operators, moments, request_.threads, team);
        const std::string where = task.where + " (site " + site.name + ")";
        if (request_.cuda) {
          plan_.device.consider(lasting + task.bytes, where);
          plan_.quantizing.consider(base + quant::host_staging(*own, site.in_features, operators, moments), where);
        } else {
          plan_.quantizing.consider(base + lasting + task.bytes, where);
        }
      }
    }
    if (request_.options.allocate) count_allocation_memory(base, lasting);
    count_tuning_memory(base);
    plan_.mapped_bytes = request_.file_bytes > 0 ? request_.file_bytes : plan_.original_bytes;
    if (!collects) {  // nobody looks at the embedding
      const double share =
          2 * static_cast<double>(config_.vocab_size * config_.hidden_size) / static_cast<double>(plan_.original_bytes);
      plan_.mapped_bytes -= static_cast<std::int64_t>(share * static_cast<double>(plan_.mapped_bytes));
    }
    refuse("a GPU", plan_.device, request_.gpu_memory);
    const int ranks = std::min(request_.ranks_per_node, request_.n_ranks);
    refuse(ranks == 1 ? "a node of one rank" : fmt::format("a node of {} ranks", ranks), plan_.node(ranks),
           request_.node_memory);
  }

  /// A look quantizes as a task does, a linear at a time.
  void count_allocation_memory(std::int64_t base, std::int64_t lasting) {
    const quant::QuantParameters quick = quick_setting();
    std::set<std::vector<std::int64_t>> seen;
    model::for_each_linear(config_, [&](const model::SiteSpec& site, const model::LinearSpec& linear) {
      const quant::OperatorShape rows{linear.name, std::min(kLookRows, linear.out_features)};
      if (!seen.insert({linear.out_features, linear.in_features}).second ||
          !quant::check_shape(quick, rows.out_features, linear.in_features).empty())
        return;
      const quant::StoredMoments moments = moments_of(site);
      const core::MemoryPeak look =
          quant::site_memory(quick, linear.in_features, {&rows, 1}, moments, request_.threads, 1);
      const std::int64_t weight = 4 * linear.out_features * linear.in_features;
      const std::string where = "dividing bits: " + look.where;
      if (request_.cuda) {
        plan_.device.consider(lasting + look.bytes, where);
        plan_.quantizing.consider(base + weight + quant::host_staging(quick, linear.in_features, {&rows, 1}, moments),
                                  where);
      } else {
        plan_.quantizing.consider(base + lasting + weight + look.bytes, where);
      }
    });
  }

  void refuse(const std::string& what, const core::MemoryPeak& peak, std::int64_t memory) {
    if (memory <= 0 || peak.bytes <= memory) return;
    plan_.refusals.push_back(fmt::format("does not fit: {} has {} and would have to hold {}: {}", what,
                                         bytes_text(memory), bytes_text(peak.bytes), peak.where));
  }

  const PlanRequest& request_;
  const model::ModelConfig& config_;
  const quant::RunParameters parameters_;
  const quant::Method& method_ = quant::find_method(parameters_.method());
  const Rates& rates_;
  std::int64_t all_hessian_bytes_ = 0;
  std::map<std::string, int> widths_;  ///< of tasks by their kind, the least in a whole window
  Plan plan_;
};

}  // namespace

core::MemoryPeak Plan::node(int ranks) const {
  core::MemoryPeak peak;
  peak.consider(tokenizing.bytes * ranks, tokenizing.where);
  peak.consider(calibrating.bytes * ranks, calibrating.where);
  peak.consider(gathering.bytes + collecting.bytes * (ranks - 1), gathering.where);
  peak.consider(quantizing.bytes * ranks, quantizing.where);
  peak.consider(tuning.bytes * ranks, tuning.where);
  return peak;
}

Plan make_plan(const PlanRequest& request) { return Planner(request).make(); }

}  // namespace voronoi::planning
