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

CausalLM small_model(std::int64_t max_seq_len = 64) {
  torch::manual_seed(11);
  return CausalLM(ModelConfig{.dim = 64,
                              .n_layers = 2,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .vocab_size = 50,
                              .max_seq_len = max_seq_len});
}

Ids generated(CausalLM& model, const Ids& prompt, const SamplingOptions& options) {
  Ids ids;
  generate(model, prompt, options, [&](std::int64_t id) {
    ids.push_back(id);
    return true;
  });
  return ids;
}

TEST(Generate, GreedyEqualsTheArgmaxOfFullForwards) {
  CausalLM model = small_model();
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
  CausalLM model = small_model();
  const SamplingOptions options{.greedy = true, .max_new_tokens = 12};
  const Ids fused = generated(model, {1, 2, 3}, options);
  for (const char* names : {"matvec", "decode_attention", "all"}) {
    const test::ReferenceScope scope(names);
    EXPECT_EQ(generated(model, {1, 2, 3}, options), fused) << names;
  }
}

TEST(Generate, SeedDecides) {
  CausalLM model = small_model();
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
  CausalLM model = small_model();
  EXPECT_EQ(generated(model, {4, 5}, {.top_p = 1e-9, .max_new_tokens = 10}),
            generated(model, {4, 5}, {.greedy = true, .max_new_tokens = 10}));
}

TEST(Generate, TopPOfOneCanReachEveryToken) {
  CausalLM model = small_model();
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
      CausalLM model = small_model();
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
  CausalLM model = small_model(8);
  EXPECT_EQ(generated(model, {1, 2, 3}, {.seed = 5, .max_new_tokens = 30}).size(), 30U);
  EXPECT_EQ(generated(model, Ids(20, 1), {.max_new_tokens = 3}).size(), 3U);  // a longer prompt
  CausalLM one = small_model(1);
  EXPECT_EQ(generated(one, {1}, {.max_new_tokens = 3}).size(), 3U);
}

TEST(Generate, StopsAtTheEndTokenAndWhenAsked) {
  CausalLM model = small_model();
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
  CausalLM model = small_model();
  model->train();
  generated(model, {1}, {.max_new_tokens = 2});
  EXPECT_TRUE(model->is_training());
  model->forward(torch::tensor(Ids{1, 2}).unsqueeze(0)).logits.sum().backward();
  EXPECT_TRUE(model->parameters().front().grad().defined());
}

/// Prompts of different lengths, one longer than the context of 16.
TEST(GenerateAfterRows, SaysOfAPromptsRowsWhatFollowsThePrompt) {
  CausalLM model = small_model();
  const Ids prompt{1, 2, 3};
  const Tensor rows = model->embedded(torch::tensor(prompt).unsqueeze(0)).detach();
  for (const bool greedy : {true, false}) {
    SamplingOptions options{.greedy = greedy, .seed = 5, .max_new_tokens = 12};
    const GeneratedText text = generate_after_rows(model, rows, options);
    EXPECT_EQ(text.ids, generated(model, prompt, options));
    EXPECT_EQ(text.end, TextEnd::kLength);
    options.eos = text.ids[7];
    const GeneratedText ended = generate_after_rows(model, rows, options);
    EXPECT_EQ(ended.ids, generated(model, prompt, options));
    EXPECT_EQ(ended.end, TextEnd::kEndToken);
  }
  // Rows that no token has say something else.
  const SamplingOptions options{.greedy = true, .max_new_tokens = 12};
  EXPECT_NE(generate_after_rows(model, -rows, options).ids, generated(model, prompt, options));
  EXPECT_TRUE(model->is_training());
}

TEST(GenerateAfterRows, EndsWhereTheContextDoes) {
  CausalLM model = small_model(8);
  const Tensor rows = model->embedded(torch::tensor({{1, 2, 3}})).detach();
  const GeneratedText text =
      generate_after_rows(model, rows, {.greedy = true, .max_new_tokens = 20});
  EXPECT_EQ(text.end, TextEnd::kContext);
  EXPECT_EQ(text.ids.size(), 6U);  // the last one is not read
  EXPECT_THROW(generate_after_rows(model, rows.repeat({1, 3, 1}), {}), c10::Error);
  EXPECT_THROW(generate_after_rows(model, rows.slice(1, 0, 0), {}), c10::Error);
}

std::vector<Ids> different_prompts() {
  std::vector<Ids> prompts{{1}, {7, 8, 9, 10, 11}, {3, 4}, Ids(20, 5)};
  for (std::int64_t i = 0; i < 9; ++i)
    prompts.push_back(Ids(static_cast<std::size_t>(i % 4 + 1), i));
  return prompts;
}

void expect_batch_equals_singles(CausalLM& model, SamplingOptions options) {
  const std::vector<Ids> prompts = different_prompts();
  std::vector<Ids> alone;
  for (const Ids& prompt : prompts) alone.push_back(generated(model, prompt, options));
  for (const std::int64_t batch_size : {1, 3, 8, 13}) {
    std::size_t next = 0;
    EXPECT_TRUE(generate_batch(model, prompts, {.sampling = options, .batch_size = batch_size},
                               [&](std::size_t index, const GeneratedText& text) {
                                 EXPECT_EQ(index, next++);
                                 EXPECT_EQ(text.ids, alone[index]) << index << ' ' << batch_size;
                               }));
    EXPECT_EQ(next, prompts.size());
  }
}

