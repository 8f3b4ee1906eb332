// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/fit_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/random.h"
#include "halftone/core/scoped_value.h"
#include "halftone/inspect/non_finite_finder.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/weight_cache.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/optim/lr_scheduler.h"
#include "halftone/system/memory.h"
#include "halftone/system/pooled_allocator.h"
#include "halftone/train/configured_optimizers.h"
#include "halftone/train/evaluation.h"
#include "halftone/train/monitor.h"
#include "halftone/train/network_state.h"
#include "halftone/train/optimizer_state.h"
#include "halftone/train/step_search_impl.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMebibyte = 1024.0 * 1024.0;
constexpr const char* kMatmulPaths = "matmul_paths";
constexpr const char* kAccumulate = "accumulate";       // as it was asked for
constexpr const char* kMicroBatches = "micro_batches";  // of a step, over all processes
// What the schedule counts in: the run's first number of processes, and batches of an epoch in
// each.
constexpr const char* kScheduleProcesses = "schedule_processes";
constexpr const char* kScheduleBatches = "schedule_batches";
constexpr const char* kModule = "module.";       // its extra state
constexpr const char* kGradients = "gradient.";  // of steps that have begun

std::vector<OptimizerSetup> optimizers_for(TrainingModuleBase& module, MixedPrecision& precision,
                                           const FitLoopOptions& options) {
  precision.convert_module(module.network());
  std::vector<OptimizerSetup> setups = configured_optimizers(
      module, {.memory = precision.memory(),
               .shard_over = options.shards_states ? options.processes : nullptr,
               .shard_gradients = options.shards_gradients,
               .shard_weights = options.shards_weights});
  release_free_memory();  // the weights have moved into the optimizer's buffers
  return setups;
}

std::optional<std::int64_t> epoch_length(TrainingTask& task,
                                         const std::vector<OptimizerSetup>& setups,
                                         const RunLimits& limits) {
  const auto depends_on_it = [&](const OptimizerSetup& setup) {
    return setup.schedule && needs_epoch_length(limits, *setup.schedule);
  };
  if (!task.batches_per_epoch() && std::any_of(setups.begin(), setups.end(), depends_on_it)) {
    log_note(
        "the learning-rate schedule needs the number of batches in an epoch, and the loader does "
        "not tell: an epoch is read to count them; a member batches_per_epoch() of the loader, or "
        "max_steps instead of max_epochs, saves that");
    task.count_batches();
  }
  return task.batches_per_epoch();
}

std::string optimizer_prefix(std::size_t index) {
  return "optimizer." + std::to_string(index) + ".";
}

std::string plateau_prefix(std::size_t index) { return "plateau." + std::to_string(index) + "."; }

}  // namespace

FitLoop::FitLoop(TrainingTask& task, MixedPrecision& precision, const FitLoopOptions& options)
    : task_(task),
      precision_(precision),
      options_(options),
      accumulate_(options.accumulate),
      schedule_processes_(options.processes ? options.processes->size() : 1),
      setups_(optimizers_for(task.module(), precision, options)),
      plateaus_(setups_.size()),
      length_(options.limits, epoch_length(task, setups_, options.limits), options.accumulate) {
  check_manual();
  check_release();
  check_processes();
  check_sharded_gradients();
  for (const OptimizerSetup& setup : setups_) {
    optimizers_.push_back(setup.optimizer);
    base_rates_.push_back(learning_rates(*setup.optimizer));
  }
  if (options_.tree_sum) make_tree();
  if (options_.processes != nullptr)
    parallel_.emplace(*options_.processes, optimizers_, task.module().network(), options_.transport,
                      tree_ ? &*tree_ : nullptr);
  if (!task.module().automatic_optimization())
    manual_ = std::make_unique<ManualOptimization>(precision_, optimizers_);
}

void FitLoop::make_tree() {
  std::vector<const ParameterArena*> arenas;
  for (const auto& optimizer : optimizers_) {
    const FusedOptimizer* const fused = as_fused(std::as_const(*optimizer));
    if (fused == nullptr || fused->traits().releases_gradients || manual_)
      throw UserError(
          "trainer: gradient_sum tree goes with optimizers such as halftone::AdamW that keep "
          "gradients until the step; leave it at \"sequential\"");
    arenas.push_back(&fused->arena());
  }
  tree_.emplace(std::move(arenas));
}

