#include "planning/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/file.h"
#include "planning/bits.h"
#include "planning/folding.h"
#include "planning/model_sizes.h"
#include "planning/window_schedule.h"
#include "quant/baselines/afpq.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/uniform_method.h"
#include "quant/setting.h"
#include "quant/vq/vector_parameters.h"
#include "run/settings.h"
#include "support/temporary.h"

namespace voronoi::planning {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

quant::QuantParameters vector_parameters(std::int64_t v, std::int64_t k, std::int64_t kr) {
  quant::QuantParameters p;
  p.get<quant::VectorParameters>().vector_length = v;
  p.get<quant::VectorParameters>().centroids = k;
  p.get<quant::VectorParameters>().residual_centroids = kr;
  return p;
}

PlanRequest request_of(const std::string& model, int ranks, bool cuda) {
  PlanRequest request;
  request.options.model = model;
  request.config = read_model_config(model);
  request.options.parameters = vector_parameters(6, 4096, 0);
  request.options.parameters.method = "voronoi";
  request.n_ranks = ranks;
  request.ranks_per_node = 8;
  request.threads = 8;
  request.cuda = cuda;
  request.rates = table_rates(request.device(), request.threads);
  return request;
}

TEST(KnownModels, AreThereAndHaveTheirNumbersOfWeights) {
  const std::map<std::string, double> billions{
      {"llama-2-7b", 6.738},         {"llama-2-13b", 13.016},   {"llama-2-70b", 68.977},
      {"llama-3.1-8b", 8.030},       {"llama-3.1-70b", 70.554}, {"llama-3.1-405b", 405.853},
      {"mistral-7b", 7.242},         {"qwen2.5-72b", 72.706},   {"gemma-3-27b", 27.009},
      {"gpt-oss-120b", 116.829},     {"deepseek-v3", 671.026},  {"llama-4-maverick", 400.712},
      {"qwen3-next-80b-a3b", 79.674}};
  for (const auto& [name, count] : billions) {
    double elements = 0;
    for (const model::TensorSpec& tensor : model::expected_tensors(read_model_config(name)))
      elements += static_cast<double>(core::element_count(tensor.shape).value_or(0));
    EXPECT_NEAR(elements / 1e9, count, 0.001) << name;
    EXPECT_THAT(known_model_names(), Contains(name));
  }
}

TEST(KnownModels, MixtralPlansWithAllItsExperts) {
  const Plan plan = make_plan(request_of("mixtral-8x7b", 8, true));
  EXPECT_NEAR(static_cast<double>(plan.original_bytes) / 2e9, 46.703, 0.001);
  std::int64_t linears = 0;
  for (const PlannedLinear& linear : plan.linears) linears += linear.count;
  EXPECT_EQ(linears, 32 * (4 + 8 * 3));
  EXPECT_NEAR(plan.true_bits(), 2.02, 0.02);
}

TEST(KnownModels, AnUnknownNameListsThem) {
  try {
    read_model_config("llama-2-8b");
    FAIL();
  } catch (const core::ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("llama-2-7b"));
    EXPECT_THAT(error.what(), HasSubstr("qwen2.5-72b"));
  }
}

struct PublishedBits {
  std::int64_t v, k, kr;
  double bits[4];
};

TEST(Plan, TrueBitsAreThoseKnownForThePublicSettings) {
  // VPTQ's settings, codebook, scales and a permutation counted, in printed digits: Llama-2 7B, Llama-3.1 8B, 70B,
  // 405B.
  const std::vector<PublishedBits> rows{
      {6, 4096, 0, {2.02, 2.02, 2.01, 2.00}},    {12, 4096, 4096, {2.07, 2.06, 2.02, 2.01}},
      {8, 65536, 0, {2.30, 2.28, 2.07, 2.02}},   {16, 65536, 65536, {3.17, 3.09, 2.28, 2.08}},
      {8, 65536, 256, {3.30, 3.28, 3.07, 3.02}}, {8, 65536, 65536, {4.59, 4.55, 4.14, 4.04}}};
  const std::vector<std::string> models{"llama-2-7b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"};
  for (std::size_t m = 0; m < models.size(); ++m) {
    const auto layers = layer_counts(read_model_config(models[m]));
    double weights = 0, columns = 0;
    for (const quant::LayerCount& layer : layers) {
      weights += static_cast<double>(layer.count * layer.out_features * layer.in_features);
      columns += static_cast<double>(layer.count * layer.in_features);
    }
    for (const PublishedBits& row : rows) {
      // Ours stores columns in natural order and needs no permutation of 16 bits a column.
      const double ours = quant::true_bits(vector_parameters(row.v, row.k, row.kr), layers);
      EXPECT_NEAR(ours + 16 * columns / weights, row.bits[m], 0.00501) << models[m] << " v " << row.v << " k " << row.k;
      EXPECT_LE(ours, row.bits[m] + 0.005);
    }
  }
}

