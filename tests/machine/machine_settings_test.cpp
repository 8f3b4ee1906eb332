// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine_settings.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <cstdlib>

#include "halftone/machine/machine_costs.h"
#include "support/temp_folder.h"

namespace halftone::machine_settings_test {
namespace {

TEST(UsableCpus, AreTheTighterOfTwoLimitsAndOneAtLeast) {
  EXPECT_EQ(usable_cpus({.allowed_cpus = 8}), 8);
  EXPECT_EQ(usable_cpus({.allowed_cpus = 8, .cpu_quota = 2.5}), 3);
  EXPECT_EQ(usable_cpus({.allowed_cpus = 2, .cpu_quota = 16}), 2);
  EXPECT_EQ(usable_cpus({.allowed_cpus = 8, .cpu_quota = 0.25}), 1);
  EXPECT_EQ(usable_cpus({}), 1);
}

TEST(CpuQuota, IsTheTightestOfTheControlGroups) {
  const test::TempFolder root;
  EXPECT_EQ(cpu_quota_in(root.path(), "0::/job/step\n"), 0.0);
  std::filesystem::create_directories(root / "job/step");
  test::write_text(root / "job/cpu.max", "150000 100000\n");
  test::write_text(root / "job/step/cpu.max", "max 100000\n");
  EXPECT_DOUBLE_EQ(cpu_quota_in(root.path(), "0::/job/step\n"), 1.5);
  test::write_text(root / "job/step/cpu.max", "50000 100000\n");
  EXPECT_DOUBLE_EQ(cpu_quota_in(root.path(), "0::/job/step\n"), 0.5);
  std::filesystem::create_directories(root / "cpu/docker");
  test::write_text(root / "cpu/docker/cpu.cfs_quota_us", "300000\n");
  test::write_text(root / "cpu/docker/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(cpu_quota_in(root.path(), "4:cpu,cpuacct:/docker\n"), 3.0);
  test::write_text(root / "cpu/docker/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(cpu_quota_in(root.path(), "4:cpu,cpuacct:/docker\n"), 0.0);
  EXPECT_EQ(cpu_quota_in(root.path(), "nonsense"), 0.0);
}

TEST(ChosenWord, StandsInBrackets) {
  EXPECT_EQ(chosen_word("always [madvise] never\n"), "madvise");
  EXPECT_EQ(chosen_word("always madvise never\n"), "");
  EXPECT_EQ(chosen_word("]["), "");
}

TEST(MachineSettings, AreThoseOfThisProcess) {
  setenv("MKL_CBWR", "AVX2", 1);
  const MachineSettings settings = machine_settings();
  unsetenv("MKL_CBWR");
  EXPECT_EQ(settings.environment.at("MKL_CBWR"), "AVX2");
  EXPECT_FALSE(machine_settings().environment.contains("MKL_CBWR"));
  EXPECT_GE(settings.allowed_cpus, 1);
  EXPECT_FALSE(settings.libtorch_capability.empty());
  EXPECT_EQ(settings.fp32_matmul, "ieee");
  at::globalContext().setFloat32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL,
                                          at::str2precision("bf16"));
  EXPECT_EQ(machine_settings().fp32_matmul, "bf16");
  at::globalContext().setFloat32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL,
                                          at::str2precision("none"));
}

TEST(MachineCosts, AreMeasured) {
  torch::set_num_threads(1);
  const std::vector<ThreadSpeed> speeds = thread_speeds(3, {1, 2, 9});
  ASSERT_EQ(speeds.size(), 3U);
  for (std::size_t i = 0; i < speeds.size(); ++i) {
    EXPECT_EQ(speeds[i].threads, static_cast<std::int64_t>(i) + 1);
    EXPECT_GT(speeds[i].gflops, 0.0);
  }
  EXPECT_EQ(at::get_num_threads(), 1);
  EXPECT_GT(parallel_loop_seconds(), 0.0);
  const PageCosts pages = page_costs();
  EXPECT_GT(pages.again_s, 0.0);
  EXPECT_GT(pages.fresh_s, pages.again_s);
  EXPECT_TRUE(std::isfinite(pages.fresh_large_s));
}

}  // namespace
}  // namespace halftone::machine_settings_test
