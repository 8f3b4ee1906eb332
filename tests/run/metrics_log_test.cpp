// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/metrics_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "support/temp_folder.h"

namespace halftone::metrics_log_test {
namespace {

using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

StepMetrics step(std::int64_t number) {
  return {.step = number, .epoch = 1, .loss = 8.93, .lr = 5.5e-4, .tokens = 2048};
}

TEST(MetricsLog, WritesTheDocumentedLine) {
  const TempFolder folder;
  MetricsLog log(folder / "metrics.jsonl", 0);
  StepMetrics metrics = step(1);
  metrics.logged = {{"aux_loss", 0.1}};
  metrics.grad_norm = INFINITY;
  metrics.scale = 65536.0;
  metrics.skipped = true;
  metrics.overflow = {"layers.0.attention.wq.weight"};
  metrics.tokens_total = 2048;
  metrics.tokens_per_s = 1024.5;
  metrics.step_ms = NAN;
  metrics.rss_mib = 300.0;
  metrics.weights_mib = 100.0;
  metrics.gradients_mib = 0.0;
  metrics.states_mib = 25.5;
  log.append(metrics);
  EXPECT_EQ(read_text(folder / "metrics.jsonl"),
            R"({"step":1,"epoch":1,"loss":8.93,"aux_loss":0.1,"lr":0.00055,"grad_norm":null,)"
            R"("scale":65536.0,"skipped":true,"overflow":["layers.0.attention.wq.weight"],)"
            R"("underflow_share":null,"tokens":2048,"tokens_total":2048,"tokens_per_s":1024.5,)"
            R"("step_ms":null,"rss_mib":300.0,"cuda_mib":null,)"
            R"("weights_mib":100.0,"gradients_mib":0.0,"states_mib":25.5,"tensors_mib":null})"
            "\n");
}

TEST(MetricsLog, SaysWhatItLeavesOut) {
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  const TempFolder folder;
  MetricsLog log(folder / "metrics.jsonl", 0);
  StepMetrics metrics = step(1);
  metrics.logged = {{"accuracy", 0.5}, {"loss", 1.0}, {"lr", 2.0}};
  log.append(metrics);
  metrics.step = 2;
  log.append(metrics);  // once is enough
  log.append_values(2, {{"step", 77.0}, {"val_loss", 2.5}});
  set_log_sink({});
  const std::string lines = read_text(folder / "metrics.jsonl");
  EXPECT_THAT(lines, HasSubstr(R"({"step":1,"epoch":1,"loss":8.93,"accuracy":0.5,"lr":0.00055,)"));
  EXPECT_THAT(lines, HasSubstr(R"({"step":2,"val_loss":2.5})"));
  ASSERT_EQ(said.size(), 3U);
  EXPECT_EQ(
      said[0],
      "metrics: what is logged as 'loss' is not written, because each line has a 'loss' of its "
      "own; log it under another name");
  EXPECT_THAT(said[1], HasSubstr("'lr'"));
  EXPECT_THAT(said[2], HasSubstr("'step'"));
}

TEST(MetricsLog, EveryLineIsThereBeforeAppendReturns) {
  const TempFolder folder;
  MetricsLog log(folder / "metrics.jsonl", 0);
  for (std::int64_t i = 1; i <= 3; ++i) {
    log.append(step(i));
    const std::string text = read_text(folder / "metrics.jsonl");
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), i);
  }
  log.append_values(3, {{"val_loss", 2.5}});
  EXPECT_THAT(read_text(folder / "metrics.jsonl"),
              testing::EndsWith("{\"step\":3,\"val_loss\":2.5}\n"));
}

TEST(MetricsLog, ANewRunStartsAnEmptyFile) {
  const TempFolder folder;
  write_text(folder / "metrics.jsonl", "old\n");
  const MetricsLog log(folder / "metrics.jsonl", 0);
  EXPECT_EQ(read_text(folder / "metrics.jsonl"), "");
}

TEST(MetricsLog, ResumeCutsWhatLiesBeyondTheCheckpoint) {
  const TempFolder folder;
  const auto path = folder / "metrics.jsonl";
  std::string kept;
  {
    MetricsLog log(path, 0);
    for (std::int64_t i = 1; i <= 4; ++i) log.append(step(i));
    log.append_values(4, {{"val_loss", 3.0}});
    kept = read_text(path);
    for (std::int64_t i = 5; i <= 7; ++i) log.append(step(i));
  }
  MetricsLog log(path, 4);
  EXPECT_EQ(read_text(path), kept);
  log.append(step(5));
  EXPECT_THAT(read_text(path), testing::StartsWith(kept + "{\"step\":5,"));
}

TEST(MetricsLog, ResumeCutsATornLineAtEveryByte) {
  const TempFolder folder;
  const auto path = folder / "metrics.jsonl";
  std::string first;
  std::string both;
  {
    MetricsLog log(path, 0);
    log.append(step(1));
    first = read_text(path);
    log.append(step(2));
    both = read_text(path);
  }
  for (std::size_t length = first.size(); length <= both.size(); ++length) {
    write_text(path, both.substr(0, length));
    const MetricsLog log(path, 9);
    EXPECT_EQ(read_text(path), length == both.size() ? both : first) << length;
  }
  write_text(path, first + "not json\n" + first);
  const MetricsLog log(path, 9);
  EXPECT_EQ(read_text(path), first);
}

TEST(MetricsLog, ErrorsAreOfTheRightKind) {
  const TempFolder folder;
  EXPECT_THROW(MetricsLog(folder / "none/metrics.jsonl", 0), UserError);
  MetricsLog full("/dev/full", 0);
  EXPECT_THAT(message_of<SystemError>([&] { full.append(step(1)); }),
              HasSubstr("the disk is full"));
}

}  // namespace
}  // namespace halftone::metrics_log_test
