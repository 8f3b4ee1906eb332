// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/memory_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::memory_policy_test {
namespace {

using test::message_of;
using testing::HasSubstr;

MemoryPolicy recipe(const MemoryOptions& choice, const char* precision) {
  return memory_policy(choice, parse_precision(precision));
}

TEST(MemoryPolicy, StandardIsWhatThePrecisionSays) {
  for (const std::string& name : precision_names()) {
    const MemoryPolicy standard = recipe({}, name.c_str());
    EXPECT_FALSE(standard.bf16_weights) << name;
    EXPECT_EQ(standard.moments, MomentStorage::kFloat32) << name;
    EXPECT_EQ(standard.stochastic_rounding, parse_precision(name).stochastic_rounding) << name;
    EXPECT_FALSE(standard.recompute_blocks) << name;
  }
}

TEST(MemoryPolicy, LeanKeepsInBf16OnlyWhatIsMultipliedAsBf16) {
  for (const std::string& name : precision_names()) {
    const MemoryPolicy lean = recipe({.memory = "lean"}, name.c_str());
    const bool bf16 = name.starts_with("bf16") || name.starts_with("fp8");
    EXPECT_EQ(lean.bf16_weights, bf16) << name;
    EXPECT_EQ(lean.stochastic_rounding, bf16) << name;
    EXPECT_EQ(lean.master, MasterWeights::kNone) << name;
    EXPECT_EQ(lean.moments, MomentStorage::kInt8) << name;
    EXPECT_TRUE(lean.recompute_blocks) << name;
  }
}

TEST(MemoryPolicy, LeanestReleasesGradientsBeside) {
  for (const std::string& name : precision_names()) {
    if (parse_precision(name).loss_scaling) continue;
    const MemoryPolicy lean = recipe({.memory = "lean"}, name.c_str());
    const MemoryPolicy leanest = recipe({.memory = "leanest"}, name.c_str());
    EXPECT_EQ(leanest.bf16_weights, lean.bf16_weights) << name;
    EXPECT_EQ(leanest.moments, lean.moments) << name;
    EXPECT_TRUE(leanest.recompute_blocks) << name;
    EXPECT_FALSE(lean.release_gradients) << name;
    EXPECT_TRUE(leanest.release_gradients) << name;
    EXPECT_EQ(lean.clip_mode, ClipMode::kExact) << name;
    EXPECT_EQ(leanest.clip_mode, ClipMode::kPrevious) << name;
    EXPECT_TRUE(leanest.adamw().release_gradients) << name;
  }
  EXPECT_FALSE(
      recipe({.memory = "leanest", .release_gradients = "off"}, "bf16-mixed").release_gradients);
  EXPECT_EQ(recipe({.memory = "leanest", .clip_mode = "exact"}, "bf16-mixed").clip_mode,
            ClipMode::kExact);
  EXPECT_TRUE(recipe({.release_gradients = "on"}, "32-true").release_gradients);
}

TEST(MemoryPolicy, PartsOverrideTheRecipe) {
  const MemoryPolicy exact = recipe(
      {.memory = "lean", .master_weights = "split16", .moments = "fp32", .recompute = "none"},
      "bf16-mixed");
  EXPECT_TRUE(exact.bf16_weights);
  EXPECT_EQ(exact.master, MasterWeights::kSplit16);
  EXPECT_EQ(exact.moments, MomentStorage::kFloat32);
  EXPECT_FALSE(exact.recompute_blocks);
  EXPECT_FALSE(recipe({.memory = "lean", .master_weights = "fp32"}, "bf16-mixed").bf16_weights);
  EXPECT_FALSE(exact.fp32_gradients);
  EXPECT_TRUE(recipe({.memory = "lean", .gradients = "fp32"}, "bf16-mixed").fp32_gradients);
  EXPECT_EQ(recipe({.moments = "bf16"}, "32-true").moments, MomentStorage::kBFloat16);

  const AdamWOptions options = exact.adamw({.lr = 0.5});
  EXPECT_EQ(options.lr, 0.5);
  EXPECT_EQ(options.master, MasterWeights::kSplit16);
  EXPECT_EQ(options.moments, MomentStorage::kFloat32);
  EXPECT_TRUE(options.stochastic_rounding);
}

TEST(MemoryPolicy, RoundsToNearestWhereThatIsChosen) {
  for (const char* memory : {"standard", "lean"})
    EXPECT_FALSE(
        recipe({.memory = memory, .rounding = "nearest"}, "bf16-true").stochastic_rounding);
}

TEST(MemoryPolicy, LeavesAdamWWhatItDoesNotAskFor) {
  const AdamWOptions own{.lr = 0.5,
                         .stochastic_rounding = true,
                         .master = MasterWeights::kSplit8,
                         .moments = MomentStorage::kInt8,
                         .offload = "folder"};
  const AdamWOptions kept = recipe({}, "32-true").adamw(own);
  EXPECT_EQ(kept.lr, 0.5);
  EXPECT_TRUE(kept.stochastic_rounding);
  EXPECT_EQ(kept.master, MasterWeights::kSplit8);
  EXPECT_EQ(kept.moments, MomentStorage::kInt8);
  EXPECT_EQ(kept.offload, "folder");
}

TEST(MemoryPolicy, RefusesAdamWsOptionsThatContradictIt) {
  const auto message = [](const MemoryOptions& choice, const AdamWOptions& own) {
    return message_of<UserError>([&] { recipe(choice, "bf16-mixed").adamw(own); });
  };
  EXPECT_THAT(message({.memory = "lean"}, {.moments = MomentStorage::kBFloat16}),
              HasSubstr("asks for moments int8, but AdamWOptions of this module for moments bf16"));
  EXPECT_THAT(message({.master_weights = "split8"}, {.master = MasterWeights::kSplit16}),
              HasSubstr("for master_weights split16; leave one"));
  EXPECT_THAT(message({.offload = "a"}, {.offload = "b"}), HasSubstr("offload 'a'"));
}

TEST(MemoryPolicy, RefusesWhatExcludesEachOtherWithTheReason) {
  const auto message = [](const MemoryOptions& choice, const char* precision) {
    return message_of<UserError>([&] { recipe(choice, precision); });
  };
  EXPECT_THAT(message({.master_weights = "split8"}, "16-mixed"),
              HasSubstr("keeps weights in bf16, but 16-mixed"));
  EXPECT_THAT(message({.master_weights = "fp32"}, "bf16-true"), HasSubstr("have 16 bits"));
  EXPECT_THAT(message({.master_weights = "most"}, "bf16-mixed"),
              HasSubstr("one of auto, fp32, split16, split8, none, got 'most'"));
  EXPECT_THAT(message({.gradients = "bf16"}, "bf16-mixed"), HasSubstr("keeps them in fp32"));
  EXPECT_THAT(message({.gradients = "bf16"}, "16-true"), HasSubstr("keeps them in fp16"));
  EXPECT_THAT(message({.moments = "int4"}, "bf16-mixed"), HasSubstr("got 'int4'"));
  EXPECT_THAT(message({.recompute = "all"}, "bf16-mixed"), HasSubstr("got 'all'"));
  EXPECT_THAT(message({.memory = "slim"}, "bf16-mixed"), HasSubstr("standard, lean, leanest"));
  EXPECT_THAT(message({.memory = "leanest"}, "16-mixed"),
              HasSubstr("memory leanest applies gradients as they come, but in 16-mixed"));
  EXPECT_THAT(message({.release_gradients = "on"}, "16-true"),
              HasSubstr("release_gradients on applies"));
  EXPECT_THAT(message({.release_gradients = "yes"}, "32-true"),
              HasSubstr("one of auto, off, on, got 'yes'"));
  EXPECT_THAT(message({.clip_mode = "previous"}, "32-true"), HasSubstr("add release_gradients on"));
  EXPECT_THAT(message({.clip_mode = "last"}, "32-true"), HasSubstr("got 'last'"));
  EXPECT_THAT(message({.rounding = "up"}, "bf16-true"),
              HasSubstr("one of stochastic, nearest, got 'up'"));
}

}  // namespace
}  // namespace halftone::memory_policy_test
