// SPDX-License-Identifier: Apache-2.0
// Training on chats and preferences, and packed documents that know nothing of each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/io/safetensors.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/pretrain.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::chat_training_test {
namespace {

using testing::HasSubstr;

CausalLM small_model(std::uint64_t seed) {
  torch::manual_seed(seed);
  return CausalLM(ModelConfig{.dim = 32,
                              .n_layers = 2,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .hidden_dim = 48,
                              .vocab_size = 50,
                              .max_seq_len = 64});
}

/// One row of documents of these lengths, of random ids.
TokenBatch packed_row(const std::vector<std::int64_t>& lengths) {
  TokenBatch batch;
  std::vector<std::int64_t> ends;
  for (const std::int64_t length : lengths)
    ends.push_back((ends.empty() ? 0 : ends.back()) + length);
  batch.input_ids = torch::randint(50, {1, ends.back()}, torch::kInt64);
  batch.target_ids = torch::randint(50, {1, ends.back()}, torch::kInt64);
  batch.loss_mask = torch::ones({1, ends.back()});
  batch.loss_mask[0][0] = 0;
  batch.document_ends = std::make_shared<const DocumentEnds>(DocumentEnds{ends});
  return batch;
}

/// The documents of `packed` in rows of their own.
std::vector<TokenBatch> apart(const TokenBatch& packed) {
  std::vector<TokenBatch> batches;
  std::int64_t begin = 0;
  for (const std::int64_t end : packed.document_ends->front()) {
    TokenBatch one;
    one.input_ids = packed.input_ids.slice(1, begin, end);
    one.target_ids = packed.target_ids.slice(1, begin, end);
    one.loss_mask = packed.loss_mask.slice(1, begin, end);
    batches.push_back(one);
    begin = end;
  }
  return batches;
}

std::vector<torch::Tensor> gradients_of(CausalLM& model, const torch::Tensor& loss) {
  model->zero_grad();
  loss.backward();
  std::vector<torch::Tensor> gradients;
  for (const torch::Tensor& parameter : model->parameters())
    gradients.push_back(parameter.grad().clone());
  return gradients;
}

class PackedDocuments : public testing::TestWithParam<bool> {};  // blocks are recomputed

TEST_P(PackedDocuments, EqualDocumentsAlone) {
  CausalLM model = small_model(1);
  TokenBatch packed = packed_row({7, 1, 13, 4});
  ComputeContext context = compute_context();
  context.recompute_blocks = GetParam();
  const ComputeScope scope(context);

  torch::Tensor sum = torch::zeros({});
  for (const TokenBatch& one : apart(packed))
    sum = sum + loss_of(model, one).cross_entropy * one.loss_mask.sum();
  const torch::Tensor alone = sum / packed.loss_mask.sum();
  const auto expected = gradients_of(model, alone);
  const torch::Tensor together = loss_of(model, packed).cross_entropy;
  const auto gradients = gradients_of(model, together);

  EXPECT_NEAR(together.item<double>(), alone.item<double>(), 1e-6);
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_LT((gradients[i] - expected[i]).abs().max().item<double>(), 1e-6);
  packed.document_ends = nullptr;
  EXPECT_GT(std::abs(loss_of(model, packed).cross_entropy.item<double>() - alone.item<double>()),
            1e-4)
      << "the mask must matter";
}
INSTANTIATE_TEST_SUITE_P(Recompute, PackedDocuments, testing::Bool());

TEST(Preferences, HaveTheLossOfTheirDefinition) {
  CausalLM model = small_model(1), reference = small_model(2);
  TokenBatch batch;
  batch.input_ids = torch::randint(50, {4, 9}, torch::kInt64);
  batch.target_ids = torch::randint(50, {4, 9}, torch::kInt64);
  batch.loss_mask = (torch::rand({4, 9}) > 0.4).to(torch::kFloat);
  batch.pairs = 2;
  const auto sums = [&](CausalLM& from) {
    const torch::NoGradGuard no_grad;
    const torch::Tensor logits = from->forward(batch.input_ids).logits.to(torch::kDouble);
    return (logits.log_softmax(-1).gather(2, batch.target_ids.unsqueeze(2)).squeeze(2) *
            batch.loss_mask)
        .sum(1);
  };
  const torch::Tensor ours = sums(model), theirs = sums(reference);
  double expected = 0;
  for (std::int64_t pair = 0; pair < 2; ++pair) {
    const auto at = [&](const torch::Tensor& s, std::int64_t row) { return s[row].item<double>(); };
    const double margin = (at(ours, 2 * pair) - at(ours, 2 * pair + 1)) -
                          (at(theirs, 2 * pair) - at(theirs, 2 * pair + 1));
    expected += std::log1p(std::exp(-0.3 * margin)) / 2;
  }
  LanguageModeling module(model, {.dpo_beta = 0.3});
  module.set_reference(reference);
  const torch::Tensor loss = module.training_step(batch, 0);
  EXPECT_NEAR(loss.item<double>(), expected, 1e-5);
  EXPECT_EQ(module.loss_weight(batch), 2.0);
  const auto logged = module.logged().take();
  EXPECT_TRUE(logged.contains("reward_accuracy"));
  EXPECT_NEAR(logged.at("reward_margin"), logged.at("reward_chosen") - logged.at("reward_rejected"),
              1e-6);
  loss.backward();
  EXPECT_FALSE(reference->parameters().front().grad().defined());
  EXPECT_TRUE(model->parameters().front().grad().defined());
}

class ChatTraining : public testing::Test {
 protected:
  ChatTraining() {
    std::ofstream text(folder / "text.txt"), chats(folder / "chats.jsonl"),
        pairs(folder / "pairs.jsonl");
    for (int i = 0; i < 120; ++i) {
      const std::string n = std::to_string(i * 7919);
      const auto turn = [](const char* role, const std::string& content) {
        return nlohmann::json{{"role", role}, {"content", content}};
      };
      const nlohmann::json question = turn("user", "where is the moon of " + n + "?");
      const nlohmann::json good = turn("assistant", "over the river " + n);
      text << "the moon of " << n << " rises over the river\n\n";
      chats << nlohmann::json{{"conversations", {question, good}}} << '\n';
      pairs << nlohmann::json{{"chosen", {question, good}},
                              {"rejected", {question, turn("assistant", "no idea")}}}
            << '\n';
    }
  }

