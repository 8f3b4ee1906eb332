// SPDX-License-Identifier: Apache-2.0
#include "cli/eval_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cli/arguments.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/data/token_loader.h"
#include "halftone/dist/joined_processes.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/evaluate.h"
#include "halftone/pretrain/evaluation_sets.h"
#include "halftone/pretrain/inference_precision.h"
#include "halftone/pretrain/multiple_choice.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/run_weights.h"
#include "halftone/pretrain/trained_model.h"
#include "halftone/pretrain/validation.h"

namespace halftone::cli {
namespace {

struct EvalArguments {
  std::string model;    // run directory or Hugging Face folder; empty: --init-from
  std::string choices;  // file
  std::optional<std::string> weights;
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
  TrainedModel trained{.model = CausalLM(model), .tokenizer = tokenizer, .precision = "32-true"};
  weights.copy_to(trained.model);
  return trained;
}

// Where nothing else is asked for, with the layers that its training kept in another format.
InferencePrecision precision_of(const TrainConfig& config, TrainedModel& trained,
                                const std::vector<ConfigAssignment>& given,
                                const EvalArguments& arguments) {
  const bool is_given = was_given(given, "precision");
  InferencePrecision precision = inference_precision(
      trained.precision, is_given ? std::optional(config.precision) : std::nullopt,
      arguments.weights);
  if (is_given || arguments.weights) return precision;
  if (!trained.keep_fp32.empty()) keep_fp32(*trained.model, trained.keep_fp32);
  precision.layer_precision = trained.layer_precision;
  return precision;
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
  config.document_mask = trained.document_mask && config.pack;
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
  TokenizedData data = encode_corpus(corpus, config, trained.tokenizer);
  if (data.kind == SampleKind::kPreference)
    throw UserError("eval measures text and chats, but the data is preferences; name other --data");
  TokenLoaderOptions options = row_options(config);
  options.seq_len = seq_len;
  return TokenLoader(std::move(data), options);
}

/// What was measured.
struct EvalReport {
  std::vector<std::string> names;  // of the sets; empty: one that was not named
  std::vector<EvalResult> sets;
  std::optional<ChoiceResult> choices;
  std::string precision;
  std::string weights;
};

nlohmann::ordered_json json_of(const EvalResult& result) {
  return {{"loss", result.loss},
          {"perplexity", result.perplexity},
          {"bits_per_byte", result.bits_per_byte},
          {"tokens", result.tokens},
          {"text_bytes", result.bytes}};
}

nlohmann::ordered_json json_of(const ChoiceAccuracy& result) {
  nlohmann::ordered_json document = {{"accuracy", result.accuracy}, {"standard_error", nullptr}};
  if (result.standard_error) document["standard_error"] = *result.standard_error;
  return document;
}

nlohmann::ordered_json json_of(const ChoiceResult& result) {
  return {{"questions", result.questions},
          {"letter", json_of(result.letter)},
          {"text", json_of(result.text)},
          {"chance", result.chance},
          {"cut", result.cut},
          {"duration_s", result.seconds}};
}

std::string json_of(const EvalReport& report) {
  nlohmann::ordered_json document = nlohmann::ordered_json::object();
  double seconds = 0;
  if (!report.sets.empty()) document = json_of(total_of(report.sets));
  for (std::size_t i = 0; i < report.sets.size(); ++i) {
    seconds += report.sets[i].seconds;
    if (report.names.empty()) continue;
    nlohmann::ordered_json set = json_of(report.sets[i]);
    set["name"] = report.names[i];
    set["duration_s"] = report.sets[i].seconds;
    document["sets"].push_back(std::move(set));
  }
  if (report.choices) {
    document["choices"] = json_of(*report.choices);
    seconds += report.choices->seconds;
  }
  document["precision"] = report.precision;
  document["weights"] = report.weights;
  document["duration_s"] = seconds;
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string text_of(const ChoiceAccuracy& result) {
  return fmt::format("{:.2f} %{}", 100 * result.accuracy,
                     result.standard_error
                         ? fmt::format(" (standard error {:.2f})", 100 * *result.standard_error)
                         : "");
}

std::string text_of(const EvalReport& report) {
  std::string text;
  for (std::size_t i = 0; i < report.names.size(); ++i) {
    const EvalResult& set = report.sets[i];
    text +=
        fmt::format("{:<14} loss {:.4f}, perplexity {:.2f}, {:.4f} bits per byte, {} tokens ({})\n",
                    report.names[i], set.loss, set.perplexity, set.bits_per_byte, set.tokens,
                    format_bytes(static_cast<std::uint64_t>(set.bytes)));
  }
  if (!report.sets.empty()) {
    const EvalResult total = total_of(report.sets);
    text += fmt::format(
        "loss           {:.4f} nats a token\nperplexity     {:.2f}\nbits per byte  {:.4f}\n"
        "tokens         {} ({} of text, {}, {})\n",
        total.loss, total.perplexity, total.bits_per_byte, total.tokens,
        format_bytes(static_cast<std::uint64_t>(total.bytes)), report.precision,
        format_seconds(total.seconds));
  }
  if (report.choices)
    text += fmt::format(
        "questions      {} ({}, {})\nby letter      {}\nby text        {}\nchance         {:.2f} "
        "%\n",
        report.choices->questions, report.precision, format_seconds(report.choices->seconds),
        text_of(report.choices->letter), text_of(report.choices->text),
        100 * report.choices->chance);
  return text;
}

/// The texts of --data, one for each flag; none where it was not given.
std::vector<TextSet> sets_of(const std::vector<ConfigAssignment>& given) {
  std::vector<std::string> texts;
  for (const ConfigAssignment& one : given)
    if (one.key == "data") texts = std::get<std::vector<std::string>>(one.value);
  return parse_text_sets(texts);
}

/// A model that is ready, and how text is read for it.
struct Evaluation {
  TrainedModel& trained;
  const InferenceModel& inference;
  const TrainConfig& config;
  std::int64_t seq_len;
  std::vector<std::int64_t> token_bytes;
};

EvalResult evaluate_text(const Evaluation& evaluation, Corpus corpus,
                         const std::function<void(double share)>& on_progress) {
  const TokenLoader loader =
      open_data(std::move(corpus), evaluation.config, evaluation.trained, evaluation.seq_len);
  return evaluate(evaluation.trained.model, loader, evaluation.inference.precision(),
                  evaluation.token_bytes, on_progress, joined_processes().get());
}

void evaluate_sets(const Evaluation& evaluation, const std::vector<TextSet>& sets,
                   EvalReport& report) {
  ShareProgress progress("evaluating");
  const bool is_named = sets.size() > 1 || sets.front().is_named;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    TrainConfig config = evaluation.config;
    config.data = {sets[i].path};
    const auto show = [&](double share) {
      progress.show((static_cast<double>(i) + share) / static_cast<double>(sets.size()));
    };
    report.sets.push_back(evaluate_text(evaluation, open_corpus(config, std::nullopt), show));
    if (is_named) report.names.push_back(sets[i].name);
  }
  progress.clear();
}

void evaluate_choices(const Evaluation& evaluation, const std::vector<ChoiceQuestion>& questions,
                      EvalReport& report) {
  ShareProgress progress("answering");
  report.choices =
      score_choices(evaluation.trained.model, evaluation.trained.tokenizer, questions,
                    evaluation.inference.precision(), [&](double share) { progress.show(share); });
  progress.clear();
  if (report.choices->cut > 0)
    log_note(fmt::format(
        "the beginning of {} does not fit into the model's context and was left out",
        counted(static_cast<std::uint64_t>(report.choices->cut), "question", "questions")));
}

void run_eval(const EvalArguments& arguments, const ConfigArguments& flags) {
  const std::vector<ConfigAssignment> given = flags.assignments();
  const bool has_run = !arguments.model.empty();
  if (has_run) check_no_model_flags(arguments.model, given);
  // A run brings its own model, whose limits hold: those of the default preset say nothing.
  TrainConfig config = has_run ? merge_config(given) : resolve_config(given);
  const std::vector<TextSet> sets = sets_of(given);
  std::vector<ChoiceQuestion> questions;
  if (!arguments.choices.empty()) questions = read_choices(arguments.choices);
  std::optional<TrainConfig> run;  // whose text is taken
  if (sets.empty() && questions.empty()) {
    run = validated_run(arguments.model);
    if (!run) require_data(config, "evaluate on");
  }
  if (arguments.weights) parse_weight_storage(*arguments.weights);  // before a model is loaded
  const torch::Device device = resolve_device(config.device);
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  TrainedModel trained = open_model(arguments, config);
  read_text_as_trained(config, trained, given);
  const InferenceModel inference(trained.model, precision_of(config, trained, given, arguments),
                                 device);
  if (arguments.weights) note_inference(inference, trained.precision);
  const Evaluation evaluation{
      .trained = trained,
      .inference = inference,
      .config = config,
      .seq_len = row_length(config, trained, given),
      .token_bytes = token_bytes(trained.tokenizer, trained.model->config().vocab_size)};
  EvalReport report{.precision = inference.precision().policy().name,
                    .weights = std::string(to_string(inference.weights()))};
  if (!sets.empty()) evaluate_sets(evaluation, sets, report);
  if (run) {
    ShareProgress progress("evaluating");
    report.sets.push_back(evaluate_text(evaluation, validation_text(*run),
                                        [&](double share) { progress.show(share); }));
    progress.clear();
  }
  if (!questions.empty()) evaluate_choices(evaluation, questions, report);
  // Of several processes, which have shared the text, one says it.
  const auto processes = joined_processes();
  if (!processes || processes->rank() == 0)
    print(arguments.json ? json_of(report) : text_of(report));
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("eval", "Measure loss, perplexity and bits per byte on text, or answers");
  auto arguments = std::make_shared<EvalArguments>();
  command
      ->add_option("RUN", arguments->model,
                   "Run directory, its best checkpoint (RUN/best), one of RUN/checkpoints, or "
                   "Hugging Face folder")
      ->type_name("");
  auto flags = std::make_shared<ConfigArguments>(*command, kEvalKeys);
  for (const auto& [flag, text] : std::map<std::string, std::string>{
           {"--data",
            "What to evaluate on: text or fortune files, .jsonl, folders, as PATH or NAME=PATH; "
            "repeatable, each a set of its own (default: what the run is validated on)"},
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
  command
      ->add_option("--choices", arguments->choices,
                   "Multiple-choice questions to answer: a .jsonl file of {\"question\", \"A\", "
                   "\"B\", \"C\", \"D\", \"answer\"} (C-Eval's form)")
      ->type_name("FILE");
  command
      ->add_option("--weights", arguments->weights,
                   "Hold weights in fp32, bf16, fp16 or int8 (default: as the precision does)")
      ->type_name("FORMAT");
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  command->footer(
      "Examples:\n"
      "  halftone eval runs/quickstart --data poems.txt\n"
      "  halftone eval runs/quickstart --data poems.txt --precision 16-mixed --json\n"
      "  halftone eval runs/quickstart --data tang=tang.txt --data song=song.txt --weights int8\n"
      "  halftone eval runs/chat --choices questions.jsonl\n"
      "  halftone eval runs/poems/best    # on what the run is validated on\n"
      "  halftone eval --init-from model.safetensors --tokenizer tokenizer.json --preset "
      "minimind-26m --data poems.txt");
  command->callback([arguments, flags] { run_eval(*arguments, *flags); });
}

}  // namespace halftone::cli