void FitLoop::check_processes() const {
  if (options_.processes == nullptr) return;
  if (!task_.module().automatic_optimization())
    throw UserError(
        "trainer: a module that steps its optimizers itself (automatic_optimization() is false) is "
        "trained in one process; start one, or let the Trainer step them");
  if (options_.detect_anomaly)
    throw UserError(
        "trainer: detect_anomaly looks for the cause in one process's numbers; start one process "
        "from the last checkpoint to find it");
}

// What looks at gradients as a whole sees a part of them in each process.
void FitLoop::check_sharded_gradients() const {
  if (!options_.shards_gradients) return;
  const auto refuse = [](const char* what, const char* remedy) {
    throw UserError(
        fmt::format("trainer: shard gradients leaves each process a part of the "
                    "gradients, and {}; {}, or choose shard optimizer",
                    what, remedy));
  };
  if (!precision_.device().is_cpu())
    refuse("gives memory back on the CPU only", "train on the CPU");
  if (options_.clip.value > 0.0 && options_.clip.algorithm != ClipAlgorithm::kNorm)
    refuse("clipping by value looks at all", "clip by the norm");
  if (precision_.scaler_options().adaptive)
    refuse("an adaptive loss scale looks at all", "choose loss_scale dynamic");
  if (options_.tree_sum && options_.accumulate > 1)
    refuse("they are summed after each micro-batch, not as a tree", "set gradient_sum sequential");
}

std::int64_t FitLoop::in_schedule(std::int64_t batches) const {
  return (batches * processes() + schedule_processes_ - 1) / schedule_processes_;
}

double FitLoop::progress() const {
  RunCounters counters = counters_;
  counters.micro_step = in_schedule(counters.micro_step);
  return length_.progress(counters);
}

std::int64_t FitLoop::processes() const { return parallel_ ? parallel_->group().size() : 1; }

void FitLoop::check_manual() const {
  if (task_.module().automatic_optimization()) return;
  const auto refuse = [](const char* option, const char* remedy) {
    throw UserError(
        fmt::format("trainer: {} does not go with a module that steps its optimizers "
                    "itself (automatic_optimization() is false): {}",
                    option, remedy));
  };
  if (options_.accumulate > 1)
    refuse("accumulate_grad_batches", "call step() and zero_grad() every few batches instead");
  if (options_.clip.value > 0.0)
    refuse("gradient_clip_val", "give it to step() instead: optimizer(0).step({.value = 1.0})");
  if (precision_.memory().release_gradients)
    refuse("release_gradients", "set it to off, or name another memory recipe");
}

void FitLoop::check_release() const {
  if (!precision_.memory().release_gradients) return;
  if (setups_.size() > 1)
    throw UserError(fmt::format(
        "trainer: release_gradients steps one optimizer in the backward pass, but this module has "
        "{}; give all parameters to one halftone::AdamW, or set release_gradients to off",
        setups_.size()));
  if (options_.clip.value > 0.0 && options_.clip.algorithm != ClipAlgorithm::kNorm)
    throw UserError(
        "trainer: released gradients are clipped by their norm; set gradient_clip_algorithm to "
        "\"norm\", or release_gradients to off");
  if (options_.accumulate > 1 && !task_.joins_batches())
    throw UserError(fmt::format(
        "trainer: release_gradients cannot accumulate over {} batches of a type without joined(); "
        "set accumulate_grad_batches to 1 and make batches larger, or give the type a static "
        "member joined()",
        options_.accumulate));
}

void FitLoop::set_learning_rates(std::int64_t group) {
  for (std::size_t i = 0; i < setups_.size(); ++i) {
    if (!setups_[i].schedule) continue;
    halftone::set_learning_rates(*optimizers_[i], base_rates_[i], [&](double base) {
      return length_.learning_rate(*setups_[i].schedule, base, counters_, in_schedule(group),
                                   plateaus_[i].reductions);
    });
  }
}

void FitLoop::observe_validation(const std::map<std::string, double>& values) {
  for (std::size_t i = 0; i < setups_.size(); ++i) {
    const PlateauLr* const plateau = setups_[i].schedule ? setups_[i].schedule->plateau() : nullptr;
    if (plateau == nullptr) continue;
    plateaus_[i].observe(*plateau, Monitor(plateau->monitor, MonitorMode::kMin).value_in(values));
  }
}

