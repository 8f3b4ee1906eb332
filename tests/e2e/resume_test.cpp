// SPDX-License-Identifier: Apache-2.0
// The program itself, killed with SIGKILL in the middle of a run and resumed: the weights, the
// moments and the metrics are those of a run that nobody disturbed.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "support/built_program.h"
#include "support/temp_folder.h"

namespace halftone::resume_test {
namespace {

using nlohmann::json;
using test::TempFolder;

constexpr int kSteps = 24;

pid_t start(const std::vector<std::string>& arguments) {
  return test::start_program(arguments, "/dev/null", "/dev/null");
}

/// The exit code, or minus the signal that ended the process.
int wait_for(pid_t pid) { return test::wait_for_program(pid).code; }

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<json> metrics(const std::filesystem::path& run) {
  std::vector<json> lines;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    json parsed = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!parsed.is_object()) break;  // being written
    for (const char* timing : {"tokens_per_s", "step_ms", "rss_mib", "cuda_mib", "tensors_mib"})
      parsed.erase(timing);
    lines.push_back(std::move(parsed));
  }
  return lines;
}

/// Sends `signal` once the run has logged `step`; returns what wait_for does.
int interrupt_at(pid_t pid, const std::filesystem::path& run, std::size_t step, int signal) {
  while (metrics(run).size() < step) {
    if (waitpid(pid, nullptr, WNOHANG) != 0) {
      ADD_FAILURE() << "the run ended before step " << step;
      return 0;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  kill(pid, signal);
  return wait_for(pid);
}

class Resume : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 400; ++i)
      text << "Line " << i << ": " << i * i % 97 << " geese over the river, 春江花月夜 " << i % 7
           << ".\n";
  }

  std::vector<std::string> train(const std::string& run, const std::string& precision,
                                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {"train",
                                      "--preset",
                                      "tiny",
                                      "--model.dim",
                                      "32",
                                      "--model.n-layers",
                                      "2",
                                      "--model.dropout",
                                      "0.1",
                                      "--data",
                                      folder_ / "text.txt",
                                      "--tokenizer-vocab-size",
                                      "300",
                                      "--precision",
                                      precision,
                                      "--batch-size",
                                      "2",
                                      "--seq-len",
                                      "64",
                                      "--accumulate",
                                      "2",
                                      "--max-steps",
                                      std::to_string(kSteps),
                                      "--save-every",
                                      "4",
                                      "--scaler.init-scale",
                                      "16777216",
                                      "--scaler.growth-interval",
                                      "5",
                                      "--threads",
                                      "2",
                                      "--out",
                                      folder_ / run};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  void expect_equal_runs(const std::string& first, const std::string& second) const {
    EXPECT_EQ(metrics(folder_ / first), metrics(folder_ / second));
    EXPECT_EQ(metrics(folder_ / first).size(), kSteps);
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      const std::string name = std::string("checkpoints/step-00000024/") + file;
      const std::string bytes = read(folder_ / first / name);
      EXPECT_FALSE(bytes.empty());
      EXPECT_TRUE(bytes == read(folder_ / second / name)) << file << " differs";
    }
  }

  void expect_bit_equal_after_kills(const std::string& precision,
                                    const std::vector<std::string>& more = {}) {
    ASSERT_EQ(wait_for(start(train("whole", precision, more))), 0);
    EXPECT_EQ(interrupt_at(start(train("killed", precision, more)), folder_ / "killed", 6, SIGKILL),
              -SIGKILL);
    const std::vector<std::string> resume = {"train", "--resume", folder_ / "killed"};
    EXPECT_EQ(interrupt_at(start(resume), folder_ / "killed", 15, SIGKILL), -SIGKILL);
    EXPECT_EQ(wait_for(start(resume)), 0);
    expect_equal_runs("whole", "killed");
  }

  const TempFolder folder_;
};

TEST_F(Resume, IsBitEqualIn32True) { expect_bit_equal_after_kills("32-true"); }
TEST_F(Resume, IsBitEqualInBf16Mixed) { expect_bit_equal_after_kills("bf16-mixed"); }
TEST_F(Resume, IsBitEqualIn16Mixed) {
  expect_bit_equal_after_kills("16-mixed");
  bool skipped = false;
  for (const json& line : metrics(folder_ / "whole")) skipped |= line["skipped"].get<bool>();
  EXPECT_TRUE(skipped) << "the scale was meant to overflow at first";
}
TEST_F(Resume, IsBitEqualInInt8Mixed) { expect_bit_equal_after_kills("int8-mixed"); }
TEST_F(Resume, IsBitEqualInBf16True) { expect_bit_equal_after_kills("bf16-true"); }
TEST_F(Resume, IsBitEqualIn16True) { expect_bit_equal_after_kills("16-true"); }