TEST(Plan, SumsOfItsPartsAreItsTotals) {
  const Plan plan = make_plan(request_of("llama-2-7b", 4, false));
  std::int64_t bits = 0, count = 0;
  for (const PlannedLinear& linear : plan.linears) {
    bits += linear.count * linear.stored.total();
    count += linear.count;
  }
  EXPECT_EQ(plan.quantized_bits, bits);
  EXPECT_EQ(count, 32 * 7);
  EXPECT_EQ(plan.quantized_weights, 32 * (4LL * 4096 * 4096 + 3LL * 4096 * 11008));
  EXPECT_EQ(plan.rest_bytes, 2 * (2LL * 32000 * 4096 + 65 * 4096));
  // Of the tokens that are kept out beside those of the others.
  EXPECT_EQ(plan.hessian_bytes, 2 * 2 * (3LL * 4096 * 4097 + 11008LL * 11009));
  double seconds = 0;
  for (const PlannedStage& stage : plan.stages) seconds += stage.seconds;
  EXPECT_DOUBLE_EQ(plan.total_seconds, seconds);
  EXPECT_GT(plan.calibrating.bytes, 4LL * 4096 * 4096);
  EXPECT_TRUE(plan.refusals.empty());
  EXPECT_EQ(plan.device.bytes, 0);
}

TEST(Plan, SeventyBillionOnSixtyFourRanksComesWithinFivePercentOfTheBound) {
  for (const bool cuda : {true, false})
    for (const std::int64_t window : {16, 80}) {
      PlanRequest request = request_of("llama-3.1-70b", 64, cuda);
      request.options.hessian_window = window;
      const Plan plan = make_plan(request);
      EXPECT_GE(plan.windows.window.efficiency(), 0.95) << (cuda ? "cuda" : "cpu") << " window " << window;
    }
}

TEST(Plan, RanksShareTheWorkUntilTheLongestPartIsLeft) {
  const auto seconds = [](int ranks) { return make_plan(request_of("llama-3.1-8b", ranks, true)).total_seconds; };
  const double alone = seconds(1);
  double last = alone;
  for (const int ranks : {4, 16, 64, 256, 1024}) {
    const double shared = seconds(ranks);
    EXPECT_LE(shared, last) << ranks;
    EXPECT_GE(shared, alone / ranks) << ranks;
    last = shared;
  }
  EXPECT_GT(seconds(4096), 0.99 * last);
}

TEST(WindowTasks, RunsThatShareASiteReadItsHessianOnce) {
  const PlanRequest request = request_of("llama-2-7b", 4, false);
  const quant::RunParameters a(vector_parameters(4, 256, 0), {}), b(vector_parameters(4, 256, 16), {});
  const ParametersOfRuns parameters{&a, &b};
  const SiteTask whole{0, model::block_sites(request.config, 0).front()};
  SiteTask lacking = whole, nothing = whole, next = whole;
  lacking.site.linears.resize(1);
  nothing.site.linears.clear();
  next.block = 1;
  const auto part = [](std::size_t run, const SiteTask& task) { return SharedTask::Part{run, task}; };
  const auto seconds = [&](std::vector<SharedTask::Part> parts) {
    return task_seconds(SharedTask{std::move(parts)}, parameters, {}, request.rates);
  };
  const double both = seconds({part(0, whole), part(1, lacking)}), hessian = seconds({part(0, nothing)});
  EXPECT_GT(hessian, 0);
  EXPECT_DOUBLE_EQ(both, seconds({part(0, whole)}) + seconds({part(1, lacking)}) - hessian);

  const std::vector<SharedTask> shared{{{part(0, whole), part(1, lacking)}}, {{part(1, next)}}};
  const std::vector<sched::Task> tasks = window_tasks(shared, parameters, {}, request.rates, 4, 0);
  ASSERT_EQ(tasks.size(), 2U);
  EXPECT_DOUBLE_EQ(tasks[0].predicted_seconds, both);
  EXPECT_EQ(tasks[1].id, 1);
  EXPECT_EQ(tasks[1].name, next.name());
  // A single run is a list of one.
  const std::vector<sched::Task> alone = window_tasks(std::vector<SiteTask>{whole}, a, {}, request.rates, 4, 0);
  EXPECT_DOUBLE_EQ(alone.at(0).predicted_seconds, seconds({part(0, whole)}));
}

