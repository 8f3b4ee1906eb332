// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/checkpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/random.h"
#include "support/temp_folder.h"

namespace halftone::checkpoint_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Checkpoint example(std::int64_t step) {
  Checkpoint checkpoint{.step = step};
  checkpoint.model.tensors["norm.weight"] = torch::full({3}, static_cast<double>(step));
  checkpoint.model.values["vocab_size"] = std::int64_t{6400};
  checkpoint.optimizer.tensors["exp_avg"] = torch::full({2, 2}, 0.5, torch::kBFloat16);
  checkpoint.optimizer.values["steps"] = step;
  checkpoint.trainer.tensors["rng"] = torch::arange(10, torch::kByte);
  checkpoint.trainer.values["scale"] = 65536.0;
  checkpoint.trainer.values["packed"] = true;
  checkpoint.trainer.values["tokenizer"] = std::string("诗\n");
  return checkpoint;
}

void expect_equal(const StateDict& actual, const StateDict& expected) {
  EXPECT_EQ(actual.values, expected.values);
  EXPECT_EQ(actual.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    EXPECT_EQ(actual.tensor(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(actual.tensor(name).equal(tensor)) << name;
  }
}

class Checkpoints : public testing::Test {
 protected:
  Checkpoints() {
    set_log_sink([this](LogLevel, const std::string& message) { log_.push_back(message); });
  }
  ~Checkpoints() override { set_log_sink({}); }

  fs::path folder(std::int64_t step) const {
    return run_ / fmt::format("checkpoints/step-{:08}", step);
  }

  TempFolder run_;
  std::vector<std::string> log_;
};

TEST_F(Checkpoints, RoundTrip) {
  const Checkpoint saved = example(7);
  save_checkpoint(run_.path(), saved);
  const Checkpoint loaded = load_latest_checkpoint(run_.path());
  EXPECT_EQ(loaded.step, 7);
  expect_equal(loaded.model, saved.model);
  expect_equal(loaded.optimizer, saved.optimizer);
  expect_equal(loaded.trainer, saved.trainer);
  EXPECT_THAT(log_, IsEmpty());
}

TEST_F(Checkpoints, ModelAloneComesWithoutTheOptimizer) {
  save_checkpoint(run_.path(), example(7));
  fs::remove(folder(7) / "optimizer.safetensors");
  const Checkpoint loaded = load_latest_model(run_.path());
  expect_equal(loaded.model, example(7).model);
  EXPECT_EQ(loaded.trainer.values, example(7).trainer.values);
  EXPECT_TRUE(loaded.optimizer.tensors.empty());
}

TEST_F(Checkpoints, KeepEveryBitOfDoubles) {
  Checkpoint saved{.step = 1};
  const auto keep = [&](double value) {
    saved.trainer.values[fmt::format("v{}", saved.trainer.values.size())] = value;
  };
  for (const double value :
       {0.0, -0.0, 0.1, 1e308, 5e-324, 1.0, -3.0, 65536.0, 1e22,
        std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()})
    keep(value);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const auto value = std::bit_cast<double>(random_word(3, i));
    if (std::isfinite(value)) keep(value);
  }
  saved.trainer.values["nan"] = std::numeric_limits<double>::quiet_NaN();
  save_checkpoint(run_.path(), saved);
  const Checkpoint loaded = load_latest_checkpoint(run_.path());
  EXPECT_EQ(loaded.trainer.values.size(), saved.trainer.values.size());
  for (const auto& [name, value] : saved.trainer.values) {
    const double expected = std::get<double>(value);
    const double actual = std::get<double>(loaded.trainer.values.at(name));
    if (name == "nan")
      EXPECT_TRUE(std::isnan(actual));
    else
      EXPECT_EQ(std::bit_cast<std::uint64_t>(actual), std::bit_cast<std::uint64_t>(expected));
  }
}

TEST_F(Checkpoints, HaveTheDocumentedFiles) {
  save_checkpoint(run_.path(), example(7));
  const auto trainer = nlohmann::json::parse(read_text(folder(7) / "trainer.json"));
  EXPECT_EQ(trainer["format"], 1);
  EXPECT_EQ(trainer["step"], 7);
  EXPECT_EQ(trainer["files"]["model.safetensors"]["bytes"],
            fs::file_size(folder(7) / "model.safetensors"));
  EXPECT_EQ(trainer["files"]["optimizer.safetensors"]["bytes"],
            fs::file_size(folder(7) / "optimizer.safetensors"));
  EXPECT_EQ(trainer["trainer"]["scale"], 65536.0);
}

TEST_F(Checkpoints, OldOnesGoWhenTheNewOneIsInPlace) {
  for (const std::int64_t step : {1, 2, 3, 100000000, 123456789})
    save_checkpoint(run_.path(), example(step), 3);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(3, 100000000, 123456789));
  save_checkpoint(run_.path(), example(123456790), 1);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(123456790));
}

