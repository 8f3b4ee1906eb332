// SPDX-License-Identifier: Apache-2.0
// precision = "auto" and the tuning of a run, on a small model and text.
#include "halftone/pretrain/tuned_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/pretrain/auto_precision.h"
#include "halftone/pretrain/config_file.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/pretrain.h"
#include "halftone/run/run_directory.h"
#include "support/temp_folder.h"

namespace halftone::tuned_run_test {
namespace {

using test::message_of;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

class TunedRunTest : public testing::Test {
 protected:
  TunedRunTest() {
    std::string text;
    for (int i = 0; i < 800; ++i)
      text += "Line " + std::to_string(i) + ": " + std::to_string(i * i % 97) + " geese, 春江.\n";
    test::write_text(folder_ / "text.txt", text);
    set_log_sink([this](LogLevel, const std::string& message) { notes_.push_back(message); });
  }
  ~TunedRunTest() override { set_log_sink({}); }

  std::vector<ConfigAssignment> assignments(const std::string& precision,
                                            const std::string& out = "run") const {
    std::vector<ConfigAssignment> all;
    const auto add = [&](const std::string& key, const std::string& value) {
      all.push_back(assignment_from_flag(key, {value}));
    };
    add("preset", "tiny");
    add("model.dim", "64");
    add("model.n_layers", "2");
    add("data", folder_ / "text.txt");
    add("tokenizer_vocab_size", "300");
    add("batch_size", "4");
    add("seq_len", "32");
    add("max_steps", "6");
    add("save_every", "3");
    add("device", "cpu");
    add("precision", precision);
    add("out", folder_ / out);
    return all;
  }
  TrainConfig config(const std::string& precision, const std::string& out = "run") const {
    return resolve_config(assignments(precision, out));
  }