TEST(Plan, RefusesWhatCannotFitAndSaysWhere) {
  PlanRequest request = request_of("llama-3.1-405b", 8, true);
  request.gpu_memory = std::int64_t{24} << 30;
  request.node_memory = std::int64_t{16} << 30;
  const Plan plan = make_plan(request);
  EXPECT_THAT(plan.refusals, Contains(::testing::AllOf(HasSubstr("a GPU"), HasSubstr("down"))));
  EXPECT_THAT(plan.refusals, Contains(HasSubstr("a node")));
  EXPECT_THAT(plan_text(request, plan), HasSubstr("does not fit"));
  EXPECT_THAT(plan_text(request, plan), ::testing::Not(HasSubstr("sbatch")));
  EXPECT_FALSE(plan_json(request, plan).at("fits").get<bool>());
  request.gpu_memory = std::int64_t{1} << 40;
  request.node_memory = std::int64_t{4} << 40;
  EXPECT_TRUE(make_plan(request).refusals.empty());
}

TEST(Plan, OfFewWindowsNoneIsKeptOut) {
  PlanRequest request = request_of("llama-2-7b", 1, false);
  request.options.calibration_held_out = 0.125;
  request.options.calibration_sequences = 8;
  const double judged = make_plan(request).work.at("quantize")[core::Counted::factor_flops];
  request.options.calibration_sequences = 7;
  const double alone = make_plan(request).work.at("quantize")[core::Counted::factor_flops];
  EXPECT_GT(judged, 2 * alone);
  request.options.calibration_held_out = 0;
  EXPECT_EQ(make_plan(request).work.at("quantize")[core::Counted::factor_flops], alone);
}

TEST(Plan, TheLargestDenseModelLeavesRoomOnANodeOf256GB) {
  PlanRequest request = request_of("llama-3.1-405b", 64, true);
  request.ranks_per_node = 8;
  request.gpu_memory = std::int64_t{80} << 30;
  request.node_memory = 256'000'000'000;
  request.options.hessian = "guided";
  EXPECT_THAT(make_plan(request).refusals, ::testing::IsEmpty());
  // One window more a rank is beside the streams that enter all blocks.
  const Plan plan = make_plan(request);
  EXPECT_LT(plan.calibrating.bytes, std::int64_t{20} << 30);
  EXPECT_GT(plan.calibrating.bytes, 127LL * 2048 * 16384 * 4);
}

TEST(Plan, TextAndJsonSayTheSame) {
  PlanRequest request = request_of("mistral-7b", 16, true);
  request.given = {{"vector-length", "6"}, {"centroids", "4096"}, {"keep-hessians", ""}, {"tokenizer", "it's here"}};
  const Plan plan = make_plan(request);
  const core::Json json = plan_json(request, plan);
  EXPECT_EQ(json.at("quantized_bits").get<std::int64_t>(), plan.quantized_bits);
  EXPECT_EQ(json.at("linears").size(), plan.linears.size());
  EXPECT_EQ(json.at("stages").size(), plan.stages.size());
  EXPECT_TRUE(json.at("rates").at("assumed").get<bool>());
  const std::string text = plan_text(request, plan);
  EXPECT_THAT(text, HasSubstr("assumed, not measured"));
  EXPECT_THAT(text, HasSubstr("mlp.down_proj"));
  EXPECT_THAT(text, HasSubstr("sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8"));
  EXPECT_THAT(text, HasSubstr("slurm/quantize.sbatch mistral-7b RUN --vector-length 6 --centroids 4096 --keep-hessians "
                              "--tokenizer 'it'\\''s here' --device cuda --calibration-text TEXT\n"));
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    EXPECT_EQ(text.find('\t', begin) < end, false);
    begin = end + 1;
  }
}