void FitLoop::pass_over_data() {
  HALFTONE_CHECK(!in_step_,
                 "[trainer] expected pass_over_training_data() between two steps, such as in "
                 "on_train_end()");
  if (manual_)
    throw UserError(
        "trainer: a pass over the training data calls training_step(), which steps the optimizers "
        "of this module itself; compute what the pass is for in the module");
  if (sharded_weights())
    throw UserError(
        "trainer: shard parameters leaves each process a part of the weights until the training is "
        "over; pass over the training data in on_train_end(), or choose shard gradients");
  const torch::NoGradGuard no_grad;
  const StateDict position = task_.data_state();
  const GeneratorScope generators(precision_.device(), rng_state(precision_.device()));
  const TrainingRecord record(task_.module());
  const auto take_epoch = [this](bool steps) {
    const std::int64_t epochs = task_.epochs();
    while (task_.epochs() == epochs) {
      task_.load_group(1, LossAverage::kMicroBatches);
      if (!steps) continue;
      const ForwardContext region = precision_.forward_context();
      task_.training_step(0, precision_.batch_placement());
    }
  };
  if (task_.batch_index() > 0) take_epoch(/*steps=*/false);  // to the next one's first batch
  take_epoch(/*steps=*/true);
  task_.load_data_state(position);
}

void FitLoop::warn_of_warmup() const {
  double warmup = 0.0;
  for (const OptimizerSetup& setup : setups_)
    if (setup.schedule) warmup = std::max(warmup, setup.schedule->warmup());
  const std::optional<std::int64_t> planned = length_.total_steps();
  const bool planned_too_few = planned && static_cast<double>(*planned) <= warmup;
  if (!finished() && planned_too_few) warn_of_long_warmup(warmup, *planned);
  if (finished() && !planned_too_few) warn_of_long_warmup(warmup, counters_.step);
}

torch::Tensor FitLoop::loss_of(std::int64_t i) {
  last_step_.micro_batches.push_back({.generators = rng_state(precision_.device())});
  // Of all the run's passes, in the order in which one process would take them.
  const std::int64_t rank = parallel_ ? parallel_->group().rank() : 0;
  const std::int64_t pass = (counters_.micro_step + i) * processes() + rank;
  const auto region = precision_.forward_context(pass, options_.seed, !manual_);
  const torch::Tensor loss = task_.training_step(i, precision_.batch_placement());
  if (manual_ && !loss.defined()) return loss;
  HALFTONE_CHECK(loss.defined() && loss.numel() == 1,
                 "[trainer] expected a scalar loss from training_step(), got ",
                 loss.defined() ? c10::str(loss.sizes()) : "an undefined tensor");
  last_step_.micro_batches.back().loss = loss.detach();
  return loss;
}

void FitLoop::zero_gradients(StepHooks& hooks) {
  if (manual_) return;
  hooks.on_before_zero_grad();
  for (const auto& optimizer : optimizers_) zero_grad(*optimizer);
}

torch::Tensor FitLoop::accumulate_gradients(std::int64_t group, StepHooks& hooks) {
  torch::Tensor total = torch::zeros({}, torch::device(precision_.device()));
  // The scale begins with the first loss: a process that has no batch in this step needs it too.
  if (parallel_) static_cast<void>(precision_.scaled(total));
  // The weights do not change before the update: each is rounded once for all micro-batches.
  ComputeContext context = compute_context();
  if (parallel_) context.weight_residency = parallel_->weights();
  // Copies of all weights are what a process that keeps a part of them has no room for.
  if (group > 1 && !context.weight_residency)
    context.weight_cache = std::make_shared<WeightCache>();
  const ComputeScope scope(std::move(context));
  std::vector<std::int64_t> order(static_cast<std::size_t>(group));
  std::iota(order.begin(), order.end(), 0);
  if (tree_) order = tree_order(group);
  for (const std::int64_t i : order) {
    const bool is_last = i == order.back();
    task_.announce(i);
    hooks.on_train_batch_start(task_.group_index() + i);
    const double weight = task_.loss_weight(i);
    in_pass(weight > 0.0 || !parallel_, [&] {
      const torch::Tensor loss = loss_of(i);
      if (weight == 0.0) return;  // the mean over nothing may be nan
      const torch::Tensor share = loss / (static_cast<double>(group * processes()) / weight);
      hooks.on_before_backward(share);
      if (sends_behind(is_last)) parallel_->begin_backward();
      precision_.backward(share);
      total += share.detach().reshape({});
    });
    if (sends_behind(is_last)) parallel_->finish_backward();
    if (weight > 0.0) hooks.on_after_backward();
    if (tree_ && !is_last) tree_->set_aside();
    if (!is_last) hooks.on_train_batch_end(task_.group_index() + i);
  }
  if (tree_ && !parallel_) tree_->finish();
  return total;
}