  test::TempFolder folder_;
  std::vector<std::string> notes_;
};

TEST_F(TunedRunTest, ChoosablePrecisionsAreThoseThatGoWithTheMemoryRecipe) {
  EXPECT_THAT(choosable_precisions({}),
              testing::ElementsAre("32-true", "bf16-mixed", "16-mixed", "int8-mixed",
                                   "fp8-row-mixed", "fp8-mixed"));
  EXPECT_THAT(choosable_precisions({.memory = "leanest"}), Not(Contains("16-mixed")));
  EXPECT_THAT(choosable_precisions({.master_weights = "split16"}),
              testing::ElementsAre("bf16-mixed", "fp8-row-mixed", "fp8-mixed"));
}

TEST_F(TunedRunTest, AutoWritesThePrecisionThatItChoseIntoTheRun) {
  pretrain(config("auto"));
  const std::string toml = test::read_text(folder_ / "run/config.toml");
  EXPECT_EQ(toml.find("\"auto\"\nrounding"), std::string::npos);
  const TrainConfig saved = resume_config(folder_ / "run", {});
  EXPECT_THAT(choosable_precisions({}), Contains(saved.precision));
  EXPECT_THAT(notes_, Contains(HasSubstr("precision auto: " + saved.precision + ": a step takes")));

  // The command that started it may say auto again: the run has chosen.
  notes_.clear();
  std::vector<ConfigAssignment> again = assignments("auto");
  again.push_back(assignment_from_flag("max_steps", {"8"}));
  const TrainConfig resumed = resume_config(folder_ / "run", again);
  EXPECT_EQ(resumed.precision, saved.precision);
  const PretrainResult result = resume_pretraining(resumed);
  EXPECT_EQ(result.steps, 8);
  EXPECT_THAT(notes_, Not(Contains(HasSubstr("precision auto"))));

  // The same run in the precision by its name has the same bits.
  std::vector<ConfigAssignment> named = assignments(saved.precision, "named");
  named.push_back(assignment_from_flag("max_steps", {"8"}));
  // Steps depend on the schedule, so it is resumed at the same place.
  TrainConfig first = resolve_config(assignments(saved.precision, "named"));
  pretrain(first);
  resume_pretraining(resume_config(folder_ / "named", named));
  EXPECT_EQ(test::read_text(folder_ / "run/checkpoints/step-00000008/model.safetensors"),
            test::read_text(folder_ / "named/checkpoints/step-00000008/model.safetensors"));
}

TEST_F(TunedRunTest, AutoIsRefusedWhereNothingFits) {
  TrainConfig small = config("auto");
  small.memory_budget = "1MiB";
  EXPECT_THAT(message_of<UserError>([&] { pretrain(small); }),
              HasSubstr("precision auto: no precision fits into the memory budget"));
}

TEST_F(TunedRunTest, TrainsTwoSideBySideFromOneStart) {
  const TrainConfig one = config("bf16-mixed");
  LoadedStep loaded(one);
  const PairedTraining same =
      train_side_by_side(one, one, loaded.inputs(), {}, {.seconds = 60, .most_steps = 3});
  EXPECT_EQ(same.steps, 3);
  EXPECT_EQ(same.first_loss, same.second_loss);
  EXPECT_GT(same.first_step_s, 0);
  EXPECT_LT(same.first_loss, std::log(300.0) + 1);
  TrainConfig lowered = one;
  lowered.layer_precision = {".*=fp8"};
  const PairedTraining two =
      train_side_by_side(one, lowered, loaded.inputs(), {}, {.seconds = 60, .most_steps = 3});
  EXPECT_EQ(two.first_loss, same.first_loss);
  EXPECT_NE(two.second_loss, two.first_loss);
  EXPECT_NEAR(two.second_loss, two.first_loss, 0.1);
  const PairedTraining all =
      train_side_by_side(one, one, loaded.inputs(), {}, {.seconds = 600, .most_steps = 100});
  EXPECT_EQ(all.steps, 6) << "the run's own limit";
}

TEST_F(TunedRunTest, FindsAConfigurationThatTrains) {
  const TrainConfig from_fp8 = config("fp8-mixed");
  LoadedStep loaded(from_fp8);
  const TunedRun tuned = tune_run(loaded, {}, {.loss_increase = 0.5, .max_seconds = 120});
  ASSERT_FALSE(tuned.tuning.formats.empty()) << tuned.tuning.verdict;
  EXPECT_EQ(tuned.validation.steps, 6);
  EXPECT_TRUE(tuned.no_validation.empty()) << tuned.no_validation;
  EXPECT_TRUE(tuned.holds);
  EXPECT_EQ(tuned.config.layer_precision, tuned.tuning.layer_precision);
  EXPECT_EQ(tuned.config.precision, "fp8-mixed");
  test::write_text(folder_ / "tuned.toml", config_to_toml(tuned.config));
  const TrainConfig read = resolve_config(read_config_file(folder_ / "tuned.toml"));
  EXPECT_EQ(pretrain(read).steps, 6);
  EXPECT_EQ(resume_config(folder_ / "run", {}).layer_precision, tuned.config.layer_precision);
}

TEST_F(TunedRunTest, GoesOnFromACheckpointOfARun) {
  pretrain(config("bf16-mixed"));
  const std::string run = folder_ / "run";
  TrainConfig longer = changed_run_config(run, {assignment_from_flag("max_steps", {"20"})});
  LoadedStep loaded(run, longer, std::nullopt);
  const PairedTraining both =
      train_side_by_side(longer, longer, loaded.inputs(), {run, loaded.optimizer_step()},
                         {.seconds = 60, .most_steps = 2});
  EXPECT_EQ(both.steps, 2);
  EXPECT_EQ(both.first_loss, both.second_loss);
  const TrainConfig ended = changed_run_config(run, {});
  EXPECT_EQ(train_side_by_side(ended, ended, loaded.inputs(), {run, loaded.optimizer_step()},
                               {.seconds = 60})
                .steps,
            0);
}

TEST_F(TunedRunTest, GivesBackTheReferenceWhereNothingMayBeLost) {
  const TrainConfig plain = config("fp8-mixed");
  LoadedStep loaded(plain);
  const TunedRun tuned = tune_run(loaded, {}, {.loss_increase = 1e-12, .max_seconds = 120});
  EXPECT_TRUE(tuned.config.layer_precision.empty());
  EXPECT_EQ(tuned.no_validation, "the choice is the reference itself");
}

}  // namespace
}  // namespace halftone::tuned_run_test
