// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/multiple_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/error.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/policy.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "support/temp_folder.h"

namespace halftone::multiple_choice_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;
using torch::Tensor;
using Ids = std::vector<std::int64_t>;

Tokenizer small_tokenizer() {
  BpeTrainer trainer({.vocab_size = 280});
  trainer.add_text("spring sleep, not aware of dawn; everywhere birds are singing 答案\n");
  return trainer.train();
}

CausalLM small_model(std::int64_t context) {
  torch::manual_seed(5);
  return CausalLM(ModelConfig{.dim = 32,
                              .n_layers = 2,
                              .n_heads = 2,
                              .n_kv_heads = 1,
                              .vocab_size = 280,
                              .max_seq_len = context});
}

const ChoiceQuestion kBirds{
    .question = "What sings?", .options = {"birds", "dawn", "spring sleep", "春"}, .answer = 0};

Ids encoded(const Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.encode(text);
  return {ids.begin(), ids.end()};
}

/// The log-likelihood of `more` behind `before`, from one pass over both without a cache.
double from_logits(CausalLM& model, Ids before, const Ids& more) {
  const torch::NoGradGuard no_grad;
  model->eval();
  const std::size_t first = before.size();
  before.insert(before.end(), more.begin(), more.end());
  const Tensor logits = model->forward(torch::tensor(before).unsqueeze(0)).logits[0];
  const Tensor all = logits.to(torch::kDouble).log_softmax(-1);
  double sum = 0;
  for (std::size_t i = 0; i < more.size(); ++i)
    sum += all[static_cast<std::int64_t>(first + i) - 1][more[i]].item<double>();
  return sum;
}

TEST(MultipleChoice, LikelihoodsAreThoseOfTheLogits) {
  const Tokenizer tokenizer = small_tokenizer();
  CausalLM model = small_model(300);
  const ChoiceLikelihoods values = choice_likelihoods(model, tokenizer, kBirds);
  const auto prompt = [&](const std::string& text) {
    Ids ids = encoded(tokenizer, text);
    ids.insert(ids.begin(), tokenizer.special_tokens().bos);
    return ids;
  };
  const Ids listed = prompt("What sings?\nA. birds\nB. dawn\nC. spring sleep\nD. 春\n答案：");
  const Ids bare = prompt("What sings?\n答案：");
  const char* const letters[] = {"A", "B", "C", "D"};
  for (std::size_t i = 0; i < kChoices; ++i) {
    EXPECT_NEAR(values.letter[i], from_logits(model, listed, encoded(tokenizer, letters[i])), 1e-5);
    const std::string& option = kBirds.options[i];
    EXPECT_NEAR(values.text[i] * static_cast<double>(option.size()),
                from_logits(model, bare, encoded(tokenizer, option)), 2e-5);
  }
  EXPECT_FALSE(values.is_cut);
}

TEST(MultipleChoice, ALongQuestionLosesItsBeginning) {
  const Tokenizer tokenizer = small_tokenizer();
  CausalLM model = small_model(40);
  const ChoiceLikelihoods values = choice_likelihoods(model, tokenizer, kBirds);
  EXPECT_TRUE(values.is_cut);
  // Letters are one token each: all 40 positions are the question's.
  Ids ids = encoded(tokenizer, "What sings?\nA. birds\nB. dawn\nC. spring sleep\nD. 春\n答案：");
  ids.erase(ids.begin(), ids.end() - 40);
  EXPECT_EQ(encoded(tokenizer, "B").size(), 1U);
  model->eval();
  const torch::NoGradGuard no_grad;
  const Tensor last = model->forward(torch::tensor(ids).unsqueeze(0)).logits[0][-1];
  EXPECT_NEAR(values.letter[1],
              last.log_softmax(-1)[encoded(tokenizer, "B").front()].item<double>(), 1e-5);
  ChoiceQuestion long_option = kBirds;
  long_option.options[2] = std::string(100, 'q');
  EXPECT_THAT(message_of<UserError>([&] { choice_likelihoods(model, tokenizer, long_option); }),
              HasSubstr("does not fit into the model's context of 40"));
}

