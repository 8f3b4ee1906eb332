// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/fit_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/random.h"
#include "halftone/inspect/non_finite_finder.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/weight_cache.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/lr_scheduler.h"
#include "halftone/system/memory.h"
#include "halftone/system/pooled_allocator.h"
#include "halftone/train/network_state.h"
#include "halftone/train/optimizer_state.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMebibyte = 1024.0 * 1024.0;
constexpr const char* kMatmulPaths = "matmul_paths";

std::vector<OptimizerSetup> configured_optimizers(TrainingModuleBase& module,
                                                  MixedPrecision& precision) {
  precision.convert_module(module.network());
  std::vector<OptimizerSetup> setups = module.configure_optimizers();
  HALFTONE_CHECK(!setups.empty(),
                 "[trainer] expected at least one optimizer from configure_optimizers(), got none");
  for (const OptimizerSetup& setup : setups)
    HALFTONE_CHECK(setup.optimizer != nullptr,
                   "[trainer] expected optimizers from configure_optimizers(), got a null pointer");
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

// AdamW keeps its gradients where they are; LibTorch's optimizers would free them.
void zero_grad(torch::optim::Optimizer& optimizer) {
  if (auto* fused = dynamic_cast<AdamW*>(&optimizer))
    fused->zero_grad();
  else
    optimizer.zero_grad();
}

std::string optimizer_prefix(std::size_t index) {
  return "optimizer." + std::to_string(index) + ".";
}

}  // namespace

FitLoop::FitLoop(TrainingTask& task, MixedPrecision& precision, const FitLoopOptions& options)
    : task_(task),
      precision_(precision),
      options_(options),
      setups_(configured_optimizers(task.module(), precision)),
      length_(options.limits, epoch_length(task, setups_, options.limits), options.accumulate) {
  check_release();
  check_offload();
  for (const OptimizerSetup& setup : setups_) {
    optimizers_.push_back(setup.optimizer);
    base_rates_.push_back(learning_rates(*setup.optimizer));
  }
}

