// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/pretrain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/dtype.h"
#include "halftone/core/log.h"
#include "halftone/core/process_group.h"
#include "halftone/core/text.h"
#include "halftone/dist/joined_processes.h"
#include "halftone/dist/process_place.h"
#include "halftone/io/safetensors.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/auto_precision.h"
#include "halftone/pretrain/config_file.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/plan_request.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/validation.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/early_stopping.h"
#include "halftone/train/layer_statistics.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/run_report.h"
#include "halftone/train/tensorboard_logger.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

/// "native, attention=upcast": the ways of the 16-bit format that is computed in on a CPU.
std::string matmul_paths_of(const TrainConfig& config, torch::Device device) {
  const torch::ScalarType compute = policy_of(config).compute_dtype();
  if (!is_half(compute) || !device.is_cpu()) return "";
  return to_string(without_convolutions(cpu_gemm_config().of(compute)));
}

std::int64_t learning_parameters(const CausalLM& model) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : model->parameters())
    if (parameter.requires_grad()) count += parameter.numel();
  return count;
}

/// What a run is trained and validated on.
struct RunData {
  PretrainInputs inputs;
  std::optional<ValidationData> validation;
};

using StartObserver = std::function<void(const RunSummary&)>;

/// Puts the tokenizer into the run, says what is about to be trained, and keeps the result.
class PretrainRecord : public Callback {
 public:
  PretrainRecord(const TrainConfig& config, const RunData& data, LanguageModeling& module,
                 const StartObserver& on_start)
      : config_(config),
        inputs_(data.inputs),
        validation_(data.validation),
        module_(module),
        on_start_(on_start) {}

  void on_fit_start(Trainer& trainer) override {
    on_process_zero(trainer.processes(), [&] { complete_run(trainer.run_directory()->paths()); });
    if (!trainer.is_global_zero()) return;
    if (trainer.loop().finished())
      log_note("the run has reached its limits; raise max_steps, max_epochs or max_time to go on");
    if (on_start_) on_start_(plan(trainer));
  }

  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    if (!result_.first_loss) result_.first_loss = metrics.loss;
    result_.last_loss = metrics.loss;
    result_.skipped_steps += metrics.skipped ? 1 : 0;
  }

  void on_fit_end(Trainer& trainer) override {
    result_.stopped = trainer.stopped();
    const RunCounters& counters = trainer.loop().counters();
    result_.steps = counters.step;
    result_.tokens = counters.tokens;
    result_.seconds = counters.seconds;
  }

  const PretrainResult& result() const { return result_; }

 private:
  void complete_run(const RunPaths& run) const {
    if (!std::filesystem::exists(run.tokenizer())) inputs_.tokenizer.save(run.root);
    const std::filesystem::path reference = reference_weights(run.root);
    if (module_.has_reference() && !std::filesystem::exists(reference))
      save_safetensors(reference, parameters_of(module_.reference()).tensors);
  }

  RunSummary plan(const Trainer& trainer) {
    const FitLoop& loop = trainer.loop();
    return {.run = config_.out,
            .parameters = parameter_count(module_.model()),
            .trained_parameters = learning_parameters(module_.model()),
            .vocab_size = inputs_.model.vocab_size,
            .training_tokens = static_cast<std::int64_t>(inputs_.data.tokens->size()),
            .batches_per_epoch = loop.length().batches_per_epoch().value_or(0),
            .total_steps = loop.length().total_steps(),
            .first_step = loop.counters().step + 1,
            .precision = policy_of(config_).name,
            .device = inputs_.device.str(),
            .threads = torch::get_num_threads(),
            .matmul_paths = matmul_paths_of(config_, inputs_.device),
            .validation_tokens =
                validation_ ? static_cast<std::int64_t>(validation_->data.tokens->size()) : 0,
            .validation_every = validation_interval(config_)};
  }

  const TrainConfig& config_;
  const PretrainInputs& inputs_;
  const std::optional<ValidationData>& validation_;
  LanguageModeling& module_;
  const StartObserver& on_start_;
  PretrainResult result_;
};