TEST_F(Checkpoints, ASecondOneOfTheSameStepReplacesTheFirst) {
  save_checkpoint(run_.path(), example(7));
  Checkpoint changed = example(7);
  changed.trainer.values["scale"] = 2.0;
  save_checkpoint(run_.path(), changed);
  EXPECT_EQ(load_latest_checkpoint(run_.path()).trainer.get<double>("scale"), 2.0);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(7));
}

TEST_F(Checkpoints, LeftoversAreIgnoredAndRemoved) {
  fs::create_directories(run_ / "checkpoints/step-00000009.tmp-12345");
  fs::create_directories(run_ / "checkpoints/step-x");
  EXPECT_THAT(checkpoint_steps(run_.path()), IsEmpty());
  save_checkpoint(run_.path(), example(7));
  EXPECT_FALSE(fs::exists(run_ / "checkpoints/step-00000009.tmp-12345"));
  EXPECT_TRUE(fs::exists(run_ / "checkpoints/step-x"));
}

TEST_F(Checkpoints, WithoutOneTheUserIsTold) {
  EXPECT_THAT(message_of<UserError>([&] { load_latest_checkpoint(run_.path()); }),
              HasSubstr("has no checkpoint; expected folders"));
}

void flip_byte(const fs::path& path, std::size_t at) {
  std::string bytes = read_text(path);
  bytes.at(at) = static_cast<char>(bytes.at(at) ^ 1);
  write_text(path, bytes);
}

TEST_F(Checkpoints, DamageOfAnyKindGoesBackToTheOneBefore) {
  const std::vector<std::pair<std::string, std::function<void(const fs::path&)>>> kinds = {
      {"its checksum is not", [](const fs::path& f) { flip_byte(f / "model.safetensors", 130); }},
      {"its checksum is not", [](const fs::path& f) { flip_byte(f / "optimizer.safetensors", 9); }},
      {"bytes, found", [](const fs::path& f) { fs::resize_file(f / "model.safetensors", 99); }},
      {"No such file", [](const fs::path& f) { fs::remove(f / "optimizer.safetensors"); }},
      {"No such file", [](const fs::path& f) { fs::remove(f / "trainer.json"); }},
      {"trainer.json: xxh64 must be a string",
       [](const fs::path& f) { write_text(f / "trainer.json", "{}"); }},
      {"trainer.json: expected JSON",
       [](const fs::path& f) { write_text(f / "trainer.json", "{\"fo"); }},
      {"trainer.json: expected JSON nested at most",
       [](const fs::path& f) {  // deep enough to overflow the stack of who prints it
         write_text(f / "trainer.json", R"({"xxh64": "0", "a": )" + std::string(200'000, '[') +
                                            std::string(200'000, ']') + "}");
       }},
      {"trainer.json: a must be a number below 1.8e308",
       [](const fs::path& f) { write_text(f / "trainer.json", R"({"xxh64": "0", "a": 1e999})"); }},
      {"its checksum is wrong", [](const fs::path& f) {
         std::string text = read_text(f / "trainer.json");
         text.replace(text.find("65536"), 5, "65537");
         write_text(f / "trainer.json", text);
       }}};
  for (const auto& [reason, damage] : kinds) {
    save_checkpoint(run_.path(), example(1));
    save_checkpoint(run_.path(), example(2));
    damage(folder(2));
    log_.clear();
    EXPECT_EQ(load_latest_checkpoint(run_.path()).step, 1) << reason;
    ASSERT_EQ(log_.size(), 1) << reason;
    EXPECT_THAT(log_[0], HasSubstr(reason));
    EXPECT_THAT(log_[0], HasSubstr("step-00000002"));
    EXPECT_THAT(log_[0], HasSubstr("going back to the checkpoint of step 1"));
  }
  // The run that went back replaces the damaged one, even before it reaches that step again.
  save_checkpoint(run_.path(), example(5));
  flip_byte(folder(5) / "model.safetensors", 130);
  save_checkpoint(run_.path(), example(4));
  EXPECT_EQ(checkpoint_steps(run_.path()).back(), 4);
}

TEST_F(Checkpoints, AllDamagedIsAnErrorThatNamesTheNewest) {
  save_checkpoint(run_.path(), example(1));
  save_checkpoint(run_.path(), example(2));
  flip_byte(folder(1) / "model.safetensors", 130);
  fs::remove(folder(2) / "model.safetensors");
  EXPECT_THAT(message_of<UserError>([&] { load_latest_checkpoint(run_.path()); }),
              testing::AllOf(HasSubstr("no checkpoint that is whole"), HasSubstr("00000002")));
}

// The run fell back from a damaged checkpoint and saves beyond it.
TEST_F(Checkpoints, OnlyWholeOnesCount) {
  for (const std::int64_t step : {10, 20}) save_checkpoint(run_.path(), example(step));
  flip_byte(folder(20) / "model.safetensors", 130);
  EXPECT_EQ(load_latest_checkpoint(run_.path()).step, 10);
  save_checkpoint(run_.path(), example(25));
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(10, 25));
  fs::remove(folder(25) / "optimizer.safetensors");
  save_checkpoint(run_.path(), example(30));
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(10, 30));
}

TEST_F(Checkpoints, DamageOfALargeFileIsSeen) {
  const auto large = [](std::int64_t step) {
    Checkpoint checkpoint = example(step);
    checkpoint.model.tensors["large"] = torch::zeros({std::int64_t{1} << 20});
    return checkpoint;
  };
  save_checkpoint(run_.path(), large(1));
  save_checkpoint(run_.path(), large(2));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // clocks of file systems tick slowly
  flip_byte(folder(2) / "model.safetensors", 1000000);
  save_checkpoint(run_.path(), large(3));
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(1, 3));
  EXPECT_EQ(load_latest_checkpoint(run_.path()).step, 3);
}

