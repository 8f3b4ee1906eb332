// SPDX-License-Identifier: Apache-2.0
#include "halftone/probe/probe_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace halftone::probe_report_test {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::Not;

ProbeReport sample() {
  ProbeReport report;
  report.run = {.program = "python train.py --name <run>",
                .libtorch = "2.15.0",
                .modes = {"first-nonfinite", "census", "underflow", "compare"},
                .steps = 40,
                .searched_steps = 40,
                .sampled_steps = 2};
  report.first_nonfinite = {
      .operation = "aten::mm",
      .is_backward = true,
      .kind = "overflow",
      .step = 7,
      .call = 3,
      .autograd_node = "MmBackward0",
      .forward = "aten::mm",
      .module = "layers.3.attention",
      .inputs = {
          {.dtype = "fp16", .shape = {4, 8}, .max_abs = 310.5, .non_finite = 2, .name = "self"}}};
  report.census["aten::mm"] = {{"bf16", 12}, {"fp32", 3}};
  report.underflow = {{.operation = "aten::mm",
                       .is_backward = true,
                       .dtype = "fp16",
                       .calls = 12,
                       .flushed_share = 0.25,
                       .overflowed_share = 0.0}};
  report.comparisons = {{.operation = "aten::mm",
                         .dtype = "bf16",
                         .calls = 12,
                         .relative_error = std::numeric_limits<double>::infinity(),
                         .cosine = 0.5}};
  return report;
}

TEST(ProbeJson, HasTheKeysThatProgramsRelyOn) {
  const Json document = Json::parse(probe_json(sample()));
  const Json& find = document.at("first_nonfinite");
  EXPECT_EQ(find.at("operation"), "aten::mm");
  EXPECT_EQ(find.at("direction"), "backward");
  EXPECT_EQ(find.at("kind"), "overflow");
  EXPECT_EQ(find.at("call"), 3);
  EXPECT_EQ(find.at("autograd_node"), "MmBackward0");
  EXPECT_EQ(find.at("module"), "layers.3.attention");
  EXPECT_EQ(find.at("inputs").at(0).at("dtype"), "fp16");
  EXPECT_EQ(find.at("inputs").at(0).at("shape"), Json::array({4, 8}));
  EXPECT_EQ(find.at("inputs").at(0).at("max_abs"), 310.5);
  EXPECT_EQ(find.at("inputs").at(0).at("non_finite"), 2);
  EXPECT_EQ(document.at("census"), Json::parse(R"({"aten::mm": {"bf16": 12, "fp32": 3}})"));
  EXPECT_EQ(document.at("underflow"), Json::parse(R"([{"operation": "aten::mm", "calls": 12,
      "direction": "backward", "dtype": "fp16", "flushed_share": 0.25, "overflowed_share": 0.0}])"));
  EXPECT_EQ(document.at("compare"), Json::parse(R"([{"operation": "aten::mm", "calls": 12,
      "direction": "forward", "dtype": "bf16", "relative_error": null, "cosine": 0.5}])"));
  EXPECT_EQ(document.at("run").at("steps"), 40);
}

TEST(ProbeJson, SaysThatNothingWasFound) {
  const Json document = Json::parse(probe_json({}));
  EXPECT_TRUE(document.at("first_nonfinite").is_null());
  EXPECT_EQ(document.at("census"), Json::object());
  EXPECT_EQ(document.at("underflow"), Json::array());
  EXPECT_EQ(document.at("compare"), Json::array());
}

TEST(ProbePage, ShowsWhatTheReportHolds) {
  const std::string page = probe_page(sample());
  for (const char* const text :
       {"aten::mm in layers.3.attention is the first bad operation: overflow", "MmBackward0",
        "step 7, call 3", "[4, 8]", "310", "25 %", "bf16 12, fp32 3", "0.500000",
        "python train.py --name &lt;run&gt;"})
    EXPECT_THAT(page, HasSubstr(text));
  EXPECT_THAT(page, Not(HasSubstr("<run>")));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("http://")));
}

TEST(ProbeVerdict, SaysWhatIsWrong) {
  const auto of = [](const char* kind) {
    return verdict_of({.kind = kind, .reason = "inf - inf or 0 * inf"});
  };
  EXPECT_EQ(of("overflow"), "is the first bad operation: overflow");
  EXPECT_EQ(of("other"), "is the first bad operation: inf - inf or 0 * inf");
  EXPECT_EQ(verdict_of({.kind = "other"}), "is the first bad operation: other");
  EXPECT_EQ(of("input"), "reads bad data");
  EXPECT_EQ(of("weights"), "reads bad weights");
}

TEST(ProbePage, LeavesOutWhatWasNotAskedFor) {
  ProbeReport report;
  report.run.modes = {"first-nonfinite"};
  report.run.steps = report.run.searched_steps = 5;
  const std::string page = probe_page(report);
  EXPECT_THAT(page, HasSubstr("No bad operation in 5 of 5 steps"));
  EXPECT_THAT(page, Not(HasSubstr("Beside fp32")));
  EXPECT_THAT(page, Not(HasSubstr("Dtypes")));
}

}  // namespace
}  // namespace halftone::probe_report_test
