// SPDX-License-Identifier: Apache-2.0
// Runs that train adapters beside the weights of another run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/export/export_model.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/parameter_names.h"
#include "halftone/precision/policy.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/peft_adapter.h"
#include "halftone/pretrain/pretrain.h"
#include "halftone/pretrain/trained_model.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::lora_training_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using torch::Tensor;

using Settings = std::vector<std::pair<const char*, ConfigValue>>;

std::int64_t whole(std::int64_t n) { return n; }

class LoraTraining : public testing::Test {
 protected:
  LoraTraining() {
    std::ofstream text(folder_ / "text.txt"), pairs(folder_ / "pairs.jsonl");
    for (int i = 0; i < 120; ++i) {
      const std::string n = std::to_string(i * 7919);
      const auto turn = [](const char* role, const std::string& content) {
        return nlohmann::json{{"role", role}, {"content", content}};
      };
      const nlohmann::json question = turn("user", "where is the moon of " + n + "?");
      text << "the moon of " << n << " rises over the river\n\n";
      pairs << nlohmann::json{{"chosen", {question, turn("assistant", "over the river " + n)}},
                              {"rejected", {question, turn("assistant", "no idea")}}}
            << '\n';
    }
    text.close();
    pairs.close();
    train("base", {});
  }

  TrainConfig config(const std::string& out, const Settings& more) const {
    std::vector<ConfigAssignment> all = {
        {"preset", std::string("tiny"), "test"},
        {"data", std::vector<std::string>{(folder_ / "text.txt").string()}, "test"},
        {"model.n_layers", whole(2), "test"},
        {"tokenizer_vocab_size", whole(300), "test"},
        {"batch_size", whole(4), "test"},
        {"seq_len", whole(128), "test"},
        {"precision", std::string("32-true"), "test"},
        {"schedule", std::string("constant"), "test"},
        {"max_steps", whole(4), "test"},
        {"out", (folder_ / out).string(), "test"}};
    for (const auto& [key, value] : more) all.push_back({key, value, "test"});
    return resolve_config(all);
  }

  PretrainResult train(const std::string& out, const Settings& more) const {
    return pretrain(config(out, more));
  }

  /// Beside the base run.
  Settings adapted(const Settings& more = {}) const {
    Settings all = {{"init_from", (folder_ / "base").string()},
                    {"lora.rank", whole(8)},
                    {"lora.targets", std::vector<std::string>{"all-linear"}},
                    {"lr", 2e-2}};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  StateDict saved(const std::string& run, const char* file, int step = 4) const {
    return load_safetensors(folder_ / run / "checkpoints" /
                            ("step-0000000" + std::to_string(step)) / file);
  }

  std::string error_of(const Settings& more) const {
    return test::message_of<UserError>([&] { config("refused", more); });
  }

  /// Whether 4 steps and 3 more give the weights of 7.
  void expect_same_resumed(const Settings& more) const {
    train("parts", more);
    resume_pretraining(resume_config(folder_ / "parts", {{"max_steps", whole(7), "test"}}));
    Settings longer = more;
    longer.emplace_back("max_steps", whole(7));
    train("whole", longer);
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      const StateDict one = saved("whole", file, 7), other = saved("parts", file, 7);
      ASSERT_FALSE(one.tensors.empty());
      ASSERT_EQ(one.tensors.size(), other.tensors.size());
      for (const auto& [name, tensor] : one.tensors)
        EXPECT_TRUE(tensor.equal(other.tensors.at(name))) << file << " " << name;
    }
  }

  const test::TempFolder folder_;
};

TEST_F(LoraTraining, ChangesTheAdaptersAlone) {
  const PretrainResult result = train("run", adapted({{"max_steps", whole(9)}}));
  EXPECT_LT(*result.last_loss, *result.first_loss - 0.3);
  const StateDict base = saved("base", "model.safetensors");
  const StateDict run = saved("run", "model.safetensors", 9);
  EXPECT_EQ(run.tensors.size(), base.tensors.size() + 2 * 7 * 2);
  for (const auto& [name, tensor] : base.tensors)
    EXPECT_TRUE(run.tensor(name).equal(tensor)) << name;
  for (const auto& [name, tensor] : adapter_parameters(run).tensors)
    EXPECT_GT(tensor.abs().max().item<double>(), 0) << name;
  for (const auto& [name, tensor] : saved("run", "optimizer.safetensors", 9).tensors)
    if (!name.starts_with("trainer.")) {
      EXPECT_THAT(name, HasSubstr(".lora_"));
    }
}

