// SPDX-License-Identifier: Apache-2.0
// The program validates while it trains: the same numbers as eval, the best weights, early
// stopping, and a run that was killed goes on as if it had not been.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/program_run.h"

namespace halftone::validation_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::read_text;
using test::write_text;
using testing::HasSubstr;

using test::Flags;
using test::Words;
using Outcome = test::RunOutcome;

class ProgramValidation : public test::ProgramRun {
 protected:
  ProgramValidation() : ProgramRun(40) {}

  /// `more`: flags that add to the others or take their place.
  Words train(const std::string& run, const Flags& more) const {
    Flags flags = {{"--preset", "tiny"},
                   {"--model.dim", "32"},
                   {"--model.n-layers", "2"},
                   {"--model.dropout", "0.1"},
                   {"--data", folder_ / "text.jsonl"},
                   {"--tokenizer-vocab-size", "300"},
                   {"--batch-size", "4"},
                   {"--seq-len", "48"},
                   {"--max-steps", "24"},
                   {"--save-every", "4"},
                   {"--precision", "bf16-mixed"},
                   {"--threads", "2"},
                   {"--out", folder_ / run}};
    return words_of("train", std::move(flags), more);
  }

  json last_validation(const std::string& run) const {
    json last;
    for (const json& line : metrics(run))
      if (line.contains("val_loss")) last = line;
    return last;
  }

