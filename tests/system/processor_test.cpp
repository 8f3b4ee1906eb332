// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace halftone::processor_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Two packages of two cores, with two hardware threads each.
std::string two_packages() {
  std::string text;
  for (int thread = 0; thread < 8; ++thread)
    text += "processor\t: " + std::to_string(thread) +
            "\nmodel name\t: Some CPU @ 2.00GHz : rev 1\nphysical id\t: " +
            std::to_string(thread / 2 % 2) + "\ncore id\t\t: " + std::to_string(thread % 2) +
            "\nflags\t\t: fpu fma avx2 avx512f avx512_bf16 avx512_vnni x\nbugs\t\t: amx_bf16\n\n";
  return text;
}

TEST(Processor, CountsCoresOfAllPackagesAndTheirThreads) {
  const Processor processor = parse_processor(two_packages());
  EXPECT_EQ(processor.name, "Some CPU @ 2.00GHz : rev 1");
  EXPECT_EQ(processor.cores, 4);
  EXPECT_EQ(processor.threads, 8);
}

TEST(Processor, NamesTheInstructionSetsThatMatter) {
  EXPECT_THAT(parse_processor(two_packages()).instruction_sets,
              ElementsAre("AVX2", "FMA", "AVX-512", "AVX512_VNNI", "AVX512_BF16"));
  EXPECT_THAT(parse_processor("flags : avx2x avx").instruction_sets, IsEmpty());
}

TEST(Processor, UnderstandsArm) {
  const Processor processor = parse_processor(
      "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd bf16 i8mm\n\nprocessor\t: 1\n"
      "Features\t: fp asimd bf16 i8mm\n");
  EXPECT_EQ(processor.cores, 2);
  EXPECT_EQ(processor.threads, 2);
  EXPECT_THAT(processor.instruction_sets, ElementsAre("NEON", "NEON_BF16", "NEON_I8MM"));
  EXPECT_TRUE(processor.features.multiplies_bf16());
  EXPECT_FALSE(processor.features.multiplies_fp16());
}

TEST(Processor, ArmsOwnWordsReplaceThoseOfAnEmulatorsHost) {
  const Processor host = parse_processor(two_packages());
  constexpr std::uint64_t kCortexA76 = 0x119fff;  // of it asimd, asimdhp and asimddp matter here
  const Processor small = with_arm_features(host, kCortexA76, 0);
  EXPECT_THAT(small.instruction_sets, ElementsAre("NEON", "NEON_FP16", "NEON_DOTPROD"));
  EXPECT_FALSE(small.features.multiplies_bf16());
  EXPECT_TRUE(small.features.multiplies_fp16());
  EXPECT_NE(small.signature, host.signature);
  const Processor server = with_arm_features(host, kCortexA76 | 1U << 22U, 1U << 1U | 3U << 13U);
  EXPECT_THAT(server.instruction_sets, ElementsAre("NEON", "NEON_FP16", "NEON_DOTPROD", "NEON_BF16",
                                                   "NEON_I8MM", "SVE", "SVE2"));
  EXPECT_TRUE(server.features.multiplies_bf16());
  EXPECT_NE(server.signature, small.signature);
}

TEST(Processor, KnowsNothingOfAnotherText) {
  for (const char* text : {"", "\n\n", "no colon", ":", "flags", "model name"}) {
    const Processor processor = parse_processor(text);
    EXPECT_EQ(processor.name, "") << text;
    EXPECT_EQ(processor.cores, 0) << text;
    EXPECT_THAT(processor.instruction_sets, IsEmpty()) << text;
  }
}

TEST(Processor, OfThisMachineAgreesWithTheCompilersOwnTest) {
  const Processor processor = this_processor();
  EXPECT_GE(processor.threads, processor.cores);
  EXPECT_EQ(processor.threads, sysconf(_SC_NPROCESSORS_ONLN));
#if defined(__x86_64__)
  const bool named =
      testing::Value(processor.instruction_sets, testing::Contains(std::string("AVX2")));
  EXPECT_EQ(named, __builtin_cpu_supports("avx2") != 0);
#elif defined(__aarch64__)
  EXPECT_THAT(processor.instruction_sets, testing::Contains("NEON"));
#endif
}

TEST(Processor, SignatureTellsMachinesOfOneNameApart) {
  const std::string text = two_packages();
  std::string fewer = text;
  fewer.replace(fewer.find("avx512_vnni"), 11, "");
  EXPECT_EQ(parse_processor(text).signature, parse_processor(text).signature);
  EXPECT_NE(parse_processor(text).signature, parse_processor(fewer).signature);
}

TEST(Processor, KnowsItsModel) {
  const Processor processor = parse_processor(
      "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\nmodel name : Xeon\n"
      "flags : fpu hypervisor avx2\nprocessor : 1\nmodel : 1\n");
  EXPECT_EQ(processor.model.vendor, "GenuineIntel");
  EXPECT_EQ(processor.model.family, 6);
  EXPECT_EQ(processor.model.model, 143);
  EXPECT_TRUE(processor.is_virtual);
  EXPECT_FALSE(parse_processor("flags : fpu\n").is_virtual);
}

TEST(CpuFeatures, FollowTheFlagsOfTheFirstCore) {
  const CpuFeatures both = parse_processor(
                               "processor\t: 0\nmodel name\t: x avx512_fp16\nflags\t\t: fpu "
                               "avx512_bf16 amx_bf16 amx_tile\n"
                               "bugs\t\t: amx_fp16\n\nprocessor\t: 1\nflags\t\t: avx512_fp16\n")
                               .features;
  EXPECT_EQ(both, (CpuFeatures{.avx512_bf16 = true, .amx_bf16 = true}));
  EXPECT_TRUE(both.multiplies_bf16());
  EXPECT_FALSE(both.multiplies_fp16());
  EXPECT_EQ(parse_processor("flags : avx512_fp16").features, (CpuFeatures{.avx512_fp16 = true}));
  EXPECT_TRUE(CpuFeatures{.amx_fp16 = true}.multiplies_fp16());
  EXPECT_TRUE(CpuFeatures{.amx_bf16 = true}.multiplies_bf16());
}

TEST(CpuFeatures, AreNoneWhereNothingIsSaid) {
  for (const char* text : {"", "flags", "flags\t: avx2 avx512_bf16x", "Features : avx512_bf16\n",
                           "flags : bf16 asimdhp\n"})
    EXPECT_EQ(parse_processor(text).features, CpuFeatures{}) << text;
}

#if defined(__x86_64__)
TEST(CpuFeatures, AgreeWithTheCompilersOwnTest) {
  EXPECT_EQ(this_processor().features.avx512_bf16, __builtin_cpu_supports("avx512bf16") != 0);
}
#endif

}  // namespace
}  // namespace halftone::processor_test