void FitLoop::check_release() const {
  if (!precision_.memory().release_gradients) return;
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

void FitLoop::check_offload() const {
  if (precision_.memory().offload.empty()) return;
  for (const OptimizerSetup& setup : setups_) {
    const auto* const adamw = dynamic_cast<const AdamW*>(setup.optimizer.get());
    if (adamw == nullptr)
      throw UserError(
          "trainer: expected a halftone::AdamW, whose states can be offloaded, got another "
          "optimizer; leave memory.offload out");
    if (adamw->options().offload.empty())
      throw UserError(
          "trainer: memory.offload is set, but the AdamW of configure_optimizers() keeps its "
          "states in memory; give its options to MemoryPolicy::apply_to(), or set "
          "AdamWOptions::offload");
  }
}

// Computes the micro-batches of the last step once more, those with a bad loss first, each as it
// was computed then.
std::string FitLoop::origin_of_non_finite() {
  std::vector<std::size_t> order(micro_batches_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_partition(order.begin(), order.end(), [this](std::size_t i) {
    const torch::Tensor& loss = micro_batches_[i].loss;
    return loss.defined() && !loss.isfinite().all().item<bool>();
  });
  std::string found;
  for (const std::size_t i : order) {
    const auto origin = replayed(i);
    if (!origin) continue;
    found = to_string(*origin);
    if (order.size() > 1) found += fmt::format(", in micro-batch {} of {}", i + 1, order.size());
    break;
  }
  if (found.empty() && order.size() > 1)
    found = fmt::format(
        "each of the {} micro-batches has finite gradients, the sum of them is not finite",
        order.size());
  // What the module has counted and logged meanwhile belongs to no step.
  task_.module().take_tokens();
  task_.module().logged().take();
  return found;
}

std::optional<NonFiniteOrigin> FitLoop::replayed(std::size_t i) {
  const GeneratorScope generators(precision_.device(), micro_batches_[i].generators);
  return find_first_non_finite(network(), [&] {
    const auto number = static_cast<std::int64_t>(i);
    const auto region = precision_.forward_context(counters_.micro_step + number, options_.seed);
    const torch::Tensor loss = task_.training_step(number, precision_.batch_placement());
    const double weight = task_.loss_weight(number);
    return precision_.scaled(weight > 0.0 ? loss * (weight / std::ssize(micro_batches_)) : loss);
  });
}

void FitLoop::set_learning_rates(std::int64_t group) {
  for (std::size_t i = 0; i < setups_.size(); ++i) {
    if (!setups_[i].schedule) continue;
    LrScheduleOptions schedule = *setups_[i].schedule;
    halftone::set_learning_rates(*optimizers_[i], base_rates_[i], [&](double base) {
      schedule.lr = base;
      return length_.learning_rate(schedule, counters_, group);
    });
  }
}

void FitLoop::warn_of_warmup() const {
  double warmup = 0.0;
  for (const OptimizerSetup& setup : setups_)
    if (setup.schedule) warmup = std::max(warmup, setup.schedule->warmup);
  const std::optional<std::int64_t> planned = length_.total_steps();
  const bool planned_too_few = planned && static_cast<double>(*planned) <= warmup;
  if (!finished() && planned_too_few) warn_of_long_warmup(warmup, *planned);
  if (finished() && !planned_too_few) warn_of_long_warmup(warmup, counters_.step);
}

torch::Tensor FitLoop::loss_of(std::int64_t i) {
  micro_batches_.resize(static_cast<std::size_t>(i));  // the first one begins a step
  micro_batches_.push_back({.generators = rng_state(precision_.device())});
  const auto region = precision_.forward_context(counters_.micro_step + i, options_.seed);
  const torch::Tensor loss = task_.training_step(i, precision_.batch_placement());
  HALFTONE_CHECK(loss.defined() && loss.numel() == 1,
                 "[trainer] expected a scalar loss from training_step(), got ",
                 loss.defined() ? c10::str(loss.sizes()) : "an undefined tensor");
  micro_batches_.back().loss = loss.detach();
  return loss;
}

torch::Tensor FitLoop::accumulate_gradients(std::int64_t group) {
  torch::Tensor total = torch::zeros({}, torch::device(precision_.device()));
  // The weights do not change before the update: each is rounded once for all micro-batches.
  ComputeContext context = compute_context();
  if (group > 1) context.weight_cache = std::make_shared<WeightCache>();
  const ComputeScope scope(std::move(context));
  for (std::int64_t i = 0; i < group; ++i) {
    const torch::Tensor loss = loss_of(i);
    const double weight = task_.loss_weight(i);
    if (weight == 0.0) continue;  // the mean over nothing may be nan
    const double parts = static_cast<double>(group) / weight;
    precision_.backward(loss / parts);
    total += loss.detach().reshape({}) / parts;
  }
  return total;
}

FitLoop::Update FitLoop::update(std::int64_t group) {
  TrainingModuleBase& module = task_.module();
  if (!precision_.memory().release_gradients) {
    const torch::Tensor loss = accumulate_gradients(group);
    module.on_before_optimizer_step();
    const torch::Tensor host_loss = start_reading(loss);
    return {host_loss, precision_.step(optimizers_, options_.clip)};
  }
  task_.join_group();
  const torch::Tensor loss = loss_of(0);
  module.on_before_optimizer_step();
  const torch::Tensor host_loss = start_reading(loss);
  return {host_loss, precision_.backward_and_step(loss, optimizers_, options_.clip)};
}

// The optimizer step waits for the device: these numbers are on the host by then, at no wait of
// their own.
torch::Tensor FitLoop::start_reading(const torch::Tensor& loss) {
  task_.module().logged().start_reading();
  return loss.detach().to(torch::kCPU, /*non_blocking=*/true);
}

StepMetrics FitLoop::step(const std::function<void(StepMetrics&)>& record) {
  const Clock::time_point start = Clock::now();
  TrainingModuleBase& module = task_.module();
  StepMetrics metrics{.step = counters_.step + 1, .epoch = counters_.epochs + 1};
  const std::int64_t group = task_.load_group(options_.accumulate, options_.loss_average);
  set_learning_rates(group);
  for (const auto& optimizer : optimizers_) zero_grad(*optimizer);
  const auto [loss, result] = update(group);
  metrics.lr = optimizers_.front()->param_groups().front().options().get_lr();
  metrics.scale = precision_.loss_scale();
  metrics.tokens = module.take_tokens();
  metrics.logged = module.logged().take();
  const ScalerVerdict verdict = precision_.update();
  // Before the counters move: the search computes the last batch once more.
  const std::string origin = verdict.hopeless ? origin_of_non_finite() : "";

  ++counters_.step;
  counters_.micro_step += group;
  counters_.epochs = task_.epochs();
  if (result.stepped) counters_.schedule_step += length_.schedule_steps(group);
  counters_.tokens += metrics.tokens;
  metrics.loss = loss.item<double>();
  metrics.grad_norm = result.grad_norm;
  metrics.skipped = !result.stepped;
  metrics.overflow = result.overflow;
  metrics.underflow_share = precision_.underflow_share();
  finish_metrics(metrics, std::chrono::duration<double>(Clock::now() - start).count());
  if (record) record(metrics);
  if (verdict.hopeless)
    throw SystemError(origin.empty() ? verdict.reason : verdict.reason + "; " + origin);
  return metrics;
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
  AdamWBytes sum;
  for (const auto& optimizer : optimizers_) {
    const auto* const adamw = dynamic_cast<const AdamW*>(optimizer.get());
    if (adamw == nullptr) return;
    const AdamWBytes bytes = adamw->bytes();
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
                    {"micro_step", counters_.micro_step},
                    {"schedule_step", counters_.schedule_step},
                    {"tokens", counters_.tokens},
                    {"seconds", counters_.seconds},
                    {"precision", precision_.policy().name}};
  // A run without such matmuls (on a GPU, or of foreign layers) has no ways to go on with.
  if (const std::optional<CpuGemmConfig> ways = decided_matmul_paths())
    trainer.values[kMatmulPaths] = to_string(*ways);
  trainer.insert("scaler.", precision_.state_dict());
  trainer.insert("data.", task_.data_state());
  trainer.insert("rng.", rng_state(precision_.device()));
  return checkpoint;
}

void FitLoop::load_checkpoint(const Checkpoint& checkpoint) {
  const StateDict& trainer = checkpoint.trainer;
  const auto saved_precision = trainer.get<std::string>("precision");
  if (saved_precision != precision_.policy().name)
    throw UserError("the checkpoint was trained in precision '" + saved_precision +
                    "', but this run asks for '" + precision_.policy().name +
                    "'; resume with the run's own precision");
  task_.load_data_state(trainer.extract("data."));
  load_network_state(network(), checkpoint.model, "the checkpoint");
  if (optimizers_.size() == 1)
    load_optimizer_state(*optimizers_.front(), checkpoint.optimizer);
  else
    for (std::size_t i = 0; i < optimizers_.size(); ++i)
      load_optimizer_state(*optimizers_[i], checkpoint.optimizer.extract(optimizer_prefix(i)));
  precision_.load_state_dict(trainer.extract("scaler."));
  counters_ = {.step = trainer.get<std::int64_t>("step"),
               .micro_step = trainer.get<std::int64_t>("micro_step"),
               .epochs = task_.epochs(),
               .schedule_step = trainer.get<std::int64_t>("schedule_step"),
               .tokens = trainer.get<std::int64_t>("tokens"),
               .seconds = trainer.get<double>("seconds")};
  // Another GEMM is another order of summation, hence other bits.
  if (trainer.values.contains(kMatmulPaths))
    set_cpu_gemm_config(parse_cpu_gemm_config(trainer.get<std::string>(kMatmulPaths)));
  set_rng_state(precision_.device(), trainer.extract("rng."));
}

}  // namespace halftone
