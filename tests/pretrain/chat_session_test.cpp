// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/chat_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "halftone/pretrain/inference_precision.h"
#include "halftone/pretrain/prompt_file.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "support/temp_folder.h"

namespace halftone::chat_session_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;
using Ids = std::vector<std::int64_t>;

Tokenizer small_tokenizer() {
  BpeTrainer trainer({.vocab_size = 270});
  trainer.add_text("spring sleep, not aware of dawn; everywhere birds are singing\n");
  return trainer.train();
}

CausalLM small_model(std::int64_t context) {
  torch::manual_seed(21);
  return CausalLM(ModelConfig{.dim = 32,
                              .n_layers = 2,
                              .n_heads = 2,
                              .n_kv_heads = 1,
                              .vocab_size = 270,
                              .max_seq_len = context});
}

const SamplingOptions kShort{.greedy = true, .max_new_tokens = 6};

Ids encoded(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) {
  const auto ids = tokenizer.encode_chat(messages);
  return {ids.begin(), ids.end()};
}

Ids written(CausalLM& model, const Ids& prompt) {
  Ids ids;
  generate(model, prompt, kShort, [&](std::int64_t id) {
    ids.push_back(id);
    return true;
  });
  return ids;
}

/// What a conversation must be: each turn's ids behind all before them, read anew.
TEST(ChatSession, AnswersAsIfAllWasReadAgainButReadsOnlyWhatIsNew) {
  const Tokenizer tokenizer = small_tokenizer();
  CausalLM model = small_model(400);
  ChatSession session(model, tokenizer, "be brief");
  std::vector<ChatMessage> silent{{"system", "be brief"}};
  Ids all;
  std::int64_t read = 0;
  for (const char* question : {"spring?", "birds?", "dawn?"}) {
    // The marks around an empty answer stand where the answer was made.
    const Ids before = all.empty() ? Ids() : encoded(tokenizer, silent);
    if (!all.empty()) silent.push_back({"assistant", ""});
    silent.push_back({"user", question});
    const Ids template_ids = encoded(tokenizer, silent);
    all.insert(all.end(), template_ids.begin() + static_cast<std::ptrdiff_t>(before.size()),
               template_ids.end());
    const Ids expected = written(model, all);
    std::string streamed;
    const ChatAnswer answer = session.ask(question, kShort, [&](std::string_view piece) {
      streamed += piece;
      return true;
    });
    const std::vector<std::int32_t> narrow(expected.begin(), expected.end());
    EXPECT_EQ(answer.text, tokenizer.decode(narrow, true)) << question;
    EXPECT_EQ(streamed, answer.text);
    EXPECT_EQ(answer.tokens, static_cast<std::int64_t>(expected.size()));
    EXPECT_EQ(answer.forgotten_turns, 0);
    all.insert(all.end(), expected.begin(), expected.end());
    // The last token of an answer is read with the next question.
    EXPECT_EQ(session.positions_read(), static_cast<std::int64_t>(all.size()) - 1) << question;
    EXPECT_GT(session.positions_read(), read);
    read = session.positions_read();
  }
}

TEST(ChatSession, ForgetsTheOldestTurnsWhenTheContextIsFull) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::vector<ChatMessage> one{{"system", "be brief"}, {"user", "spring"}};
  const auto turn = static_cast<std::int64_t>(encoded(tokenizer, one).size());
  CausalLM model = small_model(2 * turn + 20);
  ChatSession session(model, tokenizer, "be brief");
  const auto ask = [&] {
    return session.ask("spring", kShort, [](std::string_view) { return true; });
  };
  std::int64_t forgotten = 0;
  std::string last;
  for (int i = 0; i < 8; ++i) {
    const ChatAnswer answer = ask();
    EXPECT_EQ(answer.end, TextEnd::kLength) << i;
    EXPECT_EQ(answer.tokens, 6);
    forgotten += answer.forgotten_turns;
  }
  EXPECT_GT(forgotten, 2);
  EXPECT_LT(forgotten, 8);
}

TEST(ChatSession, RefusesAQuestionBeyondTheContextAndGoesOn) {
  const Tokenizer tokenizer = small_tokenizer();
  CausalLM model = small_model(60);
  ChatSession session(model, tokenizer, "s");
  const auto ask = [&](const std::string& question) {
    return session.ask(question, kShort, [](std::string_view) { return true; });
  };
  EXPECT_THAT(message_of<UserError>([&] { ask(std::string(300, 'x')); }),
              HasSubstr("expected at most 59"));
  EXPECT_EQ(ask("a").tokens, 6);
}

TEST(ChatSession, StopsWhenAsked) {
  CausalLM model = small_model(400);
  ChatSession session(model, small_tokenizer(), "");
  int pieces = 0;
  const ChatAnswer answer =
      session.ask("spring", kShort, [&](std::string_view) { return ++pieces < 2; });
  EXPECT_EQ(answer.end, TextEnd::kStopped);
  EXPECT_EQ(answer.tokens, 2);
}

TEST(PromptFile, HoldsAPromptALine) {
  const TempFolder folder;
  write_text(folder / "p.txt", "\xEF\xBB\xBFone two\r\n\n  \n春眠\nlast");
  EXPECT_EQ(read_prompts(folder / "p.txt"), (std::vector<std::string>{"one two", "春眠", "last"}));
  write_text(folder / "p.jsonl", "{\"prompt\": \"a\\nb\", \"other\": 1}\n\n{\"prompt\": \"\"}\n");
  EXPECT_EQ(read_prompts(folder / "p.jsonl"), (std::vector<std::string>{"a\nb", ""}));
}