class LoraIn : public LoraTraining,
               public testing::WithParamInterface<std::pair<std::string, std::string>> {};

std::vector<std::pair<std::string, std::string>> recipes() {
  std::vector<std::pair<std::string, std::string>> all;
  for (const std::string& precision : precision_names())
    for (const std::string& memory : memory_names())
      if (memory != "leanest" || !parse_precision(precision).loss_scaling)
        all.emplace_back(precision, memory);
  return all;
}

TEST_P(LoraIn, EveryRecipeLearns) {
  const auto& [precision, memory] = GetParam();
  const PretrainResult result = train("run", adapted({{"precision", precision},
                                                      {"memory", memory},
                                                      {"scaler.init_scale", 1024.0},
                                                      {"max_steps", whole(9)}}));
  EXPECT_EQ(result.skipped_steps, 0);
  EXPECT_LT(*result.last_loss, *result.first_loss - 0.2);
  const StateDict base = saved("base", "model.safetensors");
  const StateDict run = saved("run", "model.safetensors", 9);
  // What the recipe keeps narrower was rounded once, to the nearest.
  for (const auto& [name, tensor] : base.tensors)
    EXPECT_TRUE(run.tensor(name).equal(tensor.to(run.tensor(name).scalar_type()))) << name;
  for (const auto& [name, tensor] : saved("run", "optimizer.safetensors", 9).tensors)
    if (!name.starts_with("trainer.")) {
      EXPECT_THAT(name, HasSubstr(".lora_"));
    }
}

INSTANTIATE_TEST_SUITE_P(Recipes, LoraIn, testing::ValuesIn(recipes()), [](const auto& recipe) {
  std::string name = recipe.param.first + "_" + recipe.param.second;
  std::replace(name.begin(), name.end(), '-', '_');
  return "of_" + name;
});

TEST_F(LoraTraining, ResumesBitByBit) {
  expect_same_resumed(adapted({{"lora.dropout", 0.1}, {"precision", std::string("bf16-mixed")}}));
}

TEST_F(LoraTraining, AccumulatesAsOneBatch) {
  const Settings four = adapted({{"shuffle", false}});
  Settings two = adapted({{"shuffle", false}, {"batch_size", whole(2)}, {"accumulate", whole(2)}});
  const double one = *train("one", four).last_loss, other = *train("two", two).last_loss;
  EXPECT_NEAR(one, other, 1e-4);
}

TEST_F(LoraTraining, IsOpenedWithItsAdapters) {
  train("run", adapted({{"max_steps", whole(9)}}));
  TrainedModel trained = load_trained_model(folder_ / "run");
  EXPECT_EQ(trained.model->lora().rank, 8);
  CausalLM merged(trained.model->config());
  initialize_from(merged, folder_ / "run");
  const Tensor ids = torch::randint(300, {2, 20}, torch::kInt64);
  const Tensor logits = trained.model->forward(ids).logits;
  EXPECT_TRUE(merged->forward(ids).logits.allclose(logits, 1e-4, 1e-4));
  CausalLM base(trained.model->config());
  initialize_from(base, folder_ / "base");
  EXPECT_FALSE(base->forward(ids).logits.allclose(logits, 1e-2, 1e-2));
  EXPECT_LT(*train("again", {{"init_from", (folder_ / "run").string()}}).first_loss,
            *train("from_base", {{"init_from", (folder_ / "base").string()}}).first_loss);
}

