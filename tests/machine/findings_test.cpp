// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/findings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halftone::findings_test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

/// A machine on which all is as it should be.
Examination good_machine() {
  return {.processor = {.name = "x",
                        .model = {"AuthenticAMD", 0x19, 0x11},
                        .cores = 4,
                        .threads = 4,
                        .instruction_sets = {"AVX2", "FMA", "F16C", "AVX-512", "AVX512_VNNI",
                                             "AVX512_BF16"},
                        .is_virtual = true},
          .settings = {.allowed_cpus = 4,
                       .governor = "performance",
                       .large_pages = "madvise",
                       .libtorch_capability = "AVX512",
                       .fp32_matmul = "ieee"},
          .threads = 4,
          .thread_speeds = {{1, 100}, {2, 195}, {4, 380}},
          .parallel_loop_s = 3e-6,
          .pages = {.fresh_s = 0.2, .fresh_large_s = 0.1, .again_s = 0.19},
          .layers = {{ComputeType::kFloat32, 1.0, 0}, {ComputeType::kBFloat16, 0.95, 0}},
          .matmuls = {{"bf16.forward", 1.0, 2.0, false}}};
}

std::vector<std::string> words_of(const Examination& examination) {
  std::vector<std::string> words;
  for (const Finding& finding : find_costs(examination)) words.push_back(finding.what);
  return words;
}

Finding only_finding(const Examination& examination) {
  const std::vector<Finding> findings = find_costs(examination);
  EXPECT_THAT(findings, SizeIs(1));
  return findings.empty() ? Finding() : findings.front();
}

TEST(Findings, OfAGoodMachineAreNone) { EXPECT_THAT(words_of(good_machine()), IsEmpty()); }

TEST(Findings, WhatGainsMostStandsFirst) {
  Examination e = good_machine();
  e.recommended = "bf16-mixed";
  e.layers[1].seconds = 0.5;  // a step 1.6 times as fast
  e.threads = 2;              // of 4 cores: 1.9 times
  e.settings.environment["OMP_NUM_THREADS"] = "2";
  e.settings.governor = "powersave";  // not measured
  e.pages.fresh_s = 0.95;             // five times, but halftone keeps its memory
  EXPECT_THAT(words_of(e), ElementsAre("threads", "precision", "governor", "allocator"));
  const std::vector<Finding> findings = find_costs(e);
  EXPECT_THAT(findings[0].statement, HasSubstr("195 GFLOP/s on the 2 threads that LibTorch takes "
                                               "(OMP_NUM_THREADS=2), and at 380 on 4"));
  EXPECT_EQ(findings[0].remedy, "train with --threads 4");
  EXPECT_NEAR(findings[0].gain, 380.0 / 195, 1e-9);
  EXPECT_NEAR(findings[1].gain, 1 / (0.25 + 0.75 * 0.5), 1e-9);
  EXPECT_EQ(findings[2].gain, 0.0);
  EXPECT_TRUE(findings[3].is_avoided);
  EXPECT_NEAR(findings[3].gain, 5.0, 1e-9);
}

TEST(Findings, KeptMemoryMayBeSetAside) {
  Examination e = good_machine();
  e.pages.fresh_s = 0.95;
  e.settings.environment["GLIBC_TUNABLES"] = "glibc.malloc.trim_threshold=0";
  const Finding finding = only_finding(e);
  EXPECT_FALSE(finding.is_avoided);
  EXPECT_THAT(finding.remedy, HasSubstr("GLIBC_TUNABLES sets malloc's thresholds"));
}

TEST(Findings, NameLimitsOfTheProcess) {
  Examination e = good_machine();
  e.settings.cpu_quota = 1.5;
  EXPECT_THAT(only_finding(e), AllOf(Field(&Finding::statement, HasSubstr("allows it 1.5 CPUs")),
                                     Field(&Finding::remedy, HasSubstr("--threads 1,"))));
  e = good_machine();
  e.settings.allowed_cpus = 2;
  EXPECT_THAT(only_finding(e).statement, HasSubstr("on 2 of the machine's 4 hardware threads"));
}

TEST(Findings, NameThreadsThatShareCores) {
  Examination e = good_machine();
  e.processor.threads = e.settings.allowed_cpus = e.threads = 8;
  e.thread_speeds.push_back({8, 320});
  const Finding finding = only_finding(e);
  EXPECT_EQ(finding.what, "threads");
  EXPECT_THAT(finding.statement, HasSubstr("on the 8 threads that LibTorch takes, and at 380 on 4, "
                                           "one a core"));
  EXPECT_EQ(finding.remedy, "train with --threads 4");
  EXPECT_NEAR(finding.gain, 380.0 / 320, 1e-9);
}

