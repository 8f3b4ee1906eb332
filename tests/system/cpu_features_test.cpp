// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/cpu_features.h"

#include <gtest/gtest.h>

namespace halftone {
namespace {

TEST(CpuFeatures, FollowTheFlagsOfTheFirstCore) {
  const CpuFeatures both = parse_cpu_features(
      "processor\t: 0\nmodel name\t: x avx512_fp16\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n"
      "bugs\t\t: amx_fp16\n\nprocessor\t: 1\nflags\t\t: avx512_fp16\n");
  EXPECT_EQ(both, (CpuFeatures{.avx512_bf16 = true, .amx_bf16 = true}));
  EXPECT_TRUE(both.multiplies_bf16());
  EXPECT_FALSE(both.multiplies_fp16());
  EXPECT_EQ(parse_cpu_features("flags : avx512_fp16"), (CpuFeatures{.avx512_fp16 = true}));
  EXPECT_TRUE(CpuFeatures{.amx_fp16 = true}.multiplies_fp16());
  EXPECT_TRUE(CpuFeatures{.amx_bf16 = true}.multiplies_bf16());
}

TEST(CpuFeatures, AreNoneWhereNothingIsSaid) {
  for (const char* text : {"", "flags", "flags\t: avx2 avx512_bf16x", "Features : avx512_bf16\n"})
    EXPECT_EQ(parse_cpu_features(text), CpuFeatures{}) << text;
}

TEST(CpuFeatures, AgreeWithTheCompilersOwnTest) {
  EXPECT_EQ(cpu_features().avx512_bf16, __builtin_cpu_supports("avx512bf16") != 0);
}

}  // namespace
}  // namespace halftone