  std::vector<ConfigAssignment> assignments(const std::string& data, const std::string& out,
                                            std::vector<ConfigAssignment> more = {}) const {
    std::vector<ConfigAssignment> all = {
        {"preset", std::string("tiny"), "test"},
        {"data", std::vector<std::string>{(folder / data).string()}, "test"},
        {"batch_size", std::int64_t{4}, "test"},
        {"seq_len", std::int64_t{160}, "test"},
        {"precision", std::string("32-true"), "test"},
        {"max_steps", std::int64_t{4}, "test"},
        {"out", (folder / out).string(), "test"}};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  PretrainResult train(const std::string& data, const std::string& out,
                       const std::vector<ConfigAssignment>& more = {}) const {
    return pretrain(resolve_config(assignments(data, out, more)));
  }

  std::string error_of(const std::string& data, const std::vector<ConfigAssignment>& more) const {
    return test::message_of<UserError>([&] { train(data, "refused", more); });
  }

  std::vector<nlohmann::json> metrics(const std::string& out) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(folder / out / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  ConfigAssignment from(const std::string& run) const {
    return {"init_from", (folder / run).string(), "test"};
  }

  /// Whether 4 steps and 3 more give the weights of 7.
  void expect_same_resumed(const std::string& data, std::vector<ConfigAssignment> more) const {
    more.push_back({"schedule", std::string("constant"), "test"});
    train(data, "parts", more);
    resume_pretraining(resume_config(folder / "parts", {{"max_steps", std::int64_t{7}, "test"}}));
    more.push_back({"max_steps", std::int64_t{7}, "test"});
    train(data, "whole", more);
    const auto weights = [&](const char* run) {
      return load_safetensors(folder / run / "checkpoints" / "step-00000007" / "model.safetensors");
    };
    const StateDict whole = weights("whole"), parts = weights("parts");
    ASSERT_FALSE(whole.tensors.empty());
    for (const auto& [name, tensor] : whole.tensors)
      EXPECT_TRUE(tensor.equal(parts.tensors.at(name))) << name;
  }

  test::TempFolder folder;
};

const ConfigAssignment kSft{"task", std::string("sft"), "test"};
const ConfigAssignment kDpo{"task", std::string("dpo"), "test"};

TEST_F(ChatTraining, GoesFromTextToChatsToPreferences) {
  train("text.txt", "text");
  const PretrainResult chats = train("chats.jsonl", "chats",
                                     {kSft,
                                      from("text"),
                                      {"document_mask", true, "test"},
                                      {"lr", 3e-3, "test"},
                                      {"max_steps", std::int64_t{12}, "test"}});
  EXPECT_LT(*chats.last_loss, *chats.first_loss - 0.5);
  const PretrainResult pairs = train("pairs.jsonl", "pairs", {kDpo, from("chats")});
  EXPECT_NEAR(*pairs.first_loss, std::log(2.0), 1e-6) << "it begins as its reference";
  EXPECT_LT(*pairs.last_loss, *pairs.first_loss);
  const auto lines = metrics("pairs");
  EXPECT_EQ(lines.front().at("reward_margin"), 0.0);
  EXPECT_GT(lines.back().at("reward_margin").get<double>(), 0.0);
  EXPECT_GE(lines.back().at("reward_accuracy").get<double>(), 0.5);
}

TEST_F(ChatTraining, ResumesChatsBitByBit) {
  expect_same_resumed("chats.jsonl", {kSft, {"document_mask", true, "test"}});
}

TEST_F(ChatTraining, ResumesPreferencesBitByBit) {
  train("chats.jsonl", "start", {kSft, {"pack", false, "test"}});
  expect_same_resumed("pairs.jsonl", {kDpo, from("start"), {"lr", 1e-3, "test"}});
}

TEST_F(ChatTraining, RefusesWhatDoesNotGoTogether) {
  EXPECT_THAT(error_of("text.txt", {kSft}), HasSubstr("set task to pretrain"));
  EXPECT_THAT(error_of("chats.jsonl", {}), HasSubstr("set task to sft"));
  EXPECT_THAT(error_of("pairs.jsonl", {kDpo}), HasSubstr("init_from"));
  EXPECT_THAT(error_of("chats.jsonl", {kSft, {"special_tokens", std::string("tokens"), "test"}}),
              HasSubstr("special_tokens"));
  EXPECT_THAT(
      error_of("chats.jsonl", {kSft, {"pack", false, "test"}, {"document_mask", true, "test"}}),
      HasSubstr("document_mask goes with packed rows"));
  EXPECT_THAT(error_of("pairs.jsonl", {kDpo, from("x"), {"pack", true, "test"}}),
              HasSubstr("rows of their own"));
  EXPECT_THAT(error_of("chats.jsonl",
                       {kSft, {"seq_len", std::int64_t{8}, "test"}, {"pack", false, "test"}}),
              HasSubstr("raise seq_len"));
}

}  // namespace
}  // namespace halftone::chat_training_test
