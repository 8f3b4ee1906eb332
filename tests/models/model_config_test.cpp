// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::model_config_test {
namespace {

using test::message_of;

TEST(ModelConfig, PresetsHaveMiniMindsSizes) {
  EXPECT_EQ(parameter_count(preset_config("minimind-26m")), 25'829'888);
  EXPECT_EQ(parameter_count(preset_config("minimind-104m")), 104'030'976);
  EXPECT_EQ(parameter_count(preset_config("minimind-moe-145m")), 145'029'760);
  EXPECT_EQ(parameter_count(preset_config("minimind-2504-26m")), 25'829'888);
  EXPECT_EQ(parameter_count(preset_config("minimind-2504-104m")), 104'030'976);
  EXPECT_EQ(parameter_count(preset_config("minimind-2504-moe-145m")), 145'029'760);
  EXPECT_EQ(parameter_count(preset_config("minimind3-64m")), 63'912'192);
  EXPECT_EQ(parameter_count(preset_config("minimind3-moe-198m")), 198'416'640);
  EXPECT_EQ(parameter_count(preset_config("minimind-1b")), 1'017'202'688);
  for (const std::string& name : preset_names()) EXPECT_NO_THROW(validate(preset_config(name)));
}

TEST(ModelConfig, WidthsFollowTheGenerationsRule) {
  for (const auto& [dim, hidden] :
       {std::pair<std::int64_t, std::int64_t>{512, 1408}, {640, 1728}, {768, 2048}})
    EXPECT_EQ(hidden_dim_of({.dim = dim}), hidden);
  EXPECT_EQ(hidden_dim_of({.generation = "v3", .dim = 768}), 2432);
  EXPECT_EQ(hidden_dim_of({.generation = "v3", .dim = 512}), 1664);
  EXPECT_EQ(hidden_dim_of({.hidden_dim = 7}), 7);
  EXPECT_EQ(head_dim_of({.dim = 512, .n_heads = 8}), 64);
  EXPECT_EQ(head_dim_of({.dim = 512, .n_heads = 8, .head_dim = 96}), 96);
}

TEST(ModelConfig, UnknownPresetsNameTheNearest) {
  EXPECT_THAT(message_of<UserError>([] { preset_config("minimind-26"); }),
              testing::HasSubstr("did you mean 'minimind-26m'"));
}

TEST(ModelConfig, WrongFieldsAreNamed) {
  const std::pair<const char*, ModelConfig> cases[] = {
      {"generation", {.generation = "v7"}},
      {"tie_embeddings", {.tie_embeddings = false}},
      {"a Llama has no experts", {.generation = "llama", .use_moe = true}},
      {"n_shared_experts 0", {.generation = "v3", .use_moe = true}},
      {"dim", {.dim = 0}},
      {"n_layers", {.n_layers = -1}},
      {"n_heads", {.n_heads = 0}},
      {"n_kv_heads", {.n_kv_heads = 3}},
      {"n_kv_heads", {.n_kv_heads = 0}},
      {"multiple of n_heads", {.dim = 510}},
      {"even head_dim", {.dim = 24, .n_heads = 8}},
      {"head_dim", {.head_dim = -1}},
      {"vocab_size", {.vocab_size = 0}},
      {"max_seq_len", {.max_seq_len = 0}},
      {"norm_eps", {.norm_eps = 0.0}},
      {"rope_theta", {.rope_theta = -1.0}},
      {"dropout", {.dropout = 1.0}},
      {"n_routed_experts", {.use_moe = true, .n_routed_experts = 0}},
      {"num_experts_per_tok", {.use_moe = true, .num_experts_per_tok = 5}},
      {"n_shared_experts", {.use_moe = true, .n_shared_experts = 2}},
      {"aux_loss_alpha", {.use_moe = true, .aux_loss_alpha = -0.1}},
  };
  for (const auto& [word, config] : cases)
    EXPECT_THAT(message_of<UserError>([&config = config] { validate(config); }),
                testing::HasSubstr(word));
}

}  // namespace
}  // namespace halftone::model_config_test
