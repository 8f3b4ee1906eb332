// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cstdlib>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::doctor_test {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<LayerSpeed> layers(double fp32, double bf16, double fp16, double int8) {
  return {{ComputeType::kFloat32, fp32, 0},
          {ComputeType::kBFloat16, bf16, 0},
          {ComputeType::kFloat16, fp16, 0},
          {ComputeType::kInt8, int8, 0}};
}

TEST(RecommendPrecision, TakesTheFastest) {
  EXPECT_EQ(recommend_precision(layers(1.0, 0.5, 0.9, 0.8)).precision, "bf16-mixed");
  EXPECT_EQ(recommend_precision(layers(1.0, 1.0, 1.1, 0.6)).precision, "int8-mixed");
  EXPECT_THAT(recommend_precision(layers(2.0, 1.0, 2.0, 2.0)).reason,
              HasSubstr("0.50 of their time in 32-true, so a step should take about 0.62"));
}

TEST(RecommendPrecision, LeavesFp32OnlyForAClearGain) {
  const Recommendation stays = recommend_precision(layers(1.0, 0.95, 1.3, 0.92));
  EXPECT_EQ(stays.precision, "32-true");
  EXPECT_THAT(stays.reason, HasSubstr("int8-mixed (matmuls 0.92, step 0.94)"));
}

TEST(RecommendPrecision, ACoarserFormatMustGainOverTheFinerOne) {
  const Recommendation finer = recommend_precision(layers(1.0, 0.5, 1.0, 0.48));
  EXPECT_EQ(finer.precision, "bf16-mixed");
  EXPECT_THAT(finer.reason, HasSubstr("int8-mixed (matmuls 0.48, step 0.61)"));
  const Recommendation coarser = recommend_precision(layers(1.0, 0.5, 1.0, 0.40));
  EXPECT_EQ(coarser.precision, "int8-mixed");
  EXPECT_THAT(coarser.reason, Not(HasSubstr("bf16")));
}

TEST(RecommendPrecision, NeedsSomethingToCompare) {
  EXPECT_THROW(recommend_precision({}), c10::Error);
}

/// With a cache of its own, and without a choice in the environment.
class Doctor : public testing::Test {
 protected:
  Doctor() {
    setenv("XDG_CACHE_HOME", folder_.path().c_str(), 1);
    unsetenv("HALFTONE_MATMUL");
    torch::set_num_threads(1);
  }
  ~Doctor() override { unsetenv("HALFTONE_MATMUL"); }

  test::TempFolder folder_;
};

TEST_F(Doctor, SaysWhereTheChoiceComesFrom) {
  const DoctorReport first = examine_machine({.crossings = false});
  EXPECT_EQ(first.matmul_source, MatmulSource::kMeasuredNow);
  EXPECT_EQ(first.matmul_timings.size(), 8);
  EXPECT_EQ(first.threads, 1);
  EXPECT_GT(first.peak_fp32_gflops, 0.0);
  EXPECT_GT(first.triad_bytes_per_s, 0.0);
  EXPECT_EQ(first.cache, folder_.path() / "halftone");
  EXPECT_THAT(first.recommendation.reason, Not(testing::IsEmpty()));
  EXPECT_FALSE(first.thread_speeds.empty());
  EXPECT_GT(first.pages.fresh_s, 0.0);
  EXPECT_FALSE(first.crossings);

  const DoctorReport second = examine_machine({.crossings = false});
  EXPECT_EQ(second.matmul_source, MatmulSource::kRecord);
  EXPECT_EQ(second.matmul_timings[0].native_ms, first.matmul_timings[0].native_ms);
  EXPECT_EQ(examine_machine({.record = MatmulRecord::kReplace, .crossings = false}).matmul_source,
            MatmulSource::kMeasuredNow);

  setenv("HALFTONE_MATMUL", "upcast", 1);
  EXPECT_EQ(examine_machine({.crossings = false}).matmul_source, MatmulSource::kEnvironment);
}

}  // namespace
}  // namespace halftone::doctor_test
