// SPDX-License-Identifier: Apache-2.0
// Validation while a run trains: its numbers beside those of eval, and what becomes of the run.
#include "halftone/pretrain/validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>
#include <sstream>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/evaluate.h"
#include "halftone/pretrain/pretrain.h"
#include "halftone/pretrain/trained_model.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::validation_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::message_of;
using test::write_text;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

/// Keys and values of a configuration, beside those that make it small.
using Keys = std::map<std::string, std::string>;

class RunValidation : public testing::Test {
 protected:
  RunValidation() {
    std::string lines;
    for (int i = 0; i < 240; ++i)
      lines +=
          json({{"text", "Line " + std::to_string(i) + ": " + std::to_string(i * i % 97) +
                             " geese, 春江" + std::string(static_cast<std::size_t>(i % 9), 'a')}})
              .dump() +
          "\n";
    write_text(folder_ / "text.jsonl", lines);
    write_text(folder_ / "other.txt", "Other lines: 31 geese over the river.\nNo more of them.\n");
    set_log_sink([this](LogLevel, const std::string& message) { notes_.push_back(message); });
  }
  ~RunValidation() override { set_log_sink({}); }

  std::vector<ConfigAssignment> assignments(const Keys& more) const {
    Keys keys = {{"preset", "tiny"},
                 {"model.dim", "32"},
                 {"model.n_layers", "1"},
                 {"model.dropout", "0.1"},
                 {"data", folder_ / "text.jsonl"},
                 {"tokenizer_vocab_size", "300"},
                 {"batch_size", "3"},
                 {"seq_len", "32"},
                 {"max_steps", "10"},
                 {"save_every", "4"},
                 {"device", "cpu"},
                 {"precision", "32-true"},
                 {"out", folder_ / "run"}};
    for (const auto& [key, value] : more) keys[key] = value;
    std::vector<ConfigAssignment> all;
    for (const auto& [key, value] : keys) all.push_back(assignment_from_flag(key, {value}));
    return all;
  }
  TrainConfig config(const Keys& more) const { return resolve_config(assignments(more)); }
  PretrainResult resume(const Keys& changes) const {
    std::vector<ConfigAssignment> flags;
    for (const auto& [key, value] : changes) flags.push_back(assignment_from_flag(key, {value}));
    return resume_pretraining(resume_config(folder_ / "run", flags));
  }