TEST(PromptFile, NamesFileAndLineOfWhatItRefuses) {
  const TempFolder folder;
  const auto refusal = [&](const std::string& name, const std::string& text) {
    write_text(folder / name, text);
    return message_of<UserError>([&] { read_prompts(folder / name); });
  };
  EXPECT_THAT(refusal("a.jsonl", "{\"prompt\": \"a\"}\n{\"promt\": \"a\"}\n"),
              HasSubstr("a.jsonl, line 2: prompt must be"));
  EXPECT_THAT(refusal("a.jsonl", "{\"prompt\": 7}\n"),
              HasSubstr("a.jsonl, line 1: prompt must be"));
  EXPECT_THAT(refusal("a.jsonl", "[1]\n"), HasSubstr("a.jsonl, line 1"));
  EXPECT_THAT(refusal("a.jsonl", "\n{\"prompt\": \n"), HasSubstr("a.jsonl, line 2"));
  EXPECT_THAT(refusal("a.jsonl", std::string(500, '[')), HasSubstr("nested at most"));
  EXPECT_THAT(refusal("a.txt", "good\nbad \xFF\n"), HasSubstr("line 2"));
  EXPECT_THAT(refusal("a.txt", "good\n" + std::string((1U << 20U) + 2, 'x') + "\nmore\n"),
              HasSubstr("a.txt, line 2: expected a line of at most 1 MiB"));
  EXPECT_THAT(refusal("a.txt", " \n\n"), HasSubstr("a.txt: expected at least one line"));
  EXPECT_THAT(message_of<UserError>([&] { read_prompts(folder / "none.txt"); }),
              HasSubstr("none.txt"));
}

TEST(InferencePrecision, IsTheRunsUnlessOneIsGiven) {
  const auto of = [](const char* run, std::optional<std::string> precision,
                     std::optional<std::string> weights) {
    const InferencePrecision choice = inference_precision(run, precision, weights);
    return choice.policy.name + " " + std::string(to_string(choice.weights));
  };
  EXPECT_EQ(of("bf16-mixed", {}, {}), "bf16-mixed fp32");
  EXPECT_EQ(of("bf16-true", {}, {}), "bf16-true bf16");
  EXPECT_EQ(of("bf16-true", "16-mixed", {}), "16-mixed fp32");
  EXPECT_EQ(of("bf16-mixed", {}, "int8"), "32-true int8");
  EXPECT_EQ(of("int8-mixed", "int8-mixed", "int8"), "int8-mixed int8");
  EXPECT_EQ(of("32-true", "bf16-mixed", "bf16"), "bf16-mixed bf16");
  EXPECT_EQ(of("32-true", {}, "fp16"), "32-true fp16");
  for (const auto& [precision, weights] : {std::pair("bf16-mixed", "fp16"),
                                           {"bf16-true", "fp32"},
                                           {"bf16-true", "int8"},
                                           {"int8-mixed", "bf16"},
                                           {"fp8-mixed", "int8"}})
    EXPECT_THROW(of("32-true", precision, weights), UserError) << precision << weights;
  EXPECT_THROW(of("32-true", {}, "int4"), UserError);
}

double relative_distance(const torch::Tensor& a, const torch::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

TEST(InferenceModel, GivesTheLogitsOfItsPrecision) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor ids = torch::arange(1, 20).unsqueeze(0);
  const auto logits = [&](const InferencePrecision& choice) {
    CausalLM model = small_model(64);
    model->eval();
    const InferenceModel inference(model, choice, torch::kCPU);
    const auto region = inference.precision().forward_context();
    return model->forward(ids).logits.to(torch::kFloat);
  };
  const torch::Tensor fp32 = logits(inference_precision("32-true", {}, {}));
  EXPECT_LT(relative_distance(logits(inference_precision("32-true", {}, "bf16")), fp32), 0.01);
  EXPECT_LT(relative_distance(logits(inference_precision("32-true", {}, "fp16")), fp32), 0.002);
  EXPECT_LT(relative_distance(logits(inference_precision("32-true", {}, "int8")), fp32), 0.03);
  EXPECT_LT(relative_distance(logits(inference_precision("32-true", "bf16-mixed", "int8")), fp32),
            0.03);
  // Beside fp32 weights, bf16-mixed keeps the rows of the embedding in fp32.
  EXPECT_LT(relative_distance(logits(inference_precision("32-true", "bf16-mixed", "bf16")),
                              logits(inference_precision("32-true", "bf16-mixed", {}))),
            0.01);
}

TEST(InferenceModel, SaysWhatTheWeightsTake) {
  CausalLM model = small_model(64);
  const auto fp32 = 4 * static_cast<std::uint64_t>(parameter_count(model));
  const InferenceModel inference(model, inference_precision("32-true", {}, "fp16"), torch::kCPU);
  EXPECT_THAT(inference.description(), HasSubstr("weights in fp16, "));
  EXPECT_THAT(inference.description(), HasSubstr("; computed in 32-true"));
  EXPECT_LT(parameter_bytes(*model), fp32 * 51 / 100 + 1024);
}

}  // namespace
}  // namespace halftone::chat_session_test