TEST(Plan, NamesTheSitesWhereNoScaleFolds) {
  PlanRequest request = request_of("mistral-7b", 2, false);
  quant::QuantParameters& p = request.options.parameters;
  EXPECT_THAT(plan_text(request, make_plan(request)), Not(HasSubstr("column scales")));
  p.method = "awq";
  EXPECT_THAT(plan_text(request, make_plan(request)), HasSubstr("\n  o: no column scales, "));
  p.get<quant::AwqParameters>().column_scales = "all";
  EXPECT_THAT(plan_text(request, make_plan(request)), Not(HasSubstr("no column scales")));
  p.method = "afpq";
  p.get<quant::UniformParameters>().bits = 4;
  p.get<quant::AwqParameters>().column_scales = "foldable";
  EXPECT_EQ(without_folding(p, request.config), "");
  p.get<quant::AfpqParameters>().with = "awq";
  EXPECT_THAT(without_folding(p, request.config), testing::StartsWith("o: no column scales"));
  EXPECT_THAT(without_folding(p, request_of("llama-2-7b", 2, false).config), testing::IsEmpty());
  // The norm before a mixture feeds the router and all experts.
  EXPECT_THAT(sites_without_folding(request_of("mixtral-8x7b", 2, false).config),
              testing::ElementsAre("o", "expert.gate_up"));
}

TEST(Plan, TheProbeMeasuresEveryRate) {
  backend::Context context(backend::Device::cpu, 1);
  const Rates rates = probe_rates(context, vector_parameters(4, 256, 0));
  EXPECT_FALSE(rates.assumed);
  for (const double rate : {rates.gemm, rates.forward, rates.nearest, rates.gram, rates.factor, rates.seeding,
                            rates.scattered, rates.bytes}) {
    EXPECT_GT(rate, 1e6);
    EXPECT_LT(rate, 1e14);
  }
  // On a CPU products are in fp32 unless bf16 is asked for.
  const auto rate = [&rates](backend::Device device, const char* dtype) { return forward_rate(rates, device, dtype); };
  const double fp32 = rates.gemm * rates.forward_sustained, in_16_bits = rates.forward * rates.forward_sustained;
  EXPECT_LT(rates.forward_sustained, 1);
  EXPECT_EQ(rate(backend::Device::cpu, "auto"), fp32);
  EXPECT_EQ(rate(backend::Device::cpu, "f16"), fp32);
  EXPECT_EQ(rate(backend::Device::cpu, "bf16"), in_16_bits);
  EXPECT_EQ(rate(backend::Device::cuda, "auto"), in_16_bits);
  EXPECT_EQ(rate(backend::Device::cuda, "f32"), fp32);
  EXPECT_EQ(sweep_rate(rates, backend::Device::cpu, "bf16"), in_16_bits);
  EXPECT_EQ(sweep_rate(rates, backend::Device::cuda, "auto"), fp32);
  quant::Work work;
  work.gemm = 3 * rates.gemm;
  work.factor = 2 * rates.factor;
  EXPECT_DOUBLE_EQ(seconds(work, rates), 3 / rates.sustained + 2);
}

TEST(Plan, TakesRatesFromAFile) {
  const test::TemporaryFolder folder;
  const std::string path = (folder.path() / "rates.json").string();
  Rates rates = table_rates(backend::Device::cuda, 1);
  rates.device = "a \"GPU\"";
  rates.forward = 123.5e12;
  core::write_file_atomic(path, rates_json(rates).dump(), "test");
  EXPECT_EQ(rates_json(read_rates(path)), rates_json(rates));

  // Twice as fast at the forward pass: that stage alone is shorter, by what is no reading from disk.
  PlanRequest request = request_of("llama-2-7b", 1, true);
  const Plan before = make_plan(request);
  request.rates.forward *= 2;
  const Plan after = make_plan(request);
  EXPECT_LT(after.stages[0].seconds, before.stages[0].seconds);
  EXPECT_EQ(after.stages[1].seconds, before.stages[1].seconds);
  request.options.dtype = "f32";
  EXPECT_GT(make_plan(request).stages[0].seconds, before.stages[0].seconds);

  for (const char* broken : {"[]", "{}", R"({"device": 1})"}) {
    core::write_file_atomic(path, broken, "test");
    EXPECT_THROW(read_rates(path), core::FormatError) << broken;
  }
  core::Json zero = rates_json(rates);
  zero["nearest"] = 0;
  core::write_file_atomic(path, zero.dump(), "test");
  try {
    read_rates(path);
    FAIL();
  } catch (const core::FormatError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'nearest'"));
  }
}