TEST_F(Resume, IsBitEqualInLean) {
  expect_bit_equal_after_kills("bf16-mixed", {"--memory", "lean", "--model.hidden-dim", "192"});
}
TEST_F(Resume, IsBitEqualWithSplitMasters) {
  expect_bit_equal_after_kills("bf16-mixed", {"--master-weights", "split8", "--gradients", "fp32",
                                              "--moments", "bf16", "--model.hidden-dim", "192"});
}

TEST_F(Resume, IsBitEqualWithAdapters) {
  ASSERT_EQ(wait_for(start(train("base", "32-true"))), 0);
  expect_bit_equal_after_kills(
      "bf16-mixed", {"--init-from", folder_ / "base", "--lora.rank", "4", "--lora.dropout", "0.1",
                     "--lora.targets", "q_proj", "--lora.targets", "down_proj"});
}

TEST_F(Resume, TwoRunsWithOneSeedAreBitEqual) {
  ASSERT_EQ(wait_for(start(train("one", "bf16-mixed"))), 0);
  ASSERT_EQ(wait_for(start(train("two", "bf16-mixed"))), 0);
  expect_equal_runs("one", "two");
}

TEST_F(Resume, CtrlCSavesAndExitsWith130) {
  ASSERT_EQ(wait_for(start(train("whole", "32-true"))), 0);
  EXPECT_EQ(interrupt_at(start(train("stopped", "32-true")), folder_ / "stopped", 7, SIGINT), 130);
  const std::size_t stopped_at = metrics(folder_ / "stopped").size();
  EXPECT_LT(stopped_at, kSteps);
  EXPECT_EQ(wait_for(start({"train", "--resume", folder_ / "stopped"})), 0);
  expect_equal_runs("whole", "stopped");
}

TEST_F(Resume, AClosedTerminalSavesAndExitsWith129) {
  ASSERT_EQ(wait_for(start(train("whole", "32-true"))), 0);
  EXPECT_EQ(interrupt_at(start(train("closed", "32-true")), folder_ / "closed", 7, SIGHUP), 129);
  EXPECT_LT(metrics(folder_ / "closed").size(), kSteps);
  EXPECT_EQ(wait_for(start({"train", "--resume", folder_ / "closed"})), 0);
  expect_equal_runs("whole", "closed");
}

// A job that is killed at any moment and restarted with the same words.
TEST_F(Resume, OneCommandStartsAndGoesOn) {
  ASSERT_EQ(wait_for(start(train("whole", "32-true"))), 0);
  std::vector<std::string> job = train("job", "32-true", {"--resume", "auto"});
  *(std::find(job.begin(), job.end(), "--save-every") + 1) = "12";
  EXPECT_EQ(interrupt_at(start(job), folder_ / "job", 2, SIGKILL), -SIGKILL);
  ASSERT_TRUE(std::filesystem::is_empty(folder_ / "job/checkpoints"));
  EXPECT_EQ(wait_for(start(train("job", "32-true"))), 2)
      << "a start does not replace what is there";
  EXPECT_EQ(wait_for(start({"train", "--resume", folder_ / "job"})), 2);

  EXPECT_EQ(interrupt_at(start(job), folder_ / "job", 15, SIGKILL), -SIGKILL);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "job/checkpoints/step-00000012"));
  EXPECT_EQ(wait_for(start(job)), 0);
  expect_equal_runs("whole", "job");
  EXPECT_EQ(wait_for(start(job)), 0) << "there is nothing left to do";
  expect_equal_runs("whole", "job");
}

TEST_F(Resume, RefusesAChangedRecipeAndKeepsTheRun) {
  ASSERT_EQ(wait_for(start(train("run", "32-true"))), 0);
  const std::string before = read(folder_ / "run/metrics.jsonl");
  EXPECT_EQ(wait_for(start({"train", "--resume", folder_ / "run", "--lr", "0.1"})), 2);
  EXPECT_EQ(wait_for(start(train("run", "32-true"))), 2);  // exists, without --overwrite
  EXPECT_EQ(read(folder_ / "run/metrics.jsonl"), before);
}

}  // namespace
}  // namespace halftone::resume_test
