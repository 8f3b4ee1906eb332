// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/precision_hints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <string>
#include <vector>

#include "halftone/core/log.h"
#include "halftone/nn/feed_forward.h"

namespace halftone::precision_hints_test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// A large model on a CPU that is fast in bf16 and in fp16: nothing to say about bf16-mixed.
HintInputs cpu_facts(const std::string& precision) {
  HintInputs facts{.policy = parse_precision(precision),
                   .parameters = 1'000'000,
                   .batch_size = 7,
                   .widths = {{"head.weight", 30, 10}},
                   .cpu = {.avx512_bf16 = true, .avx512_fp16 = true}};
  facts.matmuls = parse_cpu_gemm_config("native");
  return facts;
}

// The same on an Ampere GPU, with sizes that its Tensor Cores like.
HintInputs gpu_facts(const std::string& precision) {
  HintInputs facts{.policy = parse_precision(precision),
                   .device = torch::kCUDA,
                   .parameters = 1'000'000,
                   .batch_size = 16,
                   .widths = {{"layers.0.weight", 64, 128}, {"head.weight", 128, 16}},
                   .compute_capability = 80};
  return facts;
}

TEST(PrecisionHints, HasNothingToSayWhereAllIsWell) {
  EXPECT_THAT(precision_hints(cpu_facts("bf16-mixed")), IsEmpty());
  EXPECT_THAT(precision_hints(gpu_facts("bf16-mixed")), IsEmpty());
}

TEST(PrecisionHints, IsSilentAbout32True) {
  HintInputs facts = gpu_facts("32-true");
  facts.parameters = 10;
  facts.batch_size = 7;
  facts.compute_capability = 60;
  EXPECT_THAT(precision_hints(facts), IsEmpty());
}

TEST(PrecisionHints, SaysThatASmallModelGainsNothing) {
  for (const HintInputs& base :
       {cpu_facts("bf16-mixed"), gpu_facts("bf16-mixed"), cpu_facts("int8-mixed")}) {
    EXPECT_THAT(precision_hints(base), IsEmpty());
    HintInputs facts = base;
    facts.parameters = 999'999;
    EXPECT_THAT(precision_hints(facts),
                ElementsAre(AllOf(HasSubstr("the model has 999999 parameters"),
                                  HasSubstr(base.policy.name + " gains no speed"))));
  }
}

TEST(PrecisionHints, SaysThatTheCpuLacksTheInstructions) {
  HintInputs facts = cpu_facts("bf16-mixed");
  facts.cpu = {};
  facts.matmuls = {};
  EXPECT_THAT(
      precision_hints(facts),
      ElementsAre(AllOf(HasSubstr("no instructions for bf16 (AVX512_BF16, AMX_BF16 or Arm's BF16)"),
                        Not(HasSubstr("torch::nn::Linear")))));
  facts.has_torch_linear = true;
  EXPECT_THAT(precision_hints(facts), ElementsAre(HasSubstr("halftone::Linear chooses")));
  facts.cpu.amx_bf16 = true;
  facts.matmuls.bf16.forward = GemmBackend::kNative;
  EXPECT_THAT(precision_hints(facts), IsEmpty());
}

TEST(PrecisionHints, SaysThatTheInstructionsDoNotHelp) {
  HintInputs facts = cpu_facts("bf16-mixed");
  facts.matmuls.bf16 = parse_cpu_gemm_config("upcast").bf16;
  EXPECT_THAT(precision_hints(facts), ElementsAre(HasSubstr("no faster than fp32 on this CPU")));
  // One direction is enough; attention alone is not.
  facts.matmuls.bf16.attention = GemmBackend::kNative;
  EXPECT_THAT(precision_hints(facts), SizeIs(1));
  facts.matmuls.bf16.weight_gradient = GemmBackend::kNative;
  EXPECT_THAT(precision_hints(facts), IsEmpty());
}

TEST(PrecisionHints, SaysThatTheGpuLacksTensorCores) {
  HintInputs facts = gpu_facts("bf16-mixed");
  facts.compute_capability = 75;
  EXPECT_THAT(precision_hints(facts),
              ElementsAre(AllOf(HasSubstr("(compute capability 7.5) has no Tensor Cores for bf16"),
                                HasSubstr("it has them for fp16 (16-mixed)"))));
  facts.compute_capability = 61;
  EXPECT_THAT(precision_hints(facts), ElementsAre(Not(HasSubstr("16-mixed)"))));
  facts = gpu_facts("16-mixed");
  facts.compute_capability = 75;  // fp16 is the fast one here
  EXPECT_THAT(precision_hints(facts), IsEmpty());
  facts.compute_capability = 61;
  EXPECT_THAT(precision_hints(facts),
              ElementsAre(HasSubstr("6.1) has no Tensor Cores for fp16"), HasSubstr("bf16-mixed")));
}