// Who has no batch computes nothing, but may have to bring weights to those who have.
void FitLoop::in_pass(bool computes, const std::function<void()>& compute) {
  if (const auto weights = sharded_weights())
    weights->pass("training", computes, compute);
  else if (computes)
    compute();
}

void FitLoop::complete_weights() {
  if (parallel_) parallel_->complete_weights();
}

// Whether gradients travel with that micro-batch.
bool FitLoop::sends_behind(bool is_last) const {
  return parallel_ && (is_last || options_.shards_gradients);
}

FitLoop::Update FitLoop::update(std::int64_t group, StepHooks& hooks) {
  if (manual_) return manual_update(hooks);
  if (precision_.memory().release_gradients) return released_update(hooks);
  const torch::Tensor loss = accumulate_gradients(group, hooks);
  hooks.on_before_optimizer_step();
  const torch::Tensor host_loss = start_reading(loss);
  const Update finished = finished_update(host_loss, precision_.step(optimizers_, options_.clip));
  if (const auto weights = sharded_weights()) {
    weights->check_use();
    weights->refresh();
  }
  hooks.on_train_batch_end(task_.group_index() + group - 1);
  return finished;
}

// The scale that the step used is known once its result is; update() moves it.
FitLoop::Update FitLoop::finished_update(const torch::Tensor& loss, const StepResult& result) {
  const std::optional<double> scale = precision_.loss_scale();
  return {loss, result, result.stepped, scale, precision_.update()};
}

FitLoop::Update FitLoop::released_update(StepHooks& hooks) {
  task_.join_group();
  task_.announce(0);
  hooks.on_train_batch_start(task_.group_index());
  const torch::Tensor loss = loss_of(0);
  hooks.on_before_optimizer_step();
  const torch::Tensor host_loss = start_reading(loss);
  hooks.on_before_backward(loss);
  const StepResult result = precision_.backward_and_step(loss, optimizers_, options_.clip);
  hooks.on_after_backward();
  hooks.on_train_batch_end(task_.group_index());
  return finished_update(host_loss, result);
}

FitLoop::Update FitLoop::manual_update(StepHooks& hooks) {
  task_.announce(0);
  hooks.on_train_batch_start(task_.group_index());
  manual_->begin(hooks);
  const torch::Tensor loss = [this] {
    const ManualScope scope(task_.module(), manual_.get());
    return loss_of(0);
  }();
  const auto [result, steps, scale, verdict] = manual_->end();
  hooks.on_train_batch_end(task_.group_index());
  // Nothing has to have waited for the device since the loss was queued: this does.
  const torch::Tensor host_loss = loss.defined() ? loss.detach().cpu() : loss;
  return {host_loss, result, steps > 0 && result.stepped, scale, verdict};
}

// The optimizer step waits for the device: these numbers are on the host by then, at no wait of
// their own.
torch::Tensor FitLoop::start_reading(const torch::Tensor& loss) {
  task_.module().logged().start_reading();
  return loss.detach().to(torch::kCPU, /*non_blocking=*/true);
}

StepMetrics FitLoop::step(StepHooks& hooks) {
  const ScopedValue in_step(in_step_, true);
  const Clock::time_point start = Clock::now();
  TrainingModuleBase& module = task_.module();
  StepMetrics metrics{.step = counters_.step + 1, .epoch = counters_.epochs + 1};
  const std::int64_t group = begin_step(hooks);
  const Update updated = update(group, hooks);
  const StepResult& result = updated.result;
  metrics.scale = updated.scale;
  metrics.lr = optimizers_.front()->param_groups().front().options().get_lr();
  metrics.tokens = module.take_tokens();
  if (parallel_) module.logged().add_up(parallel_->group());
  metrics.logged = module.logged().take();
  // Before the counters move: the search computes the last batch once more.
  std::optional<Anomaly> anomaly = anomaly_in(updated);
  if (anomaly) explain(updated, *anomaly);

  metrics.loss = updated.loss.defined() ? updated.loss.item<double>()
                                        : std::numeric_limits<double>::quiet_NaN();
  double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (parallel_) {
    const StepShare all = parallel_->all_of({metrics.loss, metrics.tokens, seconds});
    metrics.loss = all.loss;
    metrics.tokens = all.tokens;
    seconds = all.seconds;
  }
  ++counters_.step;
  counters_.micro_step += group;
  counters_.epochs = task_.epochs();
  if (result.stepped) counters_.schedule_step += length_.schedule_steps(in_schedule(group));
  if (updated.applied) ++counters_.updates;
  counters_.tokens += metrics.tokens;
  metrics.grad_norm = result.grad_norm;
  metrics.skipped = !result.stepped;
  metrics.overflow = result.overflow;
  metrics.underflow_share = precision_.underflow_share();
  finish_metrics(metrics, seconds);
  hooks.add_metrics(metrics);
  if (anomaly) throw AnomalyError(std::move(*anomaly));
  return metrics;
}

