// SPDX-License-Identifier: Apache-2.0
#include "cli/tokenizer_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/program.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/stopwatch.h"
#include "halftone/core/text.h"
#include "halftone/data/corpus.h"
#include "halftone/system/file.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {
namespace {

struct TrainArguments {
  std::vector<std::string> data;
  std::string out;
  std::int64_t vocab_size = 6400;
  std::string invalid_utf8 = "error";
  bool overwrite = false;
};

struct CodecArguments {
  std::string tokenizer;
  std::optional<std::string> text;
  std::vector<std::string> ids;
  bool skip_special_tokens = false;
  std::string special_tokens = "tokens";
  bool json = false;
};

std::string read_stdin() {
  if (isatty(STDIN_FILENO) == 1) log_note("reading standard input; Ctrl-D ends it");
  std::string text;
  std::array<char, 65536> chunk{};
  for (ssize_t got = 0; (got = ::read(STDIN_FILENO, chunk.data(), chunk.size())) != 0;) {
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("read", "standard input", errno);
    text.append(chunk.data(), static_cast<std::size_t>(got));
  }
  return text;
}

void require_utf8(const std::string& text, const std::string& origin) {
  if (const auto offset = find_invalid_utf8(text))
    throw UserError(
        fmt::format("{}: expected UTF-8 text, found an invalid byte at offset {}; "
                    "convert it first (iconv -t UTF-8)",
                    origin, *offset));
}

// Before the work, so that it is not lost afterwards.
void check_out(const TrainArguments& arguments) {
  std::error_code ignored;
  const std::filesystem::path out = arguments.out;
  if (std::filesystem::exists(out, ignored) && !std::filesystem::is_directory(out, ignored))
    throw UserError(fmt::format("{}: expected a folder for --out, found a file", arguments.out));
  if (std::filesystem::exists(out / "tokenizer.json", ignored) && !arguments.overwrite)
    throw UserError(fmt::format(
        "{}: there is a tokenizer.json already, which models may depend on; name another --out, or "
        "add --overwrite",
        arguments.out));
  std::filesystem::path nearest = std::filesystem::absolute(out, ignored);
  while (!std::filesystem::exists(nearest, ignored) && nearest.has_relative_path())
    nearest = nearest.parent_path();
  if (!std::filesystem::is_directory(nearest, ignored)) throw_file_error("create", out, ENOTDIR);
  if (::access(nearest.c_str(), W_OK | X_OK) != 0) throw_file_error("write", out, errno);
}

double bytes_per_token(Corpus& corpus, const Tokenizer& tokenizer) {
  constexpr std::size_t kEnough = std::size_t{4} << 20U;
  std::size_t bytes = 0;
  std::size_t tokens = 0;
  corpus.rewind();
  for (Document document; bytes < kEnough && corpus.next(document);) {
    bytes += document.text.size();
    tokens += tokenizer.encode(document.text).size();
  }
  return static_cast<double>(bytes) / static_cast<double>(std::max<std::size_t>(1, tokens));
}

void train(const TrainArguments& arguments) {
  if (arguments.invalid_utf8 != "error" && arguments.invalid_utf8 != "replace")
    throw UserError(
        fmt::format("--invalid-utf8: expected error or replace, got '{}'", arguments.invalid_utf8));
  const Stopwatch watch;
  BpeTrainer trainer({.vocab_size = arguments.vocab_size});
  Corpus corpus({.paths = {arguments.data.begin(), arguments.data.end()},
                 .replace_invalid_utf8 = arguments.invalid_utf8 == "replace"});
  check_out(arguments);
  for (Document document; corpus.next(document);) trainer.add_text(document.text);
  log_note(fmt::format("read {} from {}", format_bytes(corpus.bytes()),
                       cli::counted(corpus.files().size(), "file", "files")));
  const Tokenizer tokenizer = trainer.train();
  tokenizer.save(arguments.out);
  const double seconds = watch.seconds();
  log_note(fmt::format("learned {} tokens in {}, {:.2f} bytes per token; wrote {}",
                       tokenizer.vocab_size(), format_seconds(seconds),
                       bytes_per_token(corpus, tokenizer), arguments.out));
}

void encode(const CodecArguments& arguments) {
  if (arguments.special_tokens != "tokens" && arguments.special_tokens != "text")
    throw UserError(fmt::format("--special-tokens: expected text or tokens, got '{}'",
                                arguments.special_tokens));
  const Tokenizer tokenizer = Tokenizer::load(arguments.tokenizer);
  const std::string text = arguments.text ? *arguments.text : read_stdin();
  require_utf8(text, arguments.text ? "--text" : "standard input");
  const std::vector<std::int32_t> ids =
      tokenizer.encode(text, arguments.special_tokens == "tokens" ? SpecialTokenParsing::kTokens
                                                                  : SpecialTokenParsing::kText);
  if (arguments.json)
    cli::print(nlohmann::json(ids).dump() + "\n");
  else
    cli::print(fmt::format("{}\n", fmt::join(ids, " ")));
}

// Ids separated by white space or commas, in brackets or not: what encode prints, in both forms.
std::vector<std::int32_t> parse_ids(std::string text, const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids;
  std::replace_if(
      text.begin(), text.end(),
      [](char c) {
        return c == ',' || c == '[' || c == ']' || c == '\n' || c == '\t' || c == '\r';
      },
      ' ');
  for (std::size_t at = 0; (at = text.find_first_not_of(' ', at)) != std::string::npos;) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    std::int32_t id = 0;
    const auto [rest, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc{} || rest != text.data() + end || !tokenizer.id_to_token(id))
      throw UserError(fmt::format("expected token ids from 0 to {}, found \"{}\"",
                                  tokenizer.vocab_size() - 1, text.substr(at, end - at)));
    ids.push_back(id);
    at = end;
  }
  return ids;
}