/// A model that has learned to say B behind "答案：", whatever stands before.
TEST(MultipleChoice, CountsWhatAModelIsRightAbout) {
  const Tokenizer tokenizer = small_tokenizer();
  CausalLM model = small_model(300);
  std::vector<ChoiceQuestion> questions;
  for (std::size_t i = 0; i < 10; ++i) {
    questions.push_back(kBirds);
    questions.back().question += std::to_string(i);
    questions.back().answer = i < 7 ? 1 : i % 4;  // 7, 8, 9: D, A, B
  }
  AdamW optimizer(model->parameters(), {.lr = 3e-3});
  Ids ids = encoded(tokenizer, "What sings?\nA. birds\nB. dawn\nC. spring sleep\nD. 春\n答案：B");
  ids.insert(ids.begin(), tokenizer.special_tokens().bos);
  const Tensor all = torch::tensor(ids).unsqueeze(0);
  const std::int64_t steps = all.size(1) - 1;
  Tensor mask = torch::zeros({1, steps});
  mask[0][-1] = 1;
  for (int step = 0; step < 30; ++step) {
    const Tensor loss =
        model->loss(all.narrow(1, 0, steps), all.narrow(1, 1, steps), mask).cross_entropy;
    loss.backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  const MixedPrecision precision(parse_precision("32-true"), {}, torch::kCPU);
  double share = 0;
  const ChoiceResult result =
      score_choices(model, tokenizer, questions, precision, [&](double done) { share = done; });
  EXPECT_EQ(share, 1.0);
  EXPECT_EQ(result.questions, 10);
  EXPECT_EQ(result.cut, 0);
  EXPECT_DOUBLE_EQ(result.letter.accuracy, 0.8);
  EXPECT_NEAR(*result.letter.standard_error, std::sqrt(0.8 * 0.2 / 9), 1e-12);
  EXPECT_EQ(result.chance, 0.25);
  // The same from the likelihoods themselves.
  int by_text = 0;
  for (const ChoiceQuestion& question : questions) {
    const auto text = choice_likelihoods(model, tokenizer, question).text;
    by_text += std::max_element(text.begin(), text.end()) - text.begin() ==
                       static_cast<std::ptrdiff_t>(question.answer)
                   ? 1
                   : 0;
  }
  EXPECT_DOUBLE_EQ(result.text.accuracy, by_text / 10.0);
  const ChoiceResult one = score_choices(model, tokenizer, {questions[0]}, precision);
  EXPECT_FALSE(one.letter.standard_error.has_value());
}

TEST(MultipleChoice, NamesTheTensorOfLogitsThatAreNotFinite) {
  const Tokenizer tokenizer = small_tokenizer();
  CausalLM model = small_model(300);
  {
    const torch::NoGradGuard no_grad;
    model->named_parameters()["layers.1.feed_forward.w2.weight"][0][0] =
        std::numeric_limits<float>::quiet_NaN();
  }
  const MixedPrecision precision(parse_precision("32-true"), {}, torch::kCPU);
  EXPECT_THAT(
      message_of<SystemError>([&] { score_choices(model, tokenizer, {kBirds}, precision); }),
      HasSubstr("layers.1.feed_forward.w2.weight"));
}

TEST(ChoiceFile, IsReadInTheFormOfCEval) {
  const TempFolder folder;
  write_text(folder / "c.jsonl",
             "{\"id\": 0, \"question\": \"q\", \"A\": \"1\", \"B\": \"2\", \"C\": \"3\", \"D\": "
             "\"4\", \"answer\": \"C\", \"explanation\": \"\"}\n\n");
  const auto questions = read_choices(folder / "c.jsonl");
  ASSERT_EQ(questions.size(), 1U);
  EXPECT_EQ(questions[0].question, "q");
  EXPECT_EQ(questions[0].options[3], "4");
  EXPECT_EQ(questions[0].answer, 2U);
}

TEST(ChoiceFile, NamesFileAndLineOfWhatItRefuses) {
  const TempFolder folder;
  const std::string good = R"({"question":"q","A":"1","B":"2","C":"3","D":"4","answer":"A"})"
                           "\n";
  const auto refusal = [&](const std::string& line) {
    write_text(folder / "c.jsonl", good + line + "\n");
    return message_of<UserError>([&] { read_choices(folder / "c.jsonl"); });
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"A":"1","B":"2","C":"3","D":"4","answer":"A"})", "line 2: question must be"},
      {R"({"question":"q","A":"1","B":"2","C":"3","answer":"A"})", "line 2: D must be"},
      {R"({"question":"q","A":1,"B":"2","C":"3","D":"4","answer":"A"})", "line 2: A must be"},
      {R"({"question":"q","A":"1","B":"","C":"3","D":"4","answer":"A"})",
       "line 2: B must not be empty"},
      {R"({"question":"q","A":"1","B":"2","C":"3","D":"4","answer":"E"})",
       "line 2: answer must be \"A\", \"B\", \"C\" or \"D\""},
      {R"({"question":"q","A":"1","B":"2","C":"3","D":"4"})", "line 2: answer must be"},
      {"[]", "line 2"},
      {"{\"question\":", "line 2"},
      {"\xFF", "line 2"},
  };
  for (const auto& [line, words] : cases) EXPECT_THAT(refusal(line), HasSubstr(words)) << line;
  write_text(folder / "c.jsonl", "\n");
  EXPECT_THAT(message_of<UserError>([&] { read_choices(folder / "c.jsonl"); }),
              HasSubstr("expected at least one line"));
}

}  // namespace
}  // namespace halftone::multiple_choice_test