TEST(GenerateBatch, EachTextIsThatOfASingleRun) {
  CausalLM model = small_model(16);
  expect_batch_equals_singles(model, {.greedy = true, .max_new_tokens = 25});
  expect_batch_equals_singles(model, {.temperature = 2.0, .seed = 4, .max_new_tokens = 9});
  // One that some texts meet early and others never.
  SamplingOptions ends{.greedy = true, .max_new_tokens = 25};
  ends.eos = generated(model, {7, 8, 9, 10, 11}, ends)[2];
  expect_batch_equals_singles(model, ends);
}

TEST(GenerateBatch, EqualsSingleRunsOfAMixtureOfExperts) {
  torch::manual_seed(12);
  CausalLM model(ModelConfig{.dim = 64,
                             .n_layers = 2,
                             .n_heads = 4,
                             .n_kv_heads = 2,
                             .vocab_size = 50,
                             .max_seq_len = 16,
                             .use_moe = true});
  expect_batch_equals_singles(model, {.greedy = true, .max_new_tokens = 12});
}

TEST(GenerateBatch, StopsWhenAskedAndSaysWhyTextsEnd) {
  CausalLM model = small_model();
  SamplingOptions sampling{.temperature = 2.0, .seed = 3, .max_new_tokens = 6};
  std::int64_t steps = 0;
  EXPECT_FALSE(generate_batch(
      model, {{1}, {2}},
      {.sampling = sampling, .on_step = [&](std::int64_t) { return ++steps < 3; }},
      [](std::size_t, const GeneratedText&) { ADD_FAILURE() << "no text had ended"; }));
  EXPECT_EQ(steps, 3);
  const Ids ids = generated(model, {1}, sampling);
  sampling.eos = ids[2];
  ASSERT_TRUE(ids[0] != ids[2] && ids[1] != ids[2]);
  const auto ends = [&](std::int64_t most) {
    sampling.max_new_tokens = most;
    TextEnd end{};
    generate_batch(model, {{1}}, {.sampling = sampling},
                   [&](std::size_t, const GeneratedText& text) { end = text.end; });
    return end;
  };
  EXPECT_EQ(ends(6), TextEnd::kEndToken);
  EXPECT_EQ(ends(2), TextEnd::kLength);
  EXPECT_EQ(ends(0), TextEnd::kLength);
  EXPECT_TRUE(generate_batch(model, {}, {}, [](std::size_t, const GeneratedText&) {}));
}

TEST(GenerateBatch, RefusesWrongPromptsAndBatches) {
  CausalLM model = small_model();
  const auto ignore = [](std::size_t, const GeneratedText&) {};
  EXPECT_THROW(generate_batch(model, {{1}, {}}, {}, ignore), UserError);
  EXPECT_THROW(generate_batch(model, {{1}, {50}}, {}, ignore), UserError);
  EXPECT_THROW(generate_batch(model, {{1}}, {.batch_size = 0}, ignore), UserError);
}

TEST(CachedGenerator, ReadsWhatIsNewAndWritesWhatGenerateWrites) {
  CausalLM model = small_model();
  const SamplingOptions options{.greedy = true, .max_new_tokens = 5};
  CachedGenerator generator(model);
  const auto extended = [&](const Ids& prompt) {
    Ids ids;
    EXPECT_EQ(generator.extend(prompt, options,
                               [&](std::int64_t id) {
                                 ids.push_back(id);
                                 return true;
                               }),
              TextEnd::kLength);
    return ids;
  };
  Ids turn{1, 2, 3};
  Ids made = extended(turn);
  EXPECT_EQ(made, generated(model, turn, options));
  EXPECT_EQ(generator.positions_read(), 3 + 4) << "the prompt, and all but the last answer token";
  turn.insert(turn.end(), made.begin(), made.end());
  turn.insert(turn.end(), {9, 8});
  made = extended(turn);
  EXPECT_EQ(made, generated(model, turn, options));
  EXPECT_EQ(generator.positions_read(), 7 + 3 + 4) << "the last answer token, the two new ones";
  // Another beginning: what is common is kept.
  const Ids other{1, 2, 7, 7};
  EXPECT_EQ(extended(other), generated(model, other, options));
  EXPECT_EQ(generator.positions_read(), 14 + 2 + 4);
  // The same again: one token is read for its logits.
  EXPECT_EQ(extended(other), generated(model, other, options));
  EXPECT_EQ(generator.positions_read(), 20 + 1 + 4);
}

TEST(CachedGenerator, EndsWhereTheContextEnds) {
  CausalLM model = small_model(8);
  CachedGenerator generator(model);
  std::int64_t count = 0;
  const auto more = [&](std::int64_t) { return ++count > 0; };
  EXPECT_EQ(generator.extend({1, 2, 3}, {.greedy = true, .max_new_tokens = 100}, more),
            TextEnd::kContext);
  EXPECT_EQ(count, 6) << "the last one is written behind the last position";
  EXPECT_THROW(generator.extend(Ids(9, 1), {}, more), c10::Error);
  EXPECT_EQ(generator.extend({1}, {}, [](std::int64_t) { return false; }), TextEnd::kStopped);
}

TEST(Generate, RefusesWrongOptions) {
  CausalLM model = small_model();
  EXPECT_THROW(generated(model, {1}, {.temperature = 0.0}), UserError);
  EXPECT_THROW(generated(model, {1}, {.top_p = 0.0}), UserError);
  EXPECT_THROW(generated(model, {1}, {.top_p = 1.5}), UserError);
  EXPECT_THROW(generated(model, {}, {}), UserError);
  EXPECT_THROW(generated(model, {50}, {}), UserError);
}

}  // namespace
}  // namespace halftone::generate_test