/// What the report's head says first.
std::vector<RunDescription::Fact> report_facts(const TrainConfig& config, const RunData& data,
                                               LanguageModeling& module) {
  const PretrainInputs& inputs = data.inputs;
  std::vector<RunDescription::Fact> facts = {
      {"model", fmt::format("{} ({} parameters, vocabulary {})", config.preset,
                            short_count(static_cast<double>(parameter_count(module.model()))),
                            inputs.model.vocab_size)},
      {"data", fmt::format("{} tokens an epoch",
                           short_count(static_cast<double>(inputs.data.tokens->size())))},
      {"step", fmt::format("{} row{} of {} tokens{}", config.batch_size,
                           config.batch_size == 1 ? "" : "s", config.seq_len,
                           config.accumulate > 1
                               ? fmt::format(" in each of {} micro-batches", config.accumulate)
                               : "")}};
  if (config.lora.rank > 0)
    facts.push_back(
        {"adapters",
         fmt::format("rank {}, alpha {}, of {} ({} parameters are trained)", config.lora.rank,
                     lora_alpha(config.lora), fmt::join(lora_targets(config.lora), ", "),
                     short_count(static_cast<double>(learning_parameters(module.model()))))});
  if (data.validation)
    facts.push_back(
        {"validation", fmt::format("{} tokens", short_count(static_cast<double>(
                                                    data.validation->data.tokens->size())))});
  if (const std::string ways = matmul_paths_of(config, inputs.device); !ways.empty())
    facts.push_back({"16-bit matmuls", ways});
  return facts;
}

/// Words that give the run the same kernels again, also where environment variables chose them.
KernelConfig kernels_in_force(KernelConfig kernels) {
  if (const std::optional<CpuGemmConfig> ways = decided_matmul_paths())
    kernels.matmul = to_string(*ways);
  kernels.reference = reference_kernels();
  kernels.cpu_gemm = fast_cpu_gemms();
  return kernels;
}

/// Steps between two samples of the layers; 0: chosen by itself.
std::int64_t watch_interval(const TrainConfig& config) {
  return static_cast<std::int64_t>(parse_number(config.watch).value_or(0.0));
}

/// The callbacks that look at what is validated, and what they have seen.
struct Watchers {
  std::shared_ptr<ModelCheckpoint> checkpoint;
  std::shared_ptr<EarlyStopping> early_stopping;  // if it may end the run

  void add_to(PretrainResult& result, const Trainer& trainer) const {
    if (const auto best = checkpoint->best()) result.best = {best->step, best->value};
    result.ended_early =
        early_stopping && early_stopping->ends_run() && !trainer.stop_signal().has_value();
    if (result.ended_early) result.stopped = false;
  }
};

Watchers make_watchers(const TrainConfig& config) {
  ModelCheckpointOptions saving{.every_n_steps = config.save_every,
                                .every_n_epochs = 0,
                                .keep_last = config.keep_checkpoints};
  if (has_validation(config)) saving.monitor = kValidationLoss;
  Watchers watchers{.checkpoint = std::make_shared<ModelCheckpoint>(std::move(saving))};
  if (config.early_stop > 0)
    watchers.early_stopping = std::make_shared<EarlyStopping>(
        EarlyStoppingOptions{.monitor = kValidationLoss,
                             .patience = config.early_stop,
                             .check_finite = false,  // it may be finite again
                             .patience_name = "early_stop"});
  return watchers;
}

RunData prepare_alone(const TrainConfig& config, std::optional<Tokenizer> tokenizer,
                      const PreparationProgress& progress) {
  std::optional<Corpus> own_text = open_validation_text(config);
  PretrainInputs inputs = prepare_pretraining(config, std::move(tokenizer), progress);
  auto validation = make_validation_data(config, inputs, std::move(own_text), progress);
  return {std::move(inputs), std::move(validation)};
}

// What is missing here is said before other processes, which may be on other nodes, are waited for.
void check_text(const TrainConfig& config) {
  if (!find_process_place().is_alone()) static_cast<void>(open_corpus(config));
}

/// What process 0 has made, such as the tokens of a text, the others find in the cache.
RunData prepare(const TrainConfig& config, const std::optional<Tokenizer>& tokenizer,
                const PreparationProgress& progress) {
  const std::shared_ptr<ProcessGroup> processes = joined_processes();
  std::optional<RunData> data;
  on_process_zero(processes.get(), [&] { data = prepare_alone(config, tokenizer, progress); });
  return data ? std::move(*data) : prepare_alone(config, tokenizer, {});
}

/// The precision that process 0 has measured to be the fastest is that of all.
TrainConfig choose_together(const TrainConfig& config, const RunData& data,
                            const PreparationProgress& progress) {
  const std::shared_ptr<ProcessGroup> processes = joined_processes();
  std::string precision = config.precision;
  on_process_zero(processes.get(), [&] {
    precision = with_chosen_precision(config, data.inputs, progress).precision;
  });
  if (processes) precision = processes->all_gather(precision).front();
  return precision == config.precision ? config : in_precision(config, precision);
}

