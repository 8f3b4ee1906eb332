// SPDX-License-Identifier: Apache-2.0
#include "cli/eval_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/program.h"
#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/data/batch_loader.h"
#include "halftone/data/corpus.h"
#include "halftone/train/evaluate.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/trained_model.h"

namespace halftone::cli {
namespace {

struct EvalArguments {
  std::string model;  // run directory or Hugging Face folder; empty: --init-from
  bool json = false;
};

/// Keys that mean something without a training run. All others of the configuration are refused.
const std::vector<std::string> kTrainingKeys = {"CONFIG.toml",
                                                "tokenizer_vocab_size",
                                                "shuffle",
                                                "rounding",
                                                "loss_scale",
                                                "accumulate",
                                                "lr",
                                                "schedule",
                                                "warmup",
                                                "weight_decay",
                                                "grad_clip",
                                                "max_steps",
                                                "max_epochs",
                                                "max_time",
                                                "out",
                                                "overwrite",
                                                "log_every",
                                                "save_every",
                                                "keep_checkpoints",
                                                "scaler.init_scale",
                                                "scaler.growth_factor",
                                                "scaler.backoff_factor",
                                                "scaler.growth_interval",
                                                "scaler.hysteresis",
                                                "scaler.min_scale",
                                                "scaler.max_scale"};

bool was_given(const std::vector<ConfigAssignment>& assignments, const std::string& key) {
  return std::any_of(assignments.begin(), assignments.end(),
                     [&](const ConfigAssignment& assignment) { return assignment.key == key; });
}

TrainedModel open_model(const EvalArguments& arguments, const TrainConfig& config) {
  if (!arguments.model.empty()) return load_trained_model(arguments.model);
  if (config.init_from.empty() || config.tokenizer.empty())
    throw UserError(
        "expected a model: a run directory, a Hugging Face folder, or --init-from FILE with "
        "--tokenizer PATH");
  Tokenizer tokenizer = Tokenizer::load(config.tokenizer);
  ModelConfig model = config.model;
  if (model.vocab_size == 0) model.vocab_size = tokenizer.vocab_size();
  TrainedModel trained{.model = MiniMindLM(model), .tokenizer = tokenizer, .precision = "32-true"};
  initialize_from(trained.model, config.init_from);
  return trained;
}

BatchLoader open_data(const TrainConfig& config, const TrainedModel& trained, bool seq_len_given) {
  Corpus corpus({.paths = {config.data.begin(), config.data.end()},
                 .split_paragraphs = !config.pack,
                 .replace_invalid_utf8 = config.invalid_utf8 == "replace"});
  const std::int64_t seq_len =
      seq_len_given || trained.seq_len == 0 ? config.seq_len : trained.seq_len;
  return BatchLoader(
      tokenize_corpus(corpus, tokenizer_interface(trained.tokenizer)),
      {.batch_size = config.batch_size, .seq_len = seq_len, .pack = config.pack, .shuffle = false});
}

void print_result(const EvalResult& result, const std::string& precision, bool json) {
  if (json) {
    const nlohmann::ordered_json document = {{"loss", result.loss},
                                             {"perplexity", result.perplexity},
                                             {"bits_per_byte", result.bits_per_byte},
                                             {"tokens", result.tokens},
                                             {"text_bytes", result.bytes},
                                             {"precision", precision},
                                             {"duration_s", result.seconds}};
    print(document.dump() + "\n");
    return;
  }
  print(fmt::format(
      "loss           {:.4f} nats a token\nperplexity     {:.2f}\nbits per byte  {:.4f}\n"
      "tokens         {} ({} of text, {}, {})\n",
      result.loss, result.perplexity, result.bits_per_byte, result.tokens,
      format_bytes(static_cast<std::uint64_t>(result.bytes)), precision,
      format_seconds(result.seconds)));
}

void run_eval(const EvalArguments& arguments, const ConfigArguments& flags) {
  const std::vector<ConfigAssignment> given = flags.assignments();
  const TrainConfig config = resolve_config(given);
  require_data(config);
  const torch::Device device = resolve_device(config.device);
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  TrainedModel trained = open_model(arguments, config);
  MixedPrecision precision(
      parse_precision(was_given(given, "precision") ? config.precision : trained.precision), {},
      device);
  precision.convert_module(*trained.model);
  const BatchLoader loader = open_data(config, trained, was_given(given, "seq_len"));
  const EvalResult result =
      evaluate(trained.model, loader, precision,
               token_bytes(trained.tokenizer, trained.model->config().vocab_size));
  print_result(result, precision.policy().name, arguments.json);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("eval", "Measure loss, perplexity and bits per byte on text");
  auto arguments = std::make_shared<EvalArguments>();
  command
      ->add_option("run", arguments->model,
                   "Run directory, or Hugging Face folder of a MiniMind model")
      ->type_name("RUN");
  auto flags = std::make_shared<ConfigArguments>(*command, kTrainingKeys);
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  command->footer(
      "Examples:\n"
      "  halftone eval runs/quickstart --data poems.txt\n"
      "  halftone eval runs/quickstart --data poems.txt --precision 16-mixed --json\n"
      "  halftone eval --init-from model.safetensors --tokenizer tokenizer.json --preset "
      "minimind-26m --data poems.txt");
  command->callback([arguments, flags] { run_eval(*arguments, *flags); });
}

}  // namespace halftone::cli
