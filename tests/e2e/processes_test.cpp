// SPDX-License-Identifier: Apache-2.0
// The program trains, validates and evaluates in several processes as in one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/run/checkpoint.h"
#include "support/program_run.h"

namespace halftone::processes_test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

using test::Flags;
using test::Words;
using Outcome = test::RunOutcome;

class ProgramProcesses : public test::ProgramRun {
 protected:
  ProgramProcesses() : ProgramRun(90) {}

  /// In `processes`, started by the program itself where there are several.
  Outcome run(int processes, const Words& words) const {
    Words all;
    if (processes > 1) all = {"launch", "--processes", std::to_string(processes)};
    all.insert(all.end(), words.begin(), words.end());
    return ProgramRun::run(all);
  }

  Words train(const std::string& run, const Flags& more) const {
    Flags flags = {{"--preset", "tiny"},
                   {"--model.dim", "64"},
                   {"--model.n-layers", "2"},
                   {"--data", folder_ / "text.jsonl"},
                   {"--val-data", folder_ / "foreign.txt"},
                   {"--val-every", "4"},
                   {"--tokenizer-vocab-size", "300"},
                   {"--seq-len", "48"},
                   {"--max-steps", "8"},
                   {"--save-every", "4"},
                   {"--precision", "32-true"},
                   {"--schedule", "constant"},
                   {"--threads", "1"},
                   {"--out", folder_ / run}};
    return words_of("train", std::move(flags), more);
  }

  StateDict weights(const std::string& run) const {
    return load_latest_checkpoint(folder_ / run).model;
  }
};

TEST_F(ProgramProcesses, TrainAndValidateAsOneWithTheirBatches) {
  const Outcome one = run(1, train("one", {{"--batch-size", "8"}}));
  ASSERT_EQ(one.code, 0) << one.err;
  const Outcome two = run(2, train("two", {{"--batch-size", "4"}, {"--shard", "optimizer"}}));
  ASSERT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(two.out, (folder_ / "two").string() + "\n") << "said once";
  EXPECT_EQ(two.err.find("[rank 1]"), std::string::npos) << two.err;
  const std::vector<json> alone = metrics("one"), together = metrics("two");
  ASSERT_EQ(alone.size(), together.size());
  int validations = 0;
  for (std::size_t i = 0; i < alone.size(); ++i) {
    for (const char* key : {"loss", "grad_norm", "val_loss", "val_perplexity", "tokens"})
      if (alone[i].contains(key)) {
        const auto expected = alone[i][key].get<double>();
        EXPECT_NEAR(together[i][key].get<double>(), expected, 1e-6 * std::max(1.0, expected))
            << key << " in line " << i;
      }
    validations += alone[i].contains("val_loss") ? 1 : 0;
  }
  EXPECT_EQ(validations, 2);
}

TEST_F(ProgramProcesses, EvaluateTogetherWhatOneEvaluates) {
  ASSERT_EQ(run(1, train("run", {{"--batch-size", "8"}})).code, 0);
  const Words eval = {"eval",   folder_ / "run", "--data", folder_ / "foreign.txt",
                      "--json", "--batch-size",  "3"};
  const Outcome one = run(1, eval), three = run(3, eval);
  ASSERT_EQ(one.code, 0) << one.err;
  ASSERT_EQ(three.code, 0) << three.err;
  const json alone = json::parse(one.out), together = json::parse(three.out);
  EXPECT_EQ(together["tokens"], alone["tokens"]);
  for (const char* key : {"loss", "perplexity", "bits_per_byte"})
    EXPECT_NEAR(together[key].get<double>(), alone[key].get<double>(),
                1e-12 * alone[key].get<double>())
        << key;
}

// One sum of micro-batches, however many processes share them, also where their number changes.
TEST_F(ProgramProcesses, ComeToTheSameBitsInInt8) {
  const auto part = [&](const char* run, int micro_batches, const Flags& more) {
    Flags flags = {{"--batch-size", "2"},
                   {"--accumulate", std::to_string(micro_batches)},
                   {"--gradient-sum", "tree"},
                   {"--precision", "int8-mixed"}};
    for (const auto& [flag, value] : more) flags[flag] = value;
    return train(run, flags);
  };
  ASSERT_EQ(run(1, part("one", 4, {})).code, 0);
  ASSERT_EQ(run(4, part("four", 1, {{"--shard", "parameters"}, {"--threads", "2"}})).code, 0);
  ASSERT_EQ(run(4, part("moved", 1, {{"--shard", "optimizer"}, {"--max-steps", "4"}})).code, 0);
  const Outcome moved =
      run(2, {"train", "--resume", folder_ / "moved", "--max-steps", "8", "--shard", "none"});
  ASSERT_EQ(moved.code, 0) << moved.err;
  EXPECT_THAT(moved.err, HasSubstr("a step has 4 micro-batches, as the run had before"));
  const StateDict expected = weights("one");
  for (const char* run : {"four", "moved"}) {
    const StateDict found = weights(run);
    for (const auto& [name, meta] : expected.tensors)
      EXPECT_TRUE(found.tensor(name).equal(expected.tensor(name))) << run << ": " << name;
  }
}

TEST_F(ProgramProcesses, RefuseTogetherWhatIsWrong) {
  const Outcome existing = [&] {
    EXPECT_EQ(run(1, train("run", {{"--max-steps", "1"}})).code, 0);
    return run(2, train("run", {}));
  }();
  EXPECT_EQ(existing.code, 2);
  EXPECT_THAT(existing.err, HasSubstr("exists"));
  const Outcome released = run(2, train("released", {{"--memory", "leanest"}}));
  EXPECT_EQ(released.code, 2);
  EXPECT_THAT(released.err, HasSubstr("choose memory lean"));
}

}  // namespace
}  // namespace halftone::processes_test
