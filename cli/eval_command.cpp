// SPDX-License-Identifier: Apache-2.0
#include "cli/eval_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/arguments.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/data/token_loader.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/evaluate.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/run_weights.h"
#include "halftone/pretrain/trained_model.h"
#include "halftone/pretrain/validation.h"
#include "halftone/train/mixed_precision.h"

namespace halftone::cli {
namespace {

struct EvalArguments {
  std::string model;  // run directory or Hugging Face folder; empty: --init-from
  bool json = false;
};

/// Keys of the configuration that mean something without a training run.
const std::vector<std::string> kEvalKeys = {
    "data",   "pack",      "invalid_utf8", "special_tokens", "batch_size", "seq_len",  "preset",
    "model.", "init_from", "tokenizer",    "device",         "threads",    "precision"};

// What a run or a Hugging Face folder says itself: ignoring a flag in silence would mislead.
void check_no_model_flags(const std::string& model, const std::vector<ConfigAssignment>& given) {
  for (const ConfigAssignment& one : given)
    if (one.key == "preset" || one.key == "init_from" || one.key == "tokenizer" ||
        one.key.starts_with("model."))
      throw UserError(fmt::format(
          "{} is for --init-from without RUN, but RUN is '{}'; leave out one", one.place, model));
}

TrainedModel open_model(const EvalArguments& arguments, const TrainConfig& config) {
  if (!arguments.model.empty()) return load_trained_model(arguments.model);
  if (config.init_from.empty() || config.tokenizer.empty())
    throw UserError(
        "expected a model: RUN (a run directory or a Hugging Face folder), or --init-from FILE "
        "with "
        "--tokenizer PATH and the --model flags it was made with");
  Tokenizer tokenizer = Tokenizer::load(config.tokenizer);
  ModelConfig model = config.model;
  if (model.vocab_size == 0) model.vocab_size = tokenizer.vocab_size();
  const InitialWeights weights(config.init_from);
  weights.check(model);  // before memory is asked for
  TrainedModel trained{.model = MiniMindLM(model), .tokenizer = tokenizer, .precision = "32-true"};
  weights.copy_to(trained.model);
  return trained;
}

// With the layers that its training kept in another format.
MixedPrecision precision_of_training(TrainedModel& trained, torch::Device device) {
  if (!trained.keep_fp32.empty()) keep_fp32(*trained.model, trained.keep_fp32);
  return MixedPrecision(parse_precision(trained.precision), {}, device, {},
                        trained.layer_precision);
}

// The length of a row: what was asked for, else that of the run's training.
std::int64_t row_length(const TrainConfig& config, const TrainedModel& trained,
                        const std::vector<ConfigAssignment>& given) {
  const ModelConfig& model = trained.model->config();
  if (was_given(given, "seq_len")) {
    check_seq_len(config.seq_len, model, "--seq-len");
    return config.seq_len;
  }
  return trained.seq_len > 0 ? trained.seq_len : std::min(config.seq_len, model.max_seq_len);
}

// What was not asked for is done as in the run's training, so that the losses can be compared.
void read_text_as_trained(TrainConfig& config, const TrainedModel& trained,
                          const std::vector<ConfigAssignment>& given) {
  if (!was_given(given, "pack")) config.pack = trained.pack;
  if (!was_given(given, "invalid_utf8")) config.invalid_utf8 = trained.invalid_utf8;
  if (!was_given(given, "special_tokens")) config.special_tokens = trained.special_tokens;
}

/// The configuration of the run that the model is of, if it was validated.
std::optional<TrainConfig> validated_run(const std::string& model) {
  const auto weights = model.empty() ? std::nullopt : find_run_weights(model);
  if (!weights) return std::nullopt;
  TrainConfig config = resume_config(weights->run, {});
  return has_validation(config) ? std::optional(std::move(config)) : std::nullopt;
}

/// `corpus` as rows.
TokenLoader open_data(Corpus corpus, const TrainConfig& config, const TrainedModel& trained,
                      std::int64_t seq_len) {
  return TokenLoader(
      encode_corpus(corpus, config, trained.tokenizer),
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
  const bool has_run = !arguments.model.empty();
  if (has_run) check_no_model_flags(arguments.model, given);
  // A run brings its own model, whose limits hold: those of the default preset say nothing.
  TrainConfig config = has_run ? merge_config(given) : resolve_config(given);
  std::optional<TrainConfig> run;  // whose text is taken
  if (config.data.empty()) run = validated_run(arguments.model);
  if (!run) require_data(config, "evaluate on");
  const torch::Device device = resolve_device(config.device);
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  TrainedModel trained = open_model(arguments, config);
  read_text_as_trained(config, trained, given);
  MixedPrecision precision = was_given(given, "precision")
                                 ? MixedPrecision(parse_precision(config.precision), {}, device)
                                 : precision_of_training(trained, device);
  precision.convert_module(*trained.model);
  const TokenLoader loader = open_data(run ? validation_text(*run) : open_corpus(config), config,
                                       trained, row_length(config, trained, given));
  ShareProgress progress("evaluating");
  const EvalResult result =
      evaluate(trained.model, loader, precision,
               token_bytes(trained.tokenizer, trained.model->config().vocab_size),
               [&](double share) { progress.show(share); });
  progress.clear();
  print_result(result, precision.policy().name, arguments.json);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("eval", "Measure loss, perplexity and bits per byte on text");
  auto arguments = std::make_shared<EvalArguments>();
  command
      ->add_option("RUN", arguments->model,
                   "Run directory, its best checkpoint (RUN/best), one of RUN/checkpoints, or "
                   "Hugging Face folder of a MiniMind model")
      ->type_name("");
  auto flags = std::make_shared<ConfigArguments>(*command, kEvalKeys);
  for (const auto& [flag, text] : std::map<std::string, std::string>{
           {"--data",
            "What to evaluate on: text or fortune files, .jsonl, folders; repeatable (default: "
            "what "
            "the run is validated on)"},
           {"--precision", "Compute in this precision (default: the run's)"},
           {"--seq-len", "Tokens of a row (default: the run's)"},
           {"--special-tokens",
            "How to read special tokens, such as </s>, that the text spells (default: the run's)"},
           {"--pack", "Rows run on across documents; false: a row a document (default: the run's)"},
           {"--invalid-utf8", "What to do with text that isn't UTF-8 (default: the run's)"},
           {"--device", "Where to compute; auto: a GPU if there is one [auto]"},
           {"--tokenizer", "tokenizer.json that goes with --init-from"},
           {"--init-from",
            "Weights to evaluate, without RUN; --preset and --model.* must fit them"}})
    command->get_option(flag)->description(text);
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  command->footer(
      "Examples:\n"
      "  halftone eval runs/quickstart --data poems.txt\n"
      "  halftone eval runs/quickstart --data poems.txt --precision 16-mixed --json\n"
      "  halftone eval runs/poems/best    # on what the run is validated on\n"
      "  halftone eval --init-from model.safetensors --tokenizer tokenizer.json --preset "
      "minimind-26m --data poems.txt");
  command->callback([arguments, flags] { run_eval(*arguments, *flags); });
}

}  // namespace halftone::cli