  /// The lines of a run: those of validations, or the others without their timings.
  std::vector<json> lines(const std::string& run, bool of_validation) const {
    std::vector<json> found;
    std::istringstream text(test::read_text(folder_ / run / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      json parsed = json::parse(line);
      if (parsed.contains("val_loss") != of_validation) continue;
      for (const char* other : {"tokens_per_s", "step_ms", "rss_mib", "tensors_mib"})
        parsed.erase(other);
      found.push_back(std::move(parsed));
    }
    return found;
  }
  std::vector<std::int64_t> validated_steps(const std::string& run = "run") const {
    std::vector<std::int64_t> steps;
    for (const json& line : lines(run, true)) steps.push_back(line.at("step"));
    return steps;
  }

  test::TempFolder folder_;
  std::vector<std::string> notes_;
};

/// What eval gives of `text`, in rows as the run's.
EvalResult evaluated(const fs::path& weights, const TrainConfig& config, Corpus text) {
  TrainedModel trained = load_trained_model(weights);
  MixedPrecision precision(parse_precision(config.precision), {}, torch::kCPU);
  precision.convert_module(*trained.model);
  const TokenLoader loader(encode_corpus(text, config, trained.tokenizer),
                           {.batch_size = config.batch_size,
                            .seq_len = config.seq_len,
                            .pack = config.pack,
                            .shuffle = false});
  return evaluate(trained.model, loader, precision,
                  token_bytes(trained.tokenizer, trained.model->config().vocab_size));
}

void expect_equal(const json& line, const EvalResult& eval) {
  const auto expect_near = [&](const char* key, double expected) {
    EXPECT_NEAR(line.at(key).get<double>(), expected, 1e-9 * expected) << key;
  };
  expect_near("val_loss", eval.loss);
  expect_near("val_perplexity", eval.perplexity);
  expect_near("val_bits_per_byte", eval.bits_per_byte);
}

TEST_F(RunValidation, GivesWhatEvalGives) {
  const std::vector<Keys> recipes = {
      {{"precision", "32-true"}},
      {{"precision", "bf16-mixed"}},
      {{"precision", "16-mixed"}, {"pack", "false"}},
      {{"precision", "bf16-true"}},
      {{"precision", "32-true"}, {"model.use_moe", "true"}, {"model.n_routed_experts", "2"}}};
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    Keys keys = recipes[i];
    keys["out"] = folder_ / ("run" + std::to_string(i));
    keys["val_split"] = "0.2";
    const TrainConfig trained = config(keys);
    pretrain(trained);
    const std::vector<json> validations = lines("run" + std::to_string(i), true);
    ASSERT_EQ(validations.size(), 3U);
    const Corpus held_out =
        open_corpus(trained).other_part(held_out_part(trained, SamplePart::Side::kHeldOut));
    for (const auto& [line, step] : {std::pair(1, 8), std::pair(2, 10)})
      expect_equal(validations[static_cast<std::size_t>(line)],
                   evaluated(checkpoint_folder(trained.out, step), trained,
                             held_out.other_part(held_out.options().part)));
  }
}

TEST_F(RunValidation, IsOverTokensHoweverManyABatchHas) {
  const Keys keys = {{"val_data", folder_ / "other.txt"}, {"pack", "false"}, {"seq_len", "24"}};
  pretrain(config(keys));
  const json few = lines("run", true).back();
  ASSERT_EQ(few.at("step"), 10);
  TrainConfig one_by_one = config(keys);
  one_by_one.batch_size = 1;
  one_by_one.data = {folder_ / "other.txt"};
  const EvalResult eval =
      evaluated(folder_ / "run", one_by_one, *open_validation_text(config(keys)));
  EXPECT_NEAR(few.at("val_loss").get<double>(), eval.loss, 1e-6 * eval.loss);
  EXPECT_NEAR(few.at("val_bits_per_byte").get<double>(),
              eval.loss * static_cast<double>(eval.tokens) / std::numbers::ln2 /
                  static_cast<double>(eval.bytes),
              1e-6 * eval.bits_per_byte);
}

TEST_F(RunValidation, TakesPlaceWhenItIsSaidTo) {
  const auto steps = [&](Keys keys) {
    keys["overwrite"] = "true";
    if (!keys.contains("val_data")) keys["val_split"] = "0.1";
    pretrain(config(keys));
    return validated_steps();
  };
  EXPECT_THAT(steps({}), ElementsAre(4, 8, 10)) << "as it saves";
  EXPECT_THAT(steps({{"save_every", "0"}}), ElementsAre(10));
  EXPECT_THAT(steps({{"val_every", "5"}}), ElementsAre(5, 10)) << "the last one once";
  EXPECT_THAT(steps({{"val_every", "100"}}), ElementsAre(10));
  EXPECT_THAT(steps({{"val_data", folder_ / "other.txt"}, {"val_every", "6"}}), ElementsAre(6, 10));
}

TEST_F(RunValidation, ChangesNoNumberOfTheTraining) {
  for (const char* precision : {"bf16-mixed", "int8-mixed"}) {
    const Keys keys = {{"precision", precision}, {"overwrite", "true"}};
    pretrain(config(keys));
    const std::vector<json> alone = lines("run", false);
    Keys validated = keys;
    validated["val_data"] = folder_ / "other.txt";
    validated["val_every"] = "3";
    pretrain(config(validated));
    EXPECT_EQ(lines("run", false), alone) << precision;
    EXPECT_EQ(validated_steps(), (std::vector<std::int64_t>{3, 6, 9, 10}));
  }
}