/// Those of the run beside the first, `record`, in the order in which they are called.
std::vector<std::shared_ptr<Callback>> callbacks_of(const TrainConfig& config, const RunData& data,
                                                    LanguageModeling& module,
                                                    const Watchers& watchers) {
  std::vector<std::shared_ptr<Callback>> callbacks;
  if (config.watch != "off")
    callbacks.push_back(std::make_shared<LayerStatistics>(
        LayerStatisticsOptions{.every_n_steps = watch_interval(config)}));
  if (data.validation)
    callbacks.push_back(std::make_shared<ValidationRecord>(module, *data.validation));
  if (watchers.early_stopping) callbacks.push_back(watchers.early_stopping);
  callbacks.push_back(watchers.checkpoint);
  callbacks.push_back(std::make_shared<RunReport>(report_facts(config, data, module)));
  return callbacks;
}

TrainerOptions options_of(const TrainConfig& config, const PretrainInputs& inputs) {
  TrainConfig resolved = config;
  resolved.model = inputs.model;
  resolved.kernels = kernels_in_force(config.kernels);
  TrainerOptions options = trainer_options_for(config);
  set_validation_times(options, config);
  if (config.tensorboard) options.loggers = {std::make_shared<TensorBoardLogger>()};
  options.log_every_n_steps = config.log_every;
  options.default_root_dir = config.out;
  options.overwrite = config.overwrite;
  options.config_toml = config_to_toml(resolved);
  return options;
}

const char* rows_name(const TrainConfig& config) {
  if (config.task == "dpo") return "pairs of chats";
  return config.pack ? "rows" : "chats";
}

PretrainResult fit(const TrainConfig& config, RunData& data, const PretrainOptions& options,
                   const FitOptions& how) {
  check_memory_budget(config, data.inputs.model);
  if (const std::string names = reference_kernels(); !names.empty())
    log_note(fmt::format("reference kernels: {} as ordinary LibTorch operations", names));
  TrainConfig initial = config;
  if (how.resume) initial.init_from.clear();  // its weights are in the checkpoint by now
  LanguageModeling module = make_module(initial, data.inputs);
  TokenLoader loader = make_loader(config, data.inputs);
  if (const std::int64_t count = loader.rows_left_out(); count > 0)
    log_note(fmt::format("{} of {} {} have no answer within seq_len {} and are left out", count,
                         count + loader.rows(), rows_name(config), config.seq_len));
  const auto record = std::make_shared<PretrainRecord>(config, data, module, options.on_start);
  const Watchers watchers = make_watchers(config);
  TrainerOptions trainer_options = options_of(config, data.inputs);
  trainer_options.callbacks = {record};
  for (const auto& others : {options.callbacks, callbacks_of(config, data, module, watchers)})
    trainer_options.callbacks.insert(trainer_options.callbacks.end(), others.begin(), others.end());
  Trainer trainer(std::move(trainer_options));
  if (data.validation)
    trainer.fit(module, loader, data.validation->loader, how);
  else
    trainer.fit(module, loader, how);
  PretrainResult result = record->result();
  watchers.add_to(result, trainer);
  return result;
}

/// A run that has no checkpoint yet.
PretrainResult begin(const TrainConfig& config, const PretrainOptions& options,
                     const FitOptions& how) {
  RunData data = prepare(config, std::nullopt, options.on_preparation);
  const TrainConfig chosen = choose_together(config, data, options.on_preparation);
  return fit(chosen, data, options, how);
}

}  // namespace

PretrainResult pretrain(const TrainConfig& config, const PretrainOptions& options) {
  check_text(config);
  on_process_zero(joined_processes().get(), [&] {
    check_new_run(config.out, config.overwrite ? ExistingRun::kReplace : ExistingRun::kRefuse);
  });
  return begin(config, options, {});
}

PretrainResult restart_pretraining(const TrainConfig& config, const PretrainOptions& options) {
  check_text(config);
  on_process_zero(joined_processes().get(),
                  [&] { check_new_run(config.out, ExistingRun::kRestart); });
  return begin(config, options, {.resume_or_start = true});
}

PretrainResult resume_pretraining(const TrainConfig& config, const PretrainOptions& options) {
  check_text(config);
  const RunPaths run = find_run(config.out);
  TrainConfig goes_on = config;
  goes_on.init_from.clear();  // the checkpoint has its weights: the file may be gone
  RunData data = prepare(goes_on, Tokenizer::load(run.root), options.on_preparation);
  return fit(config, data, options, {.resume = true});
}

}  // namespace halftone
