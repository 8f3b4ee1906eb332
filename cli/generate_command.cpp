// SPDX-License-Identifier: Apache-2.0
#include "cli/generate_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/generate_modes.h"
#include "cli/program.h"
#include "halftone/halftone.h"

namespace halftone::cli {
namespace {

void check_modes(const GenerateArguments& arguments) {
  if (!arguments.prompts.empty() && arguments.prompt)
    throw UserError(
        "--prompt and --prompts: expected one of them; give the text to continue, or "
        "the file of such texts");
  if (!arguments.system.empty() && !arguments.chat)
    throw UserError("--system is for --chat; leave it out, or add --chat");
  if (arguments.batch_size && arguments.prompts.empty())
    throw UserError("--batch-size is for --prompts FILE; leave it out, or name a file");
  if (arguments.batch_size && *arguments.batch_size < 1)
    throw UserError(
        fmt::format("--batch-size: expected a positive integer, got {}", *arguments.batch_size));
  for (const auto& [flag, text] :
       {std::pair("--prompt", arguments.prompt.value_or("")), {"--system", arguments.system}})
    if (const auto offset = find_invalid_utf8(text))
      throw UserError(fmt::format(
          "{} is not UTF-8: byte {} breaks it; convert it first (iconv -t UTF-8)", flag, *offset));
}

// Before anything is loaded or printed.
void check(const GenerateArguments& arguments) {
  constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();
  const SamplingOptions& sampling = arguments.sampling;
  if (!(sampling.temperature > 0.0))
    throw UserError(fmt::format(
        "--temperature: expected a number above 0, got {}; --greedy takes the likeliest token",
        sampling.temperature));
  if (!(sampling.top_p > 0.0 && sampling.top_p <= 1.0))
    throw UserError(
        fmt::format("--top-p: expected a number above 0 and at most 1, got {}", sampling.top_p));
  if (sampling.max_new_tokens < 1 || sampling.max_new_tokens > kMostTokens)
    throw UserError(fmt::format("--max-new-tokens: expected an integer from 1 to {}, got {}",
                                kMostTokens, sampling.max_new_tokens));
  if (arguments.seed.value_or(0) < 0)
    throw UserError(
        fmt::format("--seed: expected an integer that is 0 or more, got {}", *arguments.seed));
  check_modes(arguments);
}

void run_generate(GenerateArguments arguments, const ConfigArguments& flags) {
  check(arguments);
  const std::vector<ConfigAssignment> given = flags.assignments();
  const TrainConfig config = resolve_config(given);
  if (arguments.weights) parse_weight_storage(*arguments.weights);  // before a model is loaded
  const torch::Device device = resolve_device(config.device);
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  TrainedModel trained = load_trained_model(arguments.run);
  const InferenceModel inference(
      trained.model,
      inference_precision(
          trained.precision,
          was_given(given, "precision") ? std::optional(config.precision) : std::nullopt,
          arguments.weights),
      device);
  note_inference(inference, trained.precision);
  if (!arguments.seed && !arguments.sampling.greedy)
    log_note(fmt::format("--seed {} writes this text again",
                         arguments.seed.emplace(std::random_device{}())));
  arguments.sampling.seed = static_cast<std::uint64_t>(arguments.seed.value_or(0));
  arguments.sampling.eos = trained.tokenizer.special_tokens().eos;
  const Writer writer{trained, inference, special_token_parsing(config)};
  if (!arguments.prompts.empty()) return write_all(writer, arguments);
  return arguments.chat && !arguments.prompt ? converse(writer, arguments)
                                             : write_one(writer, arguments);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Let a trained model write");
  auto arguments = std::make_shared<GenerateArguments>();
  command
      ->add_option("RUN", arguments->run,
                   "Run directory, its best checkpoint (RUN/best), one of RUN/checkpoints, or "
                   "Hugging Face folder")
      ->required()
      ->type_name("");
  command->add_option("--prompt", arguments->prompt, "Text to continue; empty: start from nothing")
      ->type_name("TEXT");
  command
      ->add_option("--prompts", arguments->prompts,
                   "A prompt on each line, or a .jsonl file of {\"prompt\"}; several at once")
      ->type_name("FILE");
  command
      ->add_option("--batch-size", arguments->batch_size, "Prompts that are extended at once [8]")
      ->type_name("N");
  command->add_flag("--chat", arguments->chat,
                    "Prompts are questions in the model's chat format; without any, a conversation "
                    "on standard input, a line a turn");
  command->add_option("--system", arguments->system, "System text of the chat")->type_name("TEXT");
  command
      ->add_option("--max-new-tokens", arguments->sampling.max_new_tokens,
                   "Longest text, in tokens")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--temperature", arguments->sampling.temperature,
                   "Below 1: safer, above 1: wilder")
      ->type_name("X")
      ->capture_default_str();
  command
      ->add_option("--top-p", arguments->sampling.top_p,
                   "Sample from the likeliest tokens with this share of the probability")
      ->type_name("X")
      ->capture_default_str();
  command->add_flag("--greedy", arguments->sampling.greedy, "Always take the likeliest token");
  command
      ->add_option("--seed", arguments->seed,
                   "Same seed, same text (default: another one each time)")
      ->type_name("N");
  command
      ->add_option("--weights", arguments->weights,
                   "Hold weights in fp32, bf16, fp16 or int8 (default: as the precision does)")
      ->type_name("FORMAT");
  command->add_flag("--json", arguments->json, "A JSON document on one line for each text");
  const std::vector<std::string> keys = {"precision", "device", "threads", "special_tokens"};
  const auto flags = std::make_shared<ConfigArguments>(*command, keys);
  command->get_option("--precision")->description("Compute in this precision (default: the run's)");
  command->get_option("--device")->description("auto, cpu, cuda or cuda:N [auto]");
  command->get_option("--special-tokens")
      ->description(
          "How to read special tokens, such as </s>, in the prompt: text or tokens [text]");
  command->footer(
      "Examples:\n"
      "  halftone generate runs/quickstart --prompt 春\n"
      "  halftone generate runs/quickstart --prompt 明月 --temperature 0.6 --seed 7\n"
      "  halftone generate runs/quickstart --greedy --max-new-tokens 64\n"
      "  halftone generate runs/quickstart --weights int8 --prompts prompts.txt --json\n"
      "  halftone generate runs/chat --chat");
  command->callback([arguments, flags] { run_generate(*arguments, *flags); });
}

}  // namespace halftone::cli