void decode(const CodecArguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::load(arguments.tokenizer);
  const std::string given =
      arguments.ids.empty() ? read_stdin() : fmt::format("{}", fmt::join(arguments.ids, " "));
  const std::vector<std::int32_t> ids = parse_ids(given, tokenizer);
  const bool skip = arguments.skip_special_tokens;
  if (arguments.json)
    cli::print(nlohmann::json(tokenizer.decode(ids, skip)).dump() + "\n");
  else
    cli::print(tokenizer.decode_bytes(ids, skip));
}

void add_train(CLI::App& tokenizer) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = tokenizer.add_subcommand("train", "Learn a vocabulary from text");
  command
      ->add_option("--data", arguments->data,
                   "A text file, fortune file, .jsonl of {\"text\"}, or a folder (repeatable)")
      ->required()
      ->allow_extra_args(false)
      ->type_name("PATH");
  command->add_option("--vocab-size", arguments->vocab_size, "Number of tokens, all included")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--out", arguments->out, "Folder for tokenizer.json and tokenizer_config.json")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--invalid-utf8", arguments->invalid_utf8,
                   "What to do about bytes that are not UTF-8")
      ->type_name("error|replace")
      ->capture_default_str();
  command->add_flag("--overwrite", arguments->overwrite, "Replace a tokenizer that is in DIR");
  command->footer(
      "Example:\n"
      "  halftone tokenizer train --data poems.txt --data prose/ --vocab-size 6400 --out "
      "tokenizer");
  command->callback([arguments] { train(*arguments); });
}

void add_tokenizer_option(CLI::App& command, CodecArguments& arguments) {
  command
      .add_option("--tokenizer", arguments.tokenizer, "tokenizer.json, or a folder that holds it")
      ->required()
      ->type_name("PATH");
}

void add_encode(CLI::App& tokenizer) {
  const auto arguments = std::make_shared<CodecArguments>();
  CLI::App* command = tokenizer.add_subcommand("encode", "Print the token ids of a text");
  add_tokenizer_option(*command, *arguments);
  command->add_option("--text", arguments->text, "The text; without it, standard input is read")
      ->type_name("TEXT");
  command
      ->add_option("--special-tokens", arguments->special_tokens,
                   "How to read special tokens, such as </s>, that the text spells")
      ->type_name("text|tokens")
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "Print one JSON array");
  command->footer(
      "No special tokens are added. Training reads them as text unless its key special_tokens says "
      "tokens.\n"
      "Examples:\n"
      "  halftone tokenizer encode --tokenizer tokenizer --text '床前明月光'\n"
      "  halftone tokenizer encode --tokenizer tokenizer --json < poem.txt");
  command->callback([arguments] { encode(*arguments); });
}

void add_decode(CLI::App& tokenizer) {
  const auto arguments = std::make_shared<CodecArguments>();
  CLI::App* command = tokenizer.add_subcommand("decode", "Print the text of token ids");
  add_tokenizer_option(*command, *arguments);
  command->add_option("ids", arguments->ids, "The ids; without them, standard input is read");
  command->add_flag("--skip-special-tokens", arguments->skip_special_tokens,
                    "Leave out <s>, </s> and the like");
  command->add_flag("--json", arguments->json, "Print one JSON string");
  command->footer(
      "Prints exactly the text, without a line end of its own.\n"
      "Examples:\n"
      "  halftone tokenizer decode --tokenizer tokenizer 42 392 338\n"
      "  halftone tokenizer encode --tokenizer tokenizer < poem.txt |\n"
      "    halftone tokenizer decode --tokenizer tokenizer");
  command->callback([arguments] { decode(*arguments); });
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "tokenizer", "Train, and encode and decode with, a byte-level BPE tokenizer");
  command->require_subcommand(1);
  add_train(*command);
  add_encode(*command);
  add_decode(*command);
}

}  // namespace halftone