quant::Rule rule_of(const std::string& text) {
  quant::Rule rule;
  EXPECT_EQ(quant::parse_rule(text, rule), "");
  return rule;
}

TEST(Plan, CountsWhatRulesMakeOfEachLinear) {
  PlanRequest request = request_of("llama-2-7b", 1, false);
  const Plan plain = make_plan(request);
  request.options.rules = {rule_of("*.down_proj centroids=256 vector-length=4"),
                           rule_of("*.layers.0.* quantize=false")};
  const Plan plan = make_plan(request);
  const auto find = [&](const std::string& role, bool quantized) {
    const auto found = std::find_if(plan.linears.begin(), plan.linears.end(), [&](const PlannedLinear& linear) {
      return linear.role == role && linear.quantized == quantized;
    });
    EXPECT_NE(found, plan.linears.end()) << role;
    return *found;
  };
  EXPECT_EQ(find("mlp.down_proj", true).count, 31);
  EXPECT_EQ(find("mlp.down_proj", true).stored.total(),
            quant::planned_bits(vector_parameters(4, 256, 0), 4096, 11008).total());
  EXPECT_EQ(find("mlp.down_proj", false).count, 1);
  EXPECT_EQ(find("mlp.down_proj", false).stored.total(), std::int64_t{16} * 4096 * 11008);
  EXPECT_EQ(plan.quantized_weights + plan.kept_weights, plain.quantized_weights);
  EXPECT_EQ(plan.kept_weights, plain.quantized_weights / 32);
  EXPECT_EQ(plan.rest_bytes, plain.rest_bytes + 2 * plan.kept_weights);
  EXPECT_GT(plan.true_bits(), plain.true_bits() + 13.5 / 32);
  EXPECT_THAT(plan_text(request, plan),
              ::testing::AllOf(HasSubstr("not quantized"), HasSubstr("vector length 4, 256")));
  // A linear with a damping of its own takes a factor of its own; one that is left alone no Hessian.
  const auto work = [](const Plan& of, const std::string& name) {
    for (const PlannedStage& stage : of.stages)
      if (stage.name == name) return stage.flops;
    return 0.0;
  };
  const double factors = work(plain, "quantize: factor Hessians");
  EXPECT_NEAR(work(plan, "quantize: factor Hessians"), factors * 31 / 32, 1e-9 * factors);
  request.options.rules = {rule_of("*.up_proj damping=0.1")};
  EXPECT_GT(work(make_plan(request), "quantize: factor Hessians"), 1.02 * factors);
}

TEST(Plan, LinearsOfASiteShareAPreparedOneWhereItIsTheSame) {
  const model::ModelConfig config = read_model_config("llama-2-7b");
  const SiteTask qkv{0, model::block_sites(config, 0).front()};
  quant::QuantParameters base;
  const quant::RunParameters plain(base, {}),
      ruled(base, {rule_of("*.q_proj damping=0.1"), rule_of("*.k_proj centroids=16")});
  base.damping = 0.1;
  const quant::RunParameters other(base, {});
  const auto sizes = [&](const ParametersOfRuns& parameters) {
    SharedTask task;
    for (std::size_t i = 0; i < parameters.size(); ++i) task.parts.push_back({i, qkv});
    std::vector<std::size_t> n;
    for (const auto& group : alike_linears(task, parameters)) n.push_back(group.size());
    return n;
  };
  EXPECT_THAT(sizes({&plain}), ::testing::ElementsAre(3));
  EXPECT_THAT(sizes({&ruled}), ::testing::ElementsAre(1, 2));
  EXPECT_THAT(sizes({&plain, &other}), ::testing::ElementsAre(3, 3));
  EXPECT_THAT(sizes({&plain, &ruled, &other}), ::testing::ElementsAre(3 + 2, 1 + 3));
}

