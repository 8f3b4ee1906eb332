// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/hugging_face_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::hugging_face_config_test {
namespace {

using nlohmann::json;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

json llama() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "vocab_size": 259,
    "tie_word_embeddings": true, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": [2, 3],
    "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.1, "pretraining_tp": 1,
    "rope_scaling": null, "use_cache": true, "transformers_version": "4.57.6"})");
}

json with(const std::string& key, const json& value) {
  json config = llama();
  config[key] = value;
  return config;
}

ModelConfig read(const std::string& text) {
  const TempFolder folder;
  write_text(folder / "config.json", text);
  return read_hugging_face_config(folder / "config.json");
}

std::string refusal(const std::string& text) {
  const std::string message = message_of<UserError>([&] { read(text); });
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 800U) << message;
  return message;
}

TEST(HuggingFaceConfig, ReadsALlama) {
  const ModelConfig model = read(llama().dump());
  EXPECT_EQ(model.generation, "llama");
  EXPECT_EQ(model.dim, 8);
  EXPECT_EQ(model.hidden_dim, 24);
  EXPECT_EQ(model.n_layers, 3);
  EXPECT_EQ(model.n_heads, 4);
  EXPECT_EQ(model.n_kv_heads, 2);
  EXPECT_EQ(model.max_seq_len, 64);
  EXPECT_EQ(model.norm_eps, 1e-5);
  EXPECT_EQ(model.rope_theta, 1e4);
  EXPECT_EQ(model.vocab_size, 259);
  EXPECT_FALSE(model.use_moe);
  EXPECT_TRUE(model.tie_embeddings);
}

TEST(HuggingFaceConfig, ReadsWhatMayBeLeftOutOrStandsElsewhere) {
  json config = with("num_key_value_heads", nullptr);
  config["head_dim"] = 6;
  config["tie_word_embeddings"] = false;
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  const ModelConfig read_back = read(config.dump());
  EXPECT_EQ(read_back.n_kv_heads, 4);
  EXPECT_EQ(read_back.head_dim, 6);
  EXPECT_EQ(read_back.rope_theta, 5e5);
  EXPECT_FALSE(read_back.tie_embeddings);
}

TEST(HuggingFaceConfig, ReadsExpertsOfAMiniMind) {
  json config = with("model_type", "minimind");
  config["architectures"] = {"MiniMindForCausalLM"};
  config.update({{"use_moe", true},
                 {"n_routed_experts", 8},
                 {"num_experts_per_tok", 3},
                 {"n_shared_experts", 1},
                 {"scoring_func", "softmax"},
                 {"norm_topk_prob", true},
                 {"seq_aux", true},
                 {"aux_loss_alpha", 0.01},
                 {"flash_attn", true}});
  const ModelConfig model = read(config.dump());
  EXPECT_EQ(model.generation, "v2504");
  EXPECT_TRUE(model.use_moe);
  EXPECT_EQ(model.n_routed_experts, 8);
  EXPECT_EQ(model.num_experts_per_tok, 3);
  EXPECT_EQ(model.n_shared_experts, 1);
}

// Each alone makes another model of the same tensors.
TEST(HuggingFaceConfig, RefusesByNameWhatChangesTheComputation) {
  const std::vector<std::pair<std::string, json>> changes = {
      {"architectures", {"GraniteForCausalLM"}},
      {"architectures", "LlamaForCausalLM"},
      {"model_type", "mistral"},
      {"hidden_act", "gelu"},
      {"embedding_multiplier", 12.0},
      {"attention_multiplier", 0.015625},
      {"residual_multiplier", 0.22},
      {"logits_scaling", 8.0},
      {"scale_emb", 12},
      {"scale_depth", 1.4},
      {"dim_model_base", 256},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"sliding_window", 4096},
      {"use_sliding_window", true},
      {"layer_types", {"full_attention", "sliding_attention"}},
      {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30.0},
      {"query_pre_attn_scalar", 256},
      {"partial_rotary_factor", 0.5},
      {"inference_rope_scaling", true},
      {"use_qk_norm", true},
      {"num_local_experts", 8},
      {"scoring_func", "sigmoid"},
      {"norm_topk_prob", false},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"rope_scaling", {{"type", "yarn"}, {"factor", 16}}},
      {"rope_scaling", {{"rope_type", "llama3"}}},
      {"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}},
  };
  for (const auto& [key, value] : changes)
    EXPECT_THAT(refusal(with(key, value).dump()), AllOf(HasSubstr("config.json"), HasSubstr(key)))
        << key;
}