std::int64_t FitLoop::begin_step(StepHooks& hooks) {
  last_step_ = {.epoch = task_.epochs(),
                .batch = task_.batch_index(),
                .micro_step = counters_.micro_step,
                .seed = options_.seed};
  if (parallel_ && at_epoch_start()) parallel_->share_generators(precision_.device());
  const std::int64_t group = task_.load_group(accumulate_, options_.loss_average);
  set_learning_rates(group);
  zero_gradients(hooks);
  if (options_.detect_anomaly && !weights_were_finite_)
    weights_were_finite_ = !find_bad_parameters(network()).has_value();
  return group;
}

void FitLoop::finish_metrics(StepMetrics& metrics, double seconds) {
  counters_.seconds += seconds;
  metrics.tokens_total = counters_.tokens;
  metrics.step_ms = seconds * 1e3;
  metrics.tokens_per_s = static_cast<double>(metrics.tokens) / seconds;
  if (precision_.device().is_cuda())
    metrics.cuda_mib = static_cast<double>(cuda_peak_bytes(precision_.device())) / kMebibyte;
  metrics.rss_mib = static_cast<double>(resident_bytes()) / kMebibyte;
  note_memory_kinds(metrics);
}

void FitLoop::note_memory_kinds(StepMetrics& metrics) const {
  OptimizerBytes sum;
  for (const auto& optimizer : optimizers_) {
    const FusedOptimizer* const fused = as_fused(std::as_const(*optimizer));
    if (fused == nullptr) return;
    const OptimizerBytes bytes = fused->bytes();
    sum.weights += bytes.weights;
    sum.gradients += bytes.gradients;
    sum.moments += bytes.moments;
    sum.master += bytes.master;
    sum.disk += bytes.disk;
  }
  const auto mib = [](auto bytes) { return static_cast<double>(bytes) / kMebibyte; };
  metrics.weights_mib = mib(sum.weights);
  metrics.gradients_mib = mib(sum.gradients);
  metrics.states_mib = mib(sum.resident_states());
  if (const std::size_t peak = take_pooled_peak(); peak > 0 && precision_.device().is_cpu())
    metrics.tensors_mib = mib(peak);
}

Checkpoint FitLoop::checkpoint() const {
  Checkpoint checkpoint;
  checkpoint.step = counters_.step;
  checkpoint.model = network_state(network());
  // One optimizer, the common case, keeps the plain names of its parameters.
  if (optimizers_.size() == 1)
    checkpoint.optimizer = optimizer_state(*optimizers_.front());
  else
    for (std::size_t i = 0; i < optimizers_.size(); ++i)
      checkpoint.optimizer.insert(optimizer_prefix(i), optimizer_state(*optimizers_[i]));
  StateDict& trainer = checkpoint.trainer;
  trainer.values = {{"step", counters_.step},
                    {"micro_step", counters_.micro_step * processes()},  // over all of them
                    {"schedule_step", counters_.schedule_step * schedule_processes_},
                    {kScheduleProcesses, schedule_processes_},
                    {"updates", counters_.updates},
                    {"tokens", counters_.tokens},
                    {"seconds", counters_.seconds},
                    {kAccumulate, options_.accumulate},
                    {kMicroBatches, accumulate_ * processes()},
                    {"precision", precision_.policy().name}};
  if (const std::optional<std::int64_t> batches = length_.batches_per_epoch())
    trainer.values[kScheduleBatches] = *batches;
  // A run without such matmuls (on a GPU, or of foreign layers) has no ways to go on with.
  if (const std::optional<CpuGemmConfig> ways = decided_matmul_paths())
    trainer.values[kMatmulPaths] = to_string(*ways);
  trainer.insert("scaler.", precision_.state_dict());
  trainer.insert("data.", task_.data_state());
  trainer.insert("rng.", rng_state(precision_.device()));
  trainer.insert(kModule, task_.module().extra_state());
  for (std::size_t i = 0; i < plateaus_.size(); ++i)
    if (setups_[i].schedule && setups_[i].schedule->plateau() != nullptr)
      trainer.insert(plateau_prefix(i), plateaus_[i].state_dict());
  checkpoint.model.values = task_.module().hyper_parameters().values;
  if (manual_) trainer.insert(kGradients, manual_->state_dict());
  return checkpoint;
}