// The model without its adapters is what it prefers to.
TEST_F(LoraTraining, PreferencesNeedNoSecondModel) {
  const Settings pairs =
      adapted({{"task", std::string("dpo")},
               {"data", std::vector<std::string>{(folder_ / "pairs.jsonl").string()}},
               {"lora.dropout", 0.1}});
  expect_same_resumed(pairs);
  EXPECT_FALSE(fs::exists(folder_ / "parts" / "reference.safetensors"));
  Settings plain = pairs;
  plain.back().second = 0.0;
  const PretrainResult result = train("plain", plain);
  EXPECT_NEAR(*result.first_loss, std::log(2.0), 1e-6) << "it begins as its reference";
  EXPECT_LT(*result.last_loss, *result.first_loss);
}

TEST_F(LoraTraining, GoesOnFromAnAdapter) {
  train("run", adapted({{"lora.alpha", 12.0}}));
  const TrainedModel trained = load_trained_model(folder_ / "run");
  fs::create_directories(folder_ / "adapter");
  write_peft_adapter(folder_ / "adapter", parameters_of(trained.model), trained.model->lora(),
                     trained.model->config());
  const Settings from_adapter = {{"init_from", (folder_ / "base").string()},
                                 {"lora.adapter", (folder_ / "adapter").string()},
                                 {"shuffle", false}};
  const TrainConfig resolved = config("more", from_adapter);
  EXPECT_EQ(resolved.lora, (LoraConfig{.rank = 8, .alpha = 12.0, .targets = lora_target_names()}));
  const double from_run =
      *train("merged", {{"init_from", (folder_ / "run").string()}, {"shuffle", false}}).first_loss;
  EXPECT_NEAR(*train("more", from_adapter).first_loss, from_run, 1e-4);
  EXPECT_THAT(error_of({{"init_from", (folder_ / "base").string()},
                        {"lora.adapter", (folder_ / "nothing").string()}}),
              HasSubstr("lora.adapter: expected a folder"));
  // Then the reference of preferences is what it went on from, and is kept in the run.
  Settings pairs = from_adapter;
  pairs.emplace_back("task", std::string("dpo"));
  pairs.emplace_back("data", std::vector<std::string>{(folder_ / "pairs.jsonl").string()});
  fs::remove_all(folder_ / "parts");
  expect_same_resumed(pairs);
  EXPECT_TRUE(fs::exists(folder_ / "parts" / "reference.safetensors"));
  fs::remove_all(folder_ / "adapter");
  EXPECT_EQ(resume_config(folder_ / "parts", {}).lora.rank, 8) << "the run has written it down";
}

TEST_F(LoraTraining, LeavesInEveryFormat) {
  train("run", adapted());
  for (const ExportFormat* const format : export_formats())
    for (const ExportDtype dtype : format->dtypes()) {
      const ExportReport report =
          export_model({.model = folder_ / "run", .format = format, .dtype = dtype});
      EXPECT_EQ(report.check.failure(), "") << format->name() << " " << name_of(dtype);
      if (dtype == ExportDtype::kF32) {
        EXPECT_LT(report.check.logits_error, 1e-10) << format->name();
      }
    }
  EXPECT_THAT(test::message_of<UserError>([&] {
                export_model({.model = folder_ / "base", .format = &export_format("peft")});
              }),
              HasSubstr("peft: this model was trained without adapters"));
}

TEST_F(LoraTraining, RefusesWhatDoesNotGoTogether) {
  EXPECT_THAT(error_of({{"lora.rank", whole(4)}}), HasSubstr("name them with init_from"));
  EXPECT_THAT(error_of({{"lora.alpha", 4.0}}), HasSubstr("lora.alpha goes with adapters"));
  EXPECT_THAT(error_of(adapted({{"lora.targets", std::vector<std::string>{"q_porj"}}})),
              HasSubstr("did you mean 'q_proj'?"));
  EXPECT_THAT(error_of(adapted({{"lora.rank", whole(65)}})), HasSubstr("expected at most 64"));
  EXPECT_THAT(error_of(adapted({{"lora.rank", whole(-1)}})), HasSubstr("lora.rank"));
}

}  // namespace
}  // namespace halftone::lora_training_test
