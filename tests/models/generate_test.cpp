// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/generate.h"

#include <gtest/gtest.h>

#include <set>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/nn/packed_parameters.h"
#include "support/reference_scope.h"

namespace halftone::generate_test {
namespace {

using torch::Tensor;
using Ids = std::vector<std::int64_t>;

MiniMindLM small_model(std::int64_t max_seq_len = 64) {
  torch::manual_seed(11);
  return MiniMindLM(ModelConfig{.dim = 64,
                                .n_layers = 2,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .vocab_size = 50,
                                .max_seq_len = max_seq_len});
}

Ids generated(MiniMindLM& model, const Ids& prompt, const SamplingOptions& options) {
  Ids ids;
  generate(model, prompt, options, [&](std::int64_t id) {
    ids.push_back(id);
    return true;
  });
  return ids;
}

TEST(Generate, GreedyEqualsTheArgmaxOfFullForwards) {
  MiniMindLM model = small_model();
  Ids ids{1, 2, 3};
  const Ids made = generated(model, ids, {.greedy = true, .max_new_tokens = 12});
  const torch::NoGradGuard no_grad;
  model->eval();
  for (const std::int64_t id : made) {
    const Tensor logits = model->forward(torch::tensor(ids).unsqueeze(0)).logits[0][-1];
    EXPECT_EQ(logits.argmax().item<std::int64_t>(), id);
    ids.push_back(id);
  }
  EXPECT_EQ(made.size(), 12U);
}

TEST(Generate, IsTheSameWithComposedKernels) {
  MiniMindLM model = small_model();
  const SamplingOptions options{.greedy = true, .max_new_tokens = 12};
  const Ids fused = generated(model, {1, 2, 3}, options);
  for (const char* names : {"matvec", "decode_attention", "all"}) {
    const test::ReferenceScope scope(names);
    EXPECT_EQ(generated(model, {1, 2, 3}, options), fused) << names;
  }
}

TEST(Generate, SeedDecides) {
  MiniMindLM model = small_model();
  const SamplingOptions options{.temperature = 2.0, .top_p = 1.0, .seed = 1, .max_new_tokens = 20};
  SamplingOptions other = options;
  other.seed = 2;
  torch::manual_seed(1);
  const Ids first = generated(model, {1}, options);
  torch::manual_seed(2);  // LibTorch's generator plays no part
  EXPECT_EQ(generated(model, {1}, options), first);
  EXPECT_NE(generated(model, {1}, other), first);
}

TEST(Generate, TinyTopPIsGreedy) {
  MiniMindLM model = small_model();
  EXPECT_EQ(generated(model, {4, 5}, {.top_p = 1e-9, .max_new_tokens = 10}),
            generated(model, {4, 5}, {.greedy = true, .max_new_tokens = 10}));
}

TEST(Generate, TopPOfOneCanReachEveryToken) {
  MiniMindLM model = small_model();
  std::set<std::int64_t> seen;
  for (std::uint64_t seed = 0; seed < 40; ++seed)
    for (const std::int64_t id : generated(
             model, {1}, {.temperature = 100.0, .top_p = 1.0, .seed = seed, .max_new_tokens = 20}))
      seen.insert(id);
  EXPECT_EQ(seen.size(), 50U);
}

TEST(Generate, PackedWeightsGiveTheSameIdsInEveryDtype) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const bool autocast : {false, true}) {
      MiniMindLM model = small_model();
      model->to(dtype);
      const Autocast region(torch::kCPU, torch::kBFloat16, autocast);
      const SamplingOptions options{.temperature = 2.0, .seed = 3, .max_new_tokens = 30};
      const Ids ids = generated(model, {1, 2}, options);
      pack_parameters(*model);
      EXPECT_EQ(generated(model, {1, 2}, options), ids);
      EXPECT_EQ(model->parameters().front().scalar_type(), dtype);
    }
  }
}

TEST(Generate, GoesOnBeyondTheContext) {
  MiniMindLM model = small_model(8);
  EXPECT_EQ(generated(model, {1, 2, 3}, {.seed = 5, .max_new_tokens = 30}).size(), 30U);
  EXPECT_EQ(generated(model, Ids(20, 1), {.max_new_tokens = 3}).size(), 3U);  // a longer prompt
  MiniMindLM one = small_model(1);
  EXPECT_EQ(generated(one, {1}, {.max_new_tokens = 3}).size(), 3U);
}

TEST(Generate, StopsAtTheEndTokenAndWhenAsked) {
  MiniMindLM model = small_model();
  const SamplingOptions options{.greedy = true, .max_new_tokens = 10};
  const Ids all = generated(model, {1, 2, 3}, options);
  SamplingOptions ends = options;
  ends.eos = all[0];
  EXPECT_TRUE(generated(model, {1, 2, 3}, ends).empty());
  int calls = 0;
  generate(model, {1, 2, 3}, options, [&](std::int64_t) { return ++calls < 4; });
  EXPECT_EQ(calls, 4);
}

TEST(Generate, LeavesTheModelAsItWasAndTrainable) {
  MiniMindLM model = small_model();
  model->train();
  generated(model, {1}, {.max_new_tokens = 2});
  EXPECT_TRUE(model->is_training());
  model->forward(torch::tensor(Ids{1, 2}).unsqueeze(0)).logits.sum().backward();
  EXPECT_TRUE(model->parameters().front().grad().defined());
}

TEST(Generate, RefusesWrongOptions) {
  MiniMindLM model = small_model();
  EXPECT_THROW(generated(model, {1}, {.temperature = 0.0}), UserError);
  EXPECT_THROW(generated(model, {1}, {.top_p = 0.0}), UserError);
  EXPECT_THROW(generated(model, {1}, {.top_p = 1.5}), UserError);
  EXPECT_THROW(generated(model, {}, {}), UserError);
  EXPECT_THROW(generated(model, {50}, {}), UserError);
}

}  // namespace
}  // namespace halftone::generate_test
