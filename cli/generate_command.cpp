// SPDX-License-Identifier: Apache-2.0
#include "cli/generate_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "cli/program.h"
#include "halftone/halftone.h"

namespace halftone::cli {
namespace {

struct GenerateArguments {
  std::string run;
  std::string prompt;
  std::string precision;
  std::string device = "auto";
  std::int64_t threads = 0;
  std::optional<std::uint64_t> seed;
  SamplingOptions sampling;
};

std::vector<std::int64_t> prompt_ids(const Tokenizer& tokenizer, const std::string& prompt) {
  if (const auto offset = find_invalid_utf8(prompt))
    throw UserError(fmt::format("--prompt is not UTF-8: byte {} breaks it", *offset));
  std::vector<std::int64_t> ids = {tokenizer.special_tokens().bos};
  for (const std::int32_t id : tokenizer.encode(prompt)) ids.push_back(id);
  return ids;
}

void run_generate(GenerateArguments arguments) {
  const torch::Device device = resolve_device(arguments.device);
  if (arguments.threads > 0) torch::set_num_threads(static_cast<int>(arguments.threads));
  TrainedModel trained = load_trained_model(arguments.run);
  MixedPrecision precision(
      parse_precision(arguments.precision.empty() ? trained.precision : arguments.precision), {},
      device);
  precision.convert_module(*trained.model);
  if (!arguments.seed && !arguments.sampling.greedy)
    log_note(fmt::format("--seed {} writes this text again",
                         arguments.seed.emplace(std::random_device{}())));
  arguments.sampling.seed = arguments.seed.value_or(0);
  arguments.sampling.eos = trained.tokenizer.special_tokens().eos;

  print(arguments.prompt);
  StreamDecoder decoder(trained.tokenizer);
  const InterruptGuard guard;
  {
    const Autocast autocast = precision.forward_context();
    generate(trained.model, prompt_ids(trained.tokenizer, arguments.prompt), arguments.sampling,
             [&](std::int64_t id) {
               print(decoder.push(static_cast<std::int32_t>(id)));
               return !interrupted();
             });
  }
  print(decoder.flush() + "\n");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Let a trained model write");
  auto arguments = std::make_shared<GenerateArguments>();
  command
      ->add_option("run", arguments->run,
                   "Run directory, or Hugging Face folder of a MiniMind model")
      ->required()
      ->type_name("RUN");
  command->add_option("--prompt", arguments->prompt, "Text to continue; empty: start from nothing");
  command
      ->add_option("--max-new-tokens", arguments->sampling.max_new_tokens,
                   "Longest text, in tokens")
      ->capture_default_str();
  command
      ->add_option("--temperature", arguments->sampling.temperature,
                   "Below 1: safer, above 1: wilder")
      ->capture_default_str();
  command
      ->add_option("--top-p", arguments->sampling.top_p,
                   "Sample from the likeliest tokens with this share of the probability")
      ->capture_default_str();
  command->add_flag("--greedy", arguments->sampling.greedy, "Always take the likeliest token");
  command->add_option("--seed", arguments->seed,
                      "Same seed, same text (default: another one each time)");
  command->add_option("--precision", arguments->precision,
                      "Compute in this precision (default: the run's)");
  command->add_option("--device", arguments->device, "auto, cpu, cuda or cuda:N")
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "CPU threads (default: all cores)");
  command->footer(
      "Examples:\n"
      "  halftone generate runs/quickstart --prompt 春\n"
      "  halftone generate runs/quickstart --prompt 明月 --temperature 0.6 --seed 7\n"
      "  halftone generate runs/quickstart --greedy --max-new-tokens 64");
  command->callback([arguments] { run_generate(*arguments); });
}

}  // namespace halftone::cli