TEST(HuggingFaceConfig, TakesTheValuesThatChangeNothing) {
  const std::vector<std::pair<std::string, json>> same = {
      {"embedding_multiplier", 1.0},
      {"logits_scaling", 1},
      {"attn_logit_softcapping", nullptr},
      {"sliding_window", nullptr},
      {"partial_rotary_factor", 1.0},
      {"rope_scaling", {{"type", "default"}}},
      {"layer_types", {"full_attention", "full_attention", "full_attention"}},
      {"hidden_act", "swish"},
      {"num_local_experts", 0},
      {"a_key_of_tomorrow", nullptr}};
  for (const auto& [key, value] : same)
    EXPECT_EQ(read(with(key, value).dump()).rope_theta, 1e4) << key;
}

TEST(HuggingFaceConfig, NamesAllThatMakesAnotherModel) {
  json granite = llama();
  granite.update({{"architectures", {"GraniteForCausalLM"}},
                  {"model_type", "granite"},
                  {"embedding_multiplier", 12.0},
                  {"residual_multiplier", 0.22}});
  EXPECT_THAT(
      refusal(granite.dump()),
      AllOf(HasSubstr("found another model by \"architectures\" [\"GraniteForCausalLM\"]"),
            HasSubstr("\"embedding_multiplier\" 12.0"), HasSubstr("\"model_type\" \"granite\""),
            HasSubstr("\"residual_multiplier\" 0.22")));
}

TEST(HuggingFaceConfig, RefusesUnknownKeys) {
  EXPECT_THAT(refusal(with("embedding_rotation", 7).dump()),
              AllOf(HasSubstr("keys that may make it another model: \"embedding_rotation\" 7"),
                    HasSubstr("remove those that do not change what is computed")));
  json many = llama();
  for (int i = 0; i < 40; ++i) many["unknown\n" + std::to_string(i)] = std::string(5000, 'x');
  EXPECT_THAT(refusal(many.dump()), HasSubstr("and 34 more"));
}

TEST(HuggingFaceConfig, NamesTheKeyThatIsMissingOrNoNumber) {
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta"}) {
    json config = llama();
    config.erase(key);
    EXPECT_THAT(refusal(config.dump()), HasSubstr(std::string(key) + " must be ")) << key;
    EXPECT_THAT(refusal(with(key, "8").dump()), HasSubstr(std::string(key) + " must be ")) << key;
  }
  EXPECT_THAT(refusal(with("hidden_size", 32.5).dump()),
              HasSubstr("hidden_size must be an integer from 1 to 2147483647, but it is 32.5"));
  json minimind = with("model_type", "minimind");
  minimind["architectures"] = {"MiniMindForCausalLM"};
  minimind["use_moe"] = 1;
  EXPECT_THAT(refusal(minimind.dump()), HasSubstr("use_moe must be true or false"));
  json two_bases = with("rope_parameters", {{"rope_theta", 5e5}});
  EXPECT_THAT(refusal(two_bases.dump()), HasSubstr("must be the same wherever it stands"));
}

TEST(HuggingFaceConfig, RefusesSizesThatNoModelHas) {
  EXPECT_THAT(refusal(with("hidden_size", 4294967295).dump()), HasSubstr("but it is 4294967295"));
  EXPECT_THAT(refusal(with("num_hidden_layers", 2000000000).dump()), HasSubstr("n_layers from 1"));
  EXPECT_THAT(refusal(with("hidden_size", -1).dump()), HasSubstr("hidden_size must be"));
  json huge = with("hidden_size", 2147483640);
  huge["vocab_size"] = 2147483647;
  EXPECT_THAT(refusal(huge.dump()), HasSubstr("at most 1e+15 parameters"));
  std::string text = llama().dump();
  text.replace(text.find("10000.0"), 7, "1e999");
  EXPECT_THAT(refusal(text), HasSubstr("rope_theta"));
}

TEST(HuggingFaceConfig, RefusesDeepAndDamagedFiles) {
  for (const char* key : {"hidden_act", "hidden_size", "anything"}) {
    std::string text = with(key, "DEEP").dump();
    text.replace(text.find("\"DEEP\""), 6, std::string(200'000, '[') + std::string(200'000, ']'));
    EXPECT_THAT(refusal(text), HasSubstr("nested at most")) << key;
  }
  for (const char* text : {"", "[]", "7", "{", "{\"hidden_size\": }"})
    EXPECT_THAT(refusal(text), HasSubstr("config.json: ")) << text;
}

}  // namespace
}  // namespace halftone::hugging_face_config_test