// A run that goes on with another number of processes keeps the micro-batches of its steps: each
// process takes more of them, or fewer. Its schedule goes on counting as before.
void FitLoop::share_accumulation(const StateDict& trainer) {
  if (!trainer.values.contains(kMicroBatches)) return;  // older runs had one process
  const auto all = trainer.get<std::int64_t>(kMicroBatches);
  if (all == accumulate_ * processes() ||
      trainer.get<std::int64_t>(kAccumulate) != options_.accumulate)
    return;
  if (all % processes() != 0)
    throw UserError(fmt::format(
        "cannot resume: a step of the saved run has {} micro-batches, which {} processes can't "
        "share evenly; resume with a number of processes that divides {}",
        all, processes(), all));
  accumulate_ = all / processes();
  schedule_processes_ = trainer.get<std::int64_t>(kScheduleProcesses);
  std::optional<std::int64_t> batches;
  if (trainer.values.contains(kScheduleBatches))
    batches = trainer.get<std::int64_t>(kScheduleBatches);
  length_ = TrainingLength(options_.limits, batches, options_.accumulate);
  log_note(
      fmt::format("a step has {} micro-batches, as the run had before: {} in each of {} "
                  "process{}",
                  all, accumulate_, processes(), processes() == 1 ? "" : "es"));
}

void FitLoop::load_checkpoint(const Checkpoint& checkpoint) {
  const StateDict& trainer = checkpoint.trainer;
  const auto saved_precision = trainer.get<std::string>("precision");
  if (saved_precision != precision_.policy().name)
    throw UserError("the checkpoint was trained in precision '" + saved_precision +
                    "', but this run asks for '" + precision_.policy().name +
                    "'; resume with the run's own precision");
  share_accumulation(trainer);
  task_.load_data_state(trainer.extract("data."));
  load_network_state(network(), checkpoint.model, "the checkpoint");
  if (optimizers_.size() == 1)
    load_optimizer_state(*optimizers_.front(), checkpoint.optimizer);
  else
    for (std::size_t i = 0; i < optimizers_.size(); ++i)
      load_optimizer_state(*optimizers_[i], checkpoint.optimizer.extract(optimizer_prefix(i)));
  if (manual_) manual_->load_state_dict(trainer.extract(kGradients));
  task_.module().load_extra_state(trainer.extract(kModule));
  for (std::size_t i = 0; i < plateaus_.size(); ++i)
    if (const StateDict state = trainer.extract(plateau_prefix(i)); !state.values.empty())
      plateaus_[i].load_state_dict(state);
  precision_.load_state_dict(trainer.extract("scaler."));
  weights_were_finite_ = false;
  counters_ = {.step = trainer.get<std::int64_t>("step"),
               .micro_step = trainer.get<std::int64_t>("micro_step") / processes(),
               .epochs = task_.epochs(),
               .schedule_step = trainer.get<std::int64_t>("schedule_step") / schedule_processes_,
               .updates = trainer.values.contains("updates")  // older runs lack it
                              ? trainer.get<std::int64_t>("updates")
                              : trainer.get<std::int64_t>("step"),
               .tokens = trainer.get<std::int64_t>("tokens"),
               .seconds = trainer.get<double>("seconds")};
  // Another GEMM is another order of summation, hence other bits.
  if (trainer.values.contains(kMatmulPaths))
    set_cpu_gemm_config(parse_cpu_gemm_config(trainer.get<std::string>(kMatmulPaths)));
  set_rng_state(precision_.device(), trainer.extract("rng."));
}

}  // namespace halftone