TEST(PrecisionHints, WantsMultiplesOf8ForTensorCores) {
  HintInputs facts = gpu_facts("bf16-mixed");
  facts.batch_size = 12;
  EXPECT_THAT(precision_hints(facts),
              ElementsAre(AllOf(HasSubstr("the batch size is 12"), HasSubstr("16 is the next"))));
  facts.batch_size = 0;  // not known
  EXPECT_THAT(precision_hints(facts), IsEmpty());
  facts.widths[1].out = 10;
  EXPECT_THAT(precision_hints(facts),
              ElementsAre(HasSubstr("head.weight takes 128 inputs to 10 outputs: Tensor Cores")));
  facts.widths[0].in = 30;
  EXPECT_THAT(
      precision_hints(facts),
      ElementsAre(HasSubstr("layers.0.weight takes 30 inputs to 128 outputs, and 1 more:")));
  // Without Tensor Cores only that is said.
  facts.batch_size = 12;
  facts.compute_capability = 61;
  EXPECT_THAT(precision_hints(facts), ElementsAre(HasSubstr("no Tensor Cores")));
}

TEST(PrecisionHints, OffersBf16WhereItIsFree) {
  EXPECT_THAT(precision_hints(cpu_facts("16-mixed")),
              ElementsAre(HasSubstr("bf16-mixed is no slower than 16-mixed on this CPU and needs "
                                    "no loss scale")));
  EXPECT_THAT(precision_hints(gpu_facts("16-mixed")), ElementsAre(HasSubstr("on this GPU")));
  EXPECT_THAT(precision_hints(gpu_facts("16-true")),
              ElementsAre(HasSubstr("bf16-true is no slower than 16-true")));
  HintInputs facts = cpu_facts("16-mixed");
  facts.cpu.avx512_bf16 = false;  // fp16 alone is fast
  EXPECT_THAT(precision_hints(facts), IsEmpty());
}

// A linear layer whose weight is shared, a convolution, an embedding and a layer of ours.
struct MixedModule : torch::nn::Module {
  MixedModule() {
    const auto first = register_module("first", torch::nn::Linear(6, 8));
    register_parameter("tied", first->weight);
    register_module("conv", torch::nn::Conv2d(4, 12, 3));
    register_module("embedding", torch::nn::Embedding(50, 6));
    register_module("block", FeedForward(6, 16, 0.0));
    register_parameter("scale", torch::ones({3}));
    register_parameter("mix", torch::ones({3, 5}));
  }
};

TEST(HintInputs, AreCollectedFromAModule) {
  const MixedModule module;
  const HintInputs facts = collect_hint_inputs(module, parse_precision("16-mixed"), torch::kCPU, 9);
  EXPECT_EQ(facts.parameters, (6 * 8 + 8) + (4 * 12 * 9 + 12) + 50 * 6 + 3 * 6 * 16 + 3 + 15);
  std::vector<std::string> names;
  for (const WeightShape& weight : facts.widths) names.push_back(weight.name);
  EXPECT_THAT(names, ElementsAre("tied", "mix", "first.weight", "conv.weight", "block.w1.weight",
                                 "block.w3.weight", "block.w2.weight"));
  EXPECT_EQ(facts.widths[2].in, 6);
  EXPECT_EQ(facts.widths[2].out, 8);
  EXPECT_EQ(facts.widths[3].in, 4);
  EXPECT_EQ(facts.widths[3].out, 12);
  EXPECT_TRUE(facts.has_torch_linear);
  EXPECT_EQ(facts.batch_size, 9);
  EXPECT_EQ(facts.device, torch::kCPU);
  EXPECT_EQ(facts.compute_capability, 0);
  EXPECT_EQ(facts.cpu, this_processor().features);
  EXPECT_EQ(facts.matmuls, cpu_gemm_config());
  const FeedForward ours(6, 16, 0.0);
  EXPECT_FALSE(collect_hint_inputs(*ours, {}, torch::kCPU, 1).has_torch_linear);
}

TEST(LogHints, SaysEachSentenceOnce) {
  std::vector<std::string> said;
  set_log_sink([&](LogLevel level, const std::string& message) {
    EXPECT_EQ(level, LogLevel::kNote);
    said.push_back(message);
  });
  log_hints({"one", "two"});
  log_hints({"two", "three"});
  set_log_sink({});
  EXPECT_THAT(said, ElementsAre("one", "two", "three"));
}

}  // namespace
}  // namespace halftone::precision_hints_test