  /// Kills the command once the run has logged so many lines.
  void kill_at(const Words& words, const std::string& run, std::size_t lines) const {
    const pid_t pid = test::start_program(words, "/dev/null", "/dev/null");
    while (metrics(run).size() < lines) {
      ASSERT_EQ(waitpid(pid, nullptr, WNOHANG), 0) << "it ended before line " << lines;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    kill(pid, SIGKILL);
    EXPECT_EQ(test::wait_for_program(pid).code, -SIGKILL);
  }

  void expect_same_weights(const std::string& first, const std::string& second) const {
    for (const std::string file : {"/model.safetensors", "/optimizer.safetensors"}) {
      const std::string bytes = read_text(folder_ / (first + file));
      EXPECT_FALSE(bytes.empty());
      EXPECT_TRUE(bytes == read_text(folder_ / (second + file))) << file << " differs";
    }
  }
  void expect_same_best(const std::string& first, const std::string& second) const {
    std::string steps[2];
    for (const auto& [run, step] : {std::pair(first, &steps[0]), std::pair(second, &steps[1])})
      for (const auto& entry : fs::directory_iterator(folder_ / (run + "/best/checkpoints")))
        *step += "/best/checkpoints/" + entry.path().filename().string();
    EXPECT_EQ(steps[0], steps[1]);
    expect_same_weights(first + steps[0], second + steps[1]);
  }

  void expect_evaluates_to(const json& line, const Words& words) const {
    Words all = {"eval"};
    all.insert(all.end(), words.begin(), words.end());
    all.insert(all.end(), {"--json", "--batch-size", "4", "--threads", "2"});
    const Outcome outcome = run(all);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const json eval = json::parse(outcome.out);
    for (const char* key : {"loss", "perplexity", "bits_per_byte"}) {
      const auto expected = eval.at(key).get<double>();
      EXPECT_NEAR(line.at(std::string("val_") + key).get<double>(), expected, 1e-9 * expected)
          << key << ' ' << words.front();
    }
  }
};

TEST_F(ProgramValidation, GivesTheNumbersOfEvalAndKeepsTheBestWeights) {
  const std::string foreign = folder_ / "foreign.txt", folder = folder_ / "run";
  const Outcome trained = run(train("run", {{"--val-data", foreign},
                                            {"--val-every", "5"},
                                            {"--keep-checkpoints", "1"},
                                            {"--lr", "0.01"}}));
  ASSERT_EQ(trained.code, 0) << trained.err;
  std::vector<std::int64_t> steps;
  json best;
  for (const json& line : metrics("run")) {
    if (!line.contains("val_loss")) continue;
    steps.push_back(line.at("step"));
    if (best.is_null() || line.at("val_loss") < best.at("val_loss")) best = line;
  }
  EXPECT_THAT(steps, testing::ElementsAre(5, 10, 15, 20, 24));
  EXPECT_THAT(trained.err, HasSubstr(" tokens, every 5 steps and at the last step"));
  EXPECT_THAT(trained.err, HasSubstr("step 24  val_bits_per_byte "));
  EXPECT_THAT(trained.err, HasSubstr("at step " + best.at("step").dump() + ", in "));
  const std::string step = fs::directory_iterator(folder_ / "run/best/checkpoints")->path();
  expect_evaluates_to(last_validation("run"), {folder, "--data", foreign});
  expect_evaluates_to(last_validation("run"), {folder});
  expect_evaluates_to(last_validation("run"), {folder + "/checkpoints/step-00000024"});
  expect_evaluates_to(best, {folder + "/best", "--data", foreign});
  expect_evaluates_to(best, {folder + "/best/"});
  expect_evaluates_to(best, {step, "--data", foreign});
}

TEST_F(ProgramValidation, GivesTheNumbersOfEvalInEachRecipe) {
  const std::vector<Flags> recipes = {
      {{"--keep-fp32", "feed_forward"}, {"--layer-precision", "attention=int8"}},
      {{"--memory", "lean"}, {"--model.dim", "64"}},
      {{"--precision", "16-true"}},
      {{"--precision", "fp8-mixed"}}};
  for (Flags flags : recipes) {
    flags.insert({{"--val-split", "0.1"}, {"--overwrite", "true"}, {"--max-steps", "3"}});
    const Outcome trained = run(train("run", flags));
    ASSERT_EQ(trained.code, 0) << trained.err;
    expect_evaluates_to(last_validation("run"), {folder_ / "run"});
  }
}

TEST_F(ProgramValidation, TheBestWeightsWriteAndAreStartedFrom) {
  ASSERT_EQ(run(train("run", {{"--val-split", "0.1"}})).code, 0);
  expect_evaluates_to(last_validation("run"), {folder_ / "run"});
  const std::string best = folder_ / "run/best", foreign = folder_ / "foreign.txt";
  const Outcome text = run({"generate", best, "--greedy", "--max-new-tokens", "4"});
  EXPECT_EQ(text.code, 0) << text.err;
  const Outcome more = run(train("more", {{"--tokenizer", folder_ / "run"},
                                          {"--init-from", best},
                                          {"--val-data", foreign},
                                          {"--max-steps", "1"},
                                          {"--lr", "1e-30"}}));
  ASSERT_EQ(more.code, 0) << more.err;
  expect_evaluates_to(last_validation("more"), {best, "--data", foreign});
}

TEST_F(ProgramValidation, ChangesNoNumberOfTheTraining) {
  ASSERT_EQ(run(train("alone", {})).code, 0);
  const Words validated =
      train("validated", {{"--val-data", folder_ / "foreign.txt"}, {"--val-every", "3"}});
  ASSERT_EQ(run(validated).code, 0);
  std::vector<json> of_steps = metrics("validated");
  std::erase_if(of_steps, [](const json& line) { return line.contains("val_loss"); });
  EXPECT_EQ(of_steps, metrics("alone"));
  expect_same_weights("alone/checkpoints/step-00000024", "validated/checkpoints/step-00000024");
}

TEST_F(ProgramValidation, GoesOnAfterAKillAsIfItHadNotBeen) {
  const Flags more = {{"--val-split", "0.1"}, {"--val-every", "3"}, {"--early-stop", "4"}};
  ASSERT_EQ(run(train("whole", more)).code, 0);
  kill_at(train("killed", more), "killed", 8);
  const Words resume = {"train", "--resume", folder_ / "killed"};
  kill_at(resume, "killed", 20);
  ASSERT_EQ(run(resume).code, 0);
  EXPECT_EQ(metrics("killed"), metrics("whole"));
  EXPECT_EQ(metrics("whole").size(), 24U + 8U);
  expect_same_weights("whole/checkpoints/step-00000024", "killed/checkpoints/step-00000024");
  expect_same_best("whole", "killed");
}

// What is validated is foreign to what is learnt: after a while it only gets worse.
TEST_F(ProgramValidation, StopsEarlyAtTheSameStepAfterAKill) {
  write_text(folder_ / "letters.txt", std::string(4'000, 'a'));
  const auto words = [&](const std::string& run) {
    return train(run, {{"--data", folder_ / "letters.txt"},
                       {"--val-data", folder_ / "foreign.txt"},
                       {"--val-every", "2"},
                       {"--early-stop", "3"},
                       {"--lr", "0.01"},
                       {"--max-steps", "60"}});
  };
  const Outcome whole = run(words("whole"));
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_THAT(whole.err, HasSubstr("val_loss has not been better than"));
  EXPECT_THAT(whole.err, testing::Not(HasSubstr("stopped and saved")));
  const std::size_t lines = metrics("whole").size();
  ASSERT_LT(lines, 90U) << "it ended early";
  kill_at(words("killed"), "killed", lines - 2);
  ASSERT_EQ(run({"train", "--resume", folder_ / "killed"}).code, 0);
  EXPECT_EQ(metrics("killed"), metrics("whole"));
  expect_same_best("whole", "killed");
  EXPECT_EQ(run({"train", "--resume", folder_ / "killed"}).code, 0) << "it stays ended";
  EXPECT_EQ(metrics("killed"), metrics("whole"));
}

TEST_F(ProgramValidation, WorksWithTimeAndEpochs) {
  const Flags epochs = {{"--val-split", "0.1"}, {"--max-epochs", "1"}};
  const Flags time = {{"--val-split", "0.1"}, {"--max-time", "1s"}, {"--val-every", "9999"}};
  ASSERT_EQ(run(train("epochs", epochs)).code, 0);
  ASSERT_EQ(run(train("time", time)).code, 0);
  for (const char* name : {"epochs", "time"}) {
    const std::vector<json> lines = metrics(name);
    EXPECT_TRUE(lines.back().contains("val_loss")) << name << ": the last step is validated";
    EXPECT_EQ(lines.back().at("step"), lines[lines.size() - 2].at("step"));
  }
}

}  // namespace
}  // namespace halftone::validation_test