TEST(Findings, NameThreadsThatDoNotHelp) {
  Examination e = good_machine();
  e.thread_speeds = {{1, 100}, {2, 105}, {4, 110}};
  EXPECT_THAT(only_finding(e).statement, HasSubstr("only 1.1 times as fast as one"));
}

TEST(Findings, NameSettingsOfOpenMp) {
  Examination e = good_machine();
  e.settings.environment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_PROC_BIND", "close"}, {"KMP_AFFINITY", "compact"}};
  e.parallel_loop_s = 45e-6;
  EXPECT_THAT(words_of(e), ElementsAre("openmp", "binding", "binding"));
  EXPECT_THAT(find_costs(e)[0].statement,
              AllOf(HasSubstr("each loop must wake them"), HasSubstr("takes 45 us")));
  EXPECT_THAT(find_costs(e)[2].statement, HasSubstr("read by Intel's OpenMP only"));
  e.settings.environment.clear();
  EXPECT_THAT(only_finding(e).statement, HasSubstr("takes 45 us on 4 threads"));
}

TEST(Findings, NameMaskedInstructions) {
  Examination e = good_machine();
  e.settings.environment = {{"ATEN_CPU_CAPABILITY", "avx2"}, {"DNNL_MAX_CPU_ISA", "AVX2"}};
  e.settings.libtorch_capability = "AVX2";
  EXPECT_THAT(words_of(e), ElementsAre("masked", "masked"));
  EXPECT_EQ(find_costs(e)[0].remedy, "unset ATEN_CPU_CAPABILITY");
  e.settings.environment.clear();
  EXPECT_THAT(only_finding(e).statement, HasSubstr("run on AVX2, although"));

  e = good_machine();
  e.processor.instruction_sets = {"AVX2", "FMA", "F16C", "AVX-512"};
  EXPECT_THAT(only_finding(e), AllOf(Field(&Finding::statement,
                                           HasSubstr("has AVX512_VNNI and AVX512_BF16, but this "
                                                     "system does not show them")),
                                     Field(&Finding::remedy, HasSubstr("-cpu host"))));

  e = good_machine();
  e.processor.instruction_sets.emplace_back("AMX_BF16");
  e.settings.amx_is_granted = false;
  EXPECT_THAT(only_finding(e).statement, HasSubstr("does not grant its tiles"));
}

TEST(Findings, KnowModels) {
  using testing::Contains;
  EXPECT_THAT(instruction_sets_of_model({"GenuineIntel", 6, 0x8F}), Contains("AMX_BF16"));
  EXPECT_THAT(instruction_sets_of_model({"GenuineIntel", 6, 0x55}),
              testing::Not(Contains("AVX512_VNNI")));
  EXPECT_THAT(instruction_sets_of_model({"AuthenticAMD", 0x19, 0x01}), IsEmpty());  // Zen 3
  EXPECT_THAT(instruction_sets_of_model({"AuthenticAMD", 0x1A, 0x02}), Contains("AVX512_BF16"));
  EXPECT_THAT(instruction_sets_of_model({"", 0, 0}), IsEmpty());
}

TEST(Findings, NameSettingsThatChangeNumbers) {
  Examination e = good_machine();
  e.settings.fp32_matmul = "bf16";
  e.settings.environment = {{"ONEDNN_DEFAULT_FPMATH_MODE", "BF16"},
                            {"HALFTONE_REFERENCE_KERNELS", "adamw"},
                            {"HALFTONE_CPU_GEMM", "off"}};
  EXPECT_THAT(words_of(e), ElementsAre("fp32", "fp32", "kernels", "kernels"));
  EXPECT_THAT(find_costs(e)[0].statement, HasSubstr("may compute fp32 matmuls in bf16"));
}

TEST(Findings, NameWhatOtherProgramsWouldLose) {
  Examination e = good_machine();
  e.matmuls = {{"bf16.forward", 4.0, 2.0, false}, {"fp16.forward", 90.0, 2.0, false}};
  const Finding finding = only_finding(e);
  EXPECT_THAT(finding.statement, HasSubstr("fp16.forward takes 45 times as long"));
  EXPECT_TRUE(finding.is_avoided);
}

TEST(Findings, NameAMissingChoiceOfPages) {
  Examination e = good_machine();
  e.settings.large_pages = "never";
  EXPECT_EQ(only_finding(e).what, "pages");
}

}  // namespace
}  // namespace halftone::findings_test