/// A run that learns one letter, and is validated on another: its loss only rises.
class RisingLoss : public RunValidation {
 protected:
  RisingLoss() {
    std::string letters;
    for (int i = 0; i < 200; ++i) letters += "a b";
    write_text(folder_ / "learnt.txt", letters);
    write_text(folder_ / "foreign.txt", "xyz zyx yxz");
    keys_ = {{"data", folder_ / "learnt.txt"},
             {"val_data", folder_ / "foreign.txt"},
             {"val_every", "1"},
             {"save_every", "4"},
             {"lr", "0.01"},
             {"model.dropout", "0"},
             {"early_stop", "3"}};
  }

  Keys keys_;
};

TEST_F(RisingLoss, EndsTheRunAndKeepsTheBest) {
  keys_["keep_checkpoints"] = "1";
  const PretrainResult result = pretrain(config(keys_));
  EXPECT_EQ(result.steps, 4);
  EXPECT_TRUE(result.ended_early);
  EXPECT_FALSE(result.stopped) << "it is no interruption";
  EXPECT_THAT(notes_, Contains(HasSubstr("val_loss has not been better than")));
  ASSERT_TRUE(result.best);
  EXPECT_EQ(result.best->step, 1);
  EXPECT_EQ(result.best->loss, lines("run", true).front().at("val_loss"));
  EXPECT_THAT(checkpoint_steps(folder_ / "run"), ElementsAre(4));
  EXPECT_THAT(checkpoint_steps(folder_ / "run/best"), ElementsAre(1));
  const TrainConfig trained = config(keys_);
  for (const char* best : {"run/best", "run/best/", "run/best/checkpoints/step-00000001"})
    expect_equal(lines("run", true).front(),
                 evaluated(folder_ / best, trained, *open_validation_text(trained)));
}

TEST_F(RisingLoss, StaysEndedUntilMoreIsAllowed) {
  pretrain(config(keys_));
  EXPECT_EQ(resume({}).steps, 4);
  EXPECT_THAT(notes_, Contains(AllOf(HasSubstr("early stopping has ended this run"),
                                     HasSubstr("raise early_stop to go on"))));
  const PretrainResult more = resume({{"early_stop", "5"}});
  EXPECT_EQ(more.steps, 6) << "what was waited before counts";
  EXPECT_TRUE(more.ended_early);
  const PretrainResult all = resume({{"early_stop", "0"}, {"val_every", "2"}});
  EXPECT_EQ(all.steps, 10);
  EXPECT_FALSE(all.ended_early);
  EXPECT_THAT(validated_steps(), ElementsAre(1, 2, 3, 4, 5, 6, 8, 10));
  EXPECT_THAT(checkpoint_steps(folder_ / "run/best"), ElementsAre(1));
}

TEST_F(RunValidation, IsOnTheSameTextWhenTheRunGoesOn) {
  pretrain(config({{"val_data", folder_ / "other.txt"}, {"max_steps", "4"}}));
  EXPECT_THAT(message_of<UserError>([&] {
                resume({{"val_split", "0.1"}});
              }),
              HasSubstr("val_split is not set in the run"));
  write_text(folder_ / "other.txt", "Changed.");
  EXPECT_THAT(message_of<UserError>([&] {
                resume({{"max_steps", "8"}});
              }),
              HasSubstr("cannot resume: the validation data is not what the saved run was"));
}

