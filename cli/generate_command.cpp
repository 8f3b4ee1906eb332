// SPDX-License-Identifier: Apache-2.0
#include "cli/generate_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/program.h"
#include "halftone/halftone.h"
#include "halftone/nn/packed_parameters.h"
#include "halftone/pretrain/non_finite_report.h"

namespace halftone::cli {
namespace {

struct GenerateArguments {
  std::string run;
  std::string prompt;
  bool chat = false;
  std::optional<std::int64_t> seed;
  SamplingOptions sampling;
};

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
  if (const auto offset = find_invalid_utf8(arguments.prompt))
    throw UserError(fmt::format(
        "--prompt is not UTF-8: byte {} breaks it; convert it first (iconv -t UTF-8)", *offset));
}

std::vector<std::int64_t> prompt_ids(const Tokenizer& tokenizer, const GenerateArguments& arguments,
                                     SpecialTokenParsing parsing) {
  if (arguments.chat) {
    const std::vector<ChatMessage> question = {{"user", arguments.prompt}};
    const std::vector<std::int32_t> ids = tokenizer.encode_chat(question);
    return {ids.begin(), ids.end()};
  }
  const std::int64_t bos = tokenizer.special_tokens().bos;
  const std::vector<std::int32_t> prompt = tokenizer.encode(arguments.prompt, parsing);
  std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
  if (parsing == SpecialTokenParsing::kText || ids.empty() || ids.front() != bos)
    ids.insert(ids.begin(), bos);
  return ids;
}

// generate() in the precision. Logits that are no numbers are the failure of a tensor, which is
// named.
void write(MiniMindLM& model, const MixedPrecision& precision,
           const std::vector<std::int64_t>& prompt, const SamplingOptions& sampling,
           const std::function<bool(std::int64_t)>& on_token) try {
  const auto region = precision.forward_context();
  generate(model, prompt, sampling, on_token);
} catch (const NonFiniteLogits& error) {
  const torch::Device device = model->parameters().front().device();
  const torch::NoGradGuard no_grad;
  model->eval();
  const std::string origin = origin_of_non_finite(*model, [&] {
    const auto region = precision.forward_context();
    return model->forward(torch::tensor(error.ids).to(device).unsqueeze(0)).logits;
  });
  throw SystemError(fmt::format("{}: {}", error.what(), origin));
}

void run_generate(GenerateArguments arguments, const ConfigArguments& flags) {
  check(arguments);
  const std::vector<ConfigAssignment> given = flags.assignments();
  const TrainConfig config = resolve_config(given);
  const torch::Device device = resolve_device(config.device);
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  TrainedModel trained = load_trained_model(arguments.run);
  MixedPrecision precision(
      parse_precision(was_given(given, "precision") ? config.precision : trained.precision), {},
      device);
  precision.convert_module(*trained.model);
  pack_parameters(*trained.model);
  const std::vector<std::int64_t> prompt =
      prompt_ids(trained.tokenizer, arguments, special_token_parsing(config));
  const std::int64_t context = trained.model->config().max_seq_len;
  if (static_cast<std::int64_t>(prompt.size()) > context)
    log_note(fmt::format("the prompt has {} tokens; the model reads the last {}", prompt.size(),
                         context));
  if (!arguments.seed && !arguments.sampling.greedy)
    log_note(fmt::format("--seed {} writes this text again",
                         arguments.seed.emplace(std::random_device{}())));
  arguments.sampling.seed = static_cast<std::uint64_t>(arguments.seed.value_or(0));
  arguments.sampling.eos = trained.tokenizer.special_tokens().eos;

  if (!arguments.chat) print(arguments.prompt);
  StreamDecoder decoder(trained.tokenizer);
  const InterruptGuard guard;
  write(trained.model, precision, prompt, arguments.sampling, [&](std::int64_t id) {
    print(decoder.push(static_cast<std::int32_t>(id)));
    return !interrupted();
  });
  print(decoder.flush() + "\n");
  if (interrupted()) throw Exit{interrupted_exit_code()};
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Let a trained model write");
  auto arguments = std::make_shared<GenerateArguments>();
  command
      ->add_option("RUN", arguments->run,
                   "Run directory, its best checkpoint (RUN/best), one of RUN/checkpoints, or "
                   "Hugging Face folder of a MiniMind model")
      ->required()
      ->type_name("");
  command->add_option("--prompt", arguments->prompt, "Text to continue; empty: start from nothing")
      ->type_name("TEXT");
  command->add_flag("--chat", arguments->chat,
                    "The prompt is a question in the model's chat format; print the answer");
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
      "  halftone generate runs/quickstart --greedy --max-new-tokens 64");
  command->callback([arguments, flags] { run_generate(*arguments, *flags); });
}

}  // namespace halftone::cli