/// Saves what is too large for the disk.
void save_to_full_disk(const fs::path& run, std::int64_t step, std::int64_t keep_last) {
  Checkpoint large = example(step);
  large.model.tensors["big"] = torch::zeros({100000});
  const auto before = signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  getrlimit(RLIMIT_FSIZE, &old_limit);
  const rlimit limit{100000, old_limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_THROW(save_checkpoint(run, large, keep_last), SystemError);
  setrlimit(RLIMIT_FSIZE, &old_limit);
  signal(SIGXFSZ, before);
}

TEST_F(Checkpoints, AFullDiskLeavesTheLastGoodOne) {
  save_checkpoint(run_.path(), example(1));
  save_to_full_disk(run_.path(), 2, 2);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(1));
  EXPECT_EQ(std::distance(fs::directory_iterator(run_ / "checkpoints"), {}), 1);
  EXPECT_EQ(load_latest_checkpoint(run_.path()).step, 1);
}

// What is there while a save writes must leave room for it: one less than it keeps in the end.
TEST_F(Checkpoints, RoomIsMadeBeforeItIsNeeded) {
  const auto steps_while_writing = [&](std::int64_t step, std::int64_t keep_last) {
    save_to_full_disk(run_.path(), step, keep_last);
    return checkpoint_steps(run_.path());
  };
  for (const std::int64_t step : {1, 2, 3}) save_checkpoint(run_.path(), example(step), 3);
  EXPECT_THAT(steps_while_writing(4, 4), ElementsAre(1, 2, 3));
  EXPECT_THAT(steps_while_writing(4, 3), ElementsAre(2, 3));
  EXPECT_THAT(steps_while_writing(4, 2), ElementsAre(3));
  EXPECT_THAT(steps_while_writing(4, 1), ElementsAre(3)) << "one whole checkpoint stays";
  save_checkpoint(run_.path(), example(4), 1);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(4));
}

TEST_F(Checkpoints, TheLastWholeOneStaysUntilThereIsAnother) {
  for (const std::int64_t step : {1, 2, 3}) save_checkpoint(run_.path(), example(step), 3);
  for (const std::int64_t step : {2, 3}) flip_byte(folder(step) / "model.safetensors", 130);
  save_to_full_disk(run_.path(), 4, 1);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(1));

  save_checkpoint(run_.path(), example(2));
  for (const std::int64_t step : {1, 2}) flip_byte(folder(step) / "model.safetensors", 130);
  save_to_full_disk(run_.path(), 4, 2);
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(1, 2)) << "none is whole, so none goes";
  save_checkpoint(run_.path(), example(4));
  EXPECT_THAT(checkpoint_steps(run_.path()), ElementsAre(4));
}

TEST_F(Checkpoints, AFolderThatCannotBeMadeIsTheUsersMistake) {
  write_text(run_ / "file", "");
  EXPECT_THROW(save_checkpoint(run_ / "file", example(1)), UserError);
}

// A child writes checkpoints as fast as it can until it is killed, at a moment of the parent's
// choice; whatever it leaves must load, and hold the weights of its own step.
TEST_F(Checkpoints, SurviveKillAtAnyMoment) {
  const auto begin = std::chrono::steady_clock::now();
  save_checkpoint(run_.path(), example(1));
  const auto duration = std::chrono::steady_clock::now() - begin;
  auto longest = std::chrono::duration_cast<std::chrono::microseconds>(3 * duration).count();
  std::int64_t last = 1;
  for (std::uint64_t round = 0; round < 30; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (std::int64_t step = last + 1;; ++step) save_checkpoint(run_.path(), example(step));
    }
    const std::uint64_t delay = random_word(11, round) % static_cast<std::uint64_t>(longest);
    std::this_thread::sleep_for(std::chrono::microseconds(delay));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    const Checkpoint loaded = load_latest_checkpoint(run_.path());
    EXPECT_GE(loaded.step, last);
    expect_equal(loaded.model, example(loaded.step).model);
    // A machine that has become busy is slower than it was: the next child gets more time.
    if (loaded.step == last) longest += longest / 4;
    last = loaded.step;
  }
  EXPECT_GT(last, 1);
  EXPECT_THAT(log_, IsEmpty());
}

}  // namespace
}  // namespace halftone::checkpoint_test