TEST_F(RunValidation, NamesTheTensorOfALossThatIsNotFinite) {
  const PretrainResult result = pretrain(config({{"val_data", folder_ / "other.txt"},
                                                 {"lr", "1e18"},
                                                 {"schedule", "constant"},
                                                 {"grad_clip", "0"},
                                                 {"max_steps", "1"},
                                                 {"early_stop", "2"}}));
  ASSERT_EQ(lines("run", true).size(), 1U);
  EXPECT_TRUE(lines("run", true).front().at("val_loss").is_null());
  EXPECT_THAT(notes_, Contains(testing::ContainsRegex(
                          "validation at step 1: the loss of batch 1 is .*'[a-z0-9_.]+'")));
  EXPECT_FALSE(result.best);
  EXPECT_FALSE(result.ended_early) << "it may be finite again";
}

TEST_F(RunValidation, WarnsOfTextThatIsTrainedOn) {
  pretrain(config({{"val_data", folder_ / "text.jsonl"}, {"max_steps", "1"}}));
  EXPECT_THAT(notes_, Contains(HasSubstr("val_data is the text that is trained on")));
}

TEST_F(RunValidation, IsRefusedBeforeAnythingIsWritten) {
  const auto refusal = [&](const Keys& keys) {
    return message_of<UserError>([&] { pretrain(config(keys)); });
  };
  EXPECT_THAT(refusal({{"val_data", folder_ / "missing.txt"}}), HasSubstr("missing.txt"));
  EXPECT_THAT(refusal({{"val_split", "0.000000001"}}),
              HasSubstr("the data has 240 documents, of which a val_split of 1e-09 leaves none"));
  EXPECT_THAT(refusal({{"val_split", "0.1"}, {"val_data", "a.txt"}}),
              HasSubstr("--val-split: val_split holds documents of data out"));
  EXPECT_THAT(refusal({{"early_stop", "3"}}),
              HasSubstr("--early-stop: early_stop needs text to validate on, got none; add "));
  EXPECT_THAT(refusal({{"val_every", "3"}}), HasSubstr("--val-every: val_every needs text"));
  for (const char* share : {"0", "1", "-0.1", "nan"})
    EXPECT_THAT(refusal({{"val_split", share}}), HasSubstr("a number between 0 and 1")) << share;
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(RunValidation, StandsInTheEventFilesToo) {
  Keys keys = {{"val_split", "0.1"}, {"log_every", "4"}, {"overwrite", "true"}};
  pretrain(config(keys));
  std::string events;
  for (const auto& file : fs::directory_iterator(folder_ / "run/tensorboard"))
    events += test::read_text(file.path());
  const auto times = [&](const std::string& name) {
    std::size_t count = 0;
    for (std::size_t at = events.find(name); at != events.npos; at = events.find(name, at + 1))
      ++count;
    return count;
  };
  EXPECT_EQ(times("val_loss"), 3U);
  EXPECT_EQ(times("val_perplexity"), 3U);
  EXPECT_EQ(times("val_bits_per_byte"), 3U);
  EXPECT_EQ(times("grad_norm"), 2U) << "steps 4 and 8";
  keys["tensorboard"] = "false";
  pretrain(config(keys));
  EXPECT_FALSE(fs::exists(folder_ / "run/tensorboard"));
}

TEST_F(RunValidation, TrainsOnWhatIsNotHeldOut) {
  const TrainConfig split = config({{"val_split", "0.2"}});
  const PretrainInputs inputs = prepare_pretraining(split, std::nullopt);
  auto validation = make_validation_data(split, inputs, std::nullopt);
  ASSERT_TRUE(validation);
  EXPECT_EQ(inputs.data.tokens->samples() + validation->data.tokens->samples(), 240U);
  EXPECT_GT(validation->data.tokens->samples(), 20U);
  EXPECT_NE(inputs.data.content_hash, validation->data.content_hash);
  const PretrainInputs whole = prepare_pretraining(config({}), inputs.tokenizer);
  EXPECT_EQ(whole.data.tokens->samples(), 240U);
  EXPECT_FALSE(make_validation_data(config({}), whole, std::nullopt));
}

}  // namespace
}  // namespace halftone::validation_test