TEST(Bits, ChoosesByTheModelsSize) {
  for (const char* name :
       {"llama-2-7b", "llama-2-13b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "mistral-7b", "qwen2.5-72b"})
    for (const double wanted : {1.5, 2.0, 2.3, 3.0, 4.0}) {
      run::Settings options;
      options.parameters.method = "voronoi";
      options.bits = wanted;
      const model::ModelConfig config = read_model_config(name);
      resolve_bits(options, config);
      const double bits = quant::true_bits(options.parameters, layer_counts(config));
      EXPECT_LE(bits, wanted * 1.02) << name;
      EXPECT_GE(bits, wanted * 0.95) << name;
    }
}

TEST(Bits, DividedOnesAreTrueOnesOfAnyMethod) {
  const model::ModelConfig config = read_model_config("llama-2-7b");
  run::Settings options;
  options.parameters.method = "gptq";
  options.bits = 3;
  options.allocate = true;
  resolve_bits(options, config);
  EXPECT_EQ(chosen_values(options.parameters), (std::vector<std::pair<std::string, std::string>>{{"bits", "2"}}))
      << "3 bits and their scales are more";
  options.bits = 2.1;
  EXPECT_THROW(resolve_bits(options, config), core::ConfigError);
}

TEST(Bits, RulesOfTheUserWinOverADivision) {
  run::Settings options;
  options.parameters.method = "rtn";
  options.rules = {rule_of("*.o_proj damping=0.5")};
  const quant::RunParameters parameters =
      run::run_parameters(options, {"a.o_proj bits=5", "a.q_proj bits=6", "a.experts.*.w1 bits=7"});
  const auto bits = [&](const std::string& linear) { return quant::planned_nominal_bits(*parameters.of(linear)); };
  EXPECT_EQ(bits("a.q_proj"), 6);
  EXPECT_EQ(bits("a.experts.12.w1"), 7);
  EXPECT_EQ(bits("a.o_proj"), quant::planned_nominal_bits(options.parameters));
  EXPECT_EQ(bits("b.q_proj"), quant::planned_nominal_bits(options.parameters));
}

TEST(Plan, CountsTheHessiansOfGroupsOfRows) {
  PlanRequest request = request_of("llama-2-7b", 4, false);
  request.options.hessian = "guided";
  const Plan one = make_plan(request);
  request.options.hessian_groups = 4;
  const Plan four = make_plan(request);
  // A sum a site, and one or four a linear: of 4096 inputs q, k, v, o, gate and up, of 11008 down.
  const std::int64_t narrow = std::int64_t{4096} * 4097, wide = std::int64_t{11008} * 11009;
  EXPECT_EQ(four.hessian_bytes * ((3 + 6) * narrow + 2 * wide), one.hessian_bytes * ((3 + 24) * narrow + 5 * wide));
  EXPECT_GT(four.quantizing.bytes, one.quantizing.bytes);
  EXPECT_GT(four.total_seconds, one.total_seconds);
  EXPECT_EQ(four.quantized_bits, one.quantized_bits);
}

TEST(Plan, DividingBitsTakesAllHessiansAndALook) {
  PlanRequest request = request_of("llama-2-7b", 4, false);
  request.options.hessian = "guided";
  request.options.bits = 2.3;
  const Plan uniform = make_plan(request);
  request.options.allocate = true;
  const Plan divided = make_plan(request);
  EXPECT_EQ(divided.windows.blocks, 32);
  EXPECT_LT(uniform.windows.blocks, 32);
  EXPECT_EQ(divided.quantized_bits, uniform.quantized_bits);
  EXPECT_EQ(divided.suggested_window, 0);
  const auto look = std::find_if(divided.stages.begin(), divided.stages.end(),
                                 [](const PlannedStage& stage) { return stage.name == "allocate"; });
  ASSERT_NE(look, divided.stages.end());
  EXPECT_GT(look->seconds, 0);
  EXPECT_LT(look->seconds, uniform.total_seconds);
  EXPECT_GE(divided.quantizing.bytes, uniform.quantizing.bytes);
  EXPECT_THAT(plan_text(request, divided),
              ::testing::AllOf(HasSubstr("an estimate"), HasSubstr("2.3 true bits"), HasSubstr("(32 blocks)")));
}

}  // namespace
}  // namespace voronoi::planning
