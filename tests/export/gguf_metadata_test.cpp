// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/export/model_gguf.h"
#include "halftone/export/tokenizer_gguf.h"
#include "halftone/tokenizer/tokenizer_json.h"
#include "support/small_export.h"

namespace halftone::gguf_metadata_test {
namespace {

using test::message_of;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

TokenizerSpec plain_spec() {
  return parse_tokenizer_json(test::export_tokenizer().json(), "tokenizer.json");
}

Tokenizer tokenizer_of(const TokenizerSpec& spec) {
  return Tokenizer::from_json(write_tokenizer_json(spec), "", "tokenizer.json");
}

std::string refusal(const TokenizerSpec& spec) {
  GgufMetadata metadata;
  return message_of<UserError>([&] { set_tokenizer_metadata(metadata, tokenizer_of(spec), 400); });
}

void add_token(TokenizerSpec& spec, const std::string& content, bool special) {
  const auto id = static_cast<std::int32_t>(spec.vocab.size());
  spec.vocab.emplace_back(content, id);
  spec.added_tokens.push_back({.id = id, .content = content, .special = special});
}

TEST(TokenizerMetadata, IdsComeBackForTextAndForTokensInIt) {
  TokenizerSpec spec = plain_spec();
  add_token(spec, "<tool_call>", false);
  add_token(spec, "<|extra|>", true);
  const Tokenizer before = tokenizer_of(spec);
  GgufMetadata metadata;
  set_tokenizer_metadata(metadata, before, 350);
  EXPECT_EQ(metadata.texts("tokenizer.ggml.tokens").size(), 350U);
  EXPECT_EQ(metadata.text("tokenizer.ggml.pre"), "gpt-2");
  const std::vector<std::int64_t> kinds = metadata.integers("tokenizer.ggml.token_type");
  EXPECT_EQ(kinds.at(static_cast<std::size_t>(*before.token_to_id("<tool_call>"))), 4);
  EXPECT_EQ(kinds.at(static_cast<std::size_t>(*before.token_to_id("<|extra|>"))), 3);
  EXPECT_EQ(kinds.back(), 5);
  const Tokenizer after = tokenizer_of_gguf(metadata, "a.gguf");
  for (const std::string text :
       {"spring <tool_call> 春 <|extra|></s>", "  It's\n\n 3 birds\r\n", "\xFF\xFE"})
    for (const auto parsing : {SpecialTokenParsing::kText, SpecialTokenParsing::kTokens})
      EXPECT_EQ(after.encode(text, parsing), before.encode(text, parsing)) << text;
  EXPECT_EQ(after.special_tokens().eos, before.special_tokens().eos);
  EXPECT_EQ(after.chat_template().render({}, ChatPrompt::kAnswer).text,
            before.chat_template().render({}, ChatPrompt::kAnswer).text);
}

// llama.cpp would merge letters to the token, which text never becomes here.
TEST(TokenizerMetadata, MergesThatMakeASpecialTokenAreLeftOut) {
  TokenizerSpec spec = plain_spec();
  const auto [left, right] = spec.merges.at(5);
  const auto merged = std::find_if(spec.vocab.begin(), spec.vocab.end(),
                                   [&](const auto& entry) { return entry.first == left + right; });
  spec.added_tokens.push_back({.id = merged->second, .content = left + right, .special = true});
  GgufMetadata metadata;
  set_tokenizer_metadata(metadata, tokenizer_of(spec), 300);
  EXPECT_THAT(metadata.texts("tokenizer.ggml.merges"), Not(Contains(left + " " + right)));
  EXPECT_EQ(metadata.texts("tokenizer.ggml.merges").size(), spec.merges.size() - 1);
}

TEST(TokenizerMetadata, TheRuleOfWordsComesBack) {
  const std::string text = "x(y  12345\n\n 'LL it's\r\n";
  for (const auto& [rule, name] :
       {std::pair(WordRule::kQwen2, "qwen2"), std::pair(WordRule::kLlama3, "llama-bpe")}) {
    TokenizerSpec spec = plain_spec();
    spec.words = rule;
    spec.ignore_merges = rule == WordRule::kLlama3;
    GgufMetadata metadata;
    set_tokenizer_metadata(metadata, tokenizer_of(spec), 300);
    EXPECT_EQ(metadata.text("tokenizer.ggml.pre"), name);
    EXPECT_EQ(tokenizer_of_gguf(metadata, "a.gguf").encode(text), tokenizer_of(spec).encode(text));
    spec.ignore_merges = !spec.ignore_merges;
    EXPECT_THAT(refusal(spec), HasSubstr("ignore_merges"));
  }
}

TEST(TokenizerMetadata, RefusesWhatLlamaCppWouldSplitOtherwise) {
  TokenizerSpec spec = plain_spec();
  spec.words = WordRule::kNone;
  EXPECT_THAT(refusal(spec), HasSubstr("does not split text into words"));
  spec = plain_spec();
  spec.add_prefix_space = true;
  EXPECT_THAT(refusal(spec), HasSubstr("add_prefix_space"));
  spec = plain_spec();
  spec.ignore_merges = true;
  EXPECT_THAT(refusal(spec), HasSubstr("ignore_merges"));
  spec = plain_spec();
  add_token(spec, "<ab>", false);
  add_token(spec, ">x", false);
  EXPECT_THAT(refusal(spec), HasSubstr("can overlap"));
}

TEST(TokenizerMetadata, RefusesMetadataOfOtherTokenizers) {
  GgufMetadata good;
  set_tokenizer_metadata(good, test::export_tokenizer(), 300);
  const auto with = [&](const char* key, GgufValue value) {
    GgufMetadata metadata = good;
    metadata.set(key, std::move(value));
    return message_of<UserError>([&] { tokenizer_of_gguf(metadata, "a.gguf"); });
  };
  EXPECT_THAT(with("tokenizer.ggml.pre", std::string("tekken")), HasSubstr("expected gpt-2"));
  EXPECT_THAT(with("tokenizer.ggml.model", std::string("llama")), HasSubstr("expected gpt2"));
  EXPECT_THAT(with("tokenizer.ggml.bos_token_id", std::uint32_t{9999}), HasSubstr("300 tokens"));
  EXPECT_THAT(with("tokenizer.ggml.token_type", GgufArray(std::vector<std::int32_t>{1})),
              HasSubstr("1 types of tokens"));
  EXPECT_THAT(with("tokenizer.ggml.merges", GgufArray(std::vector<std::string>{"ab"})),
              HasSubstr("with a space between them"));
}

TEST(ModelMetadata, TheModelComesBack) {
  for (const char* generation : {"llama", "qwen2", "qwen3"}) {
    GgufMetadata metadata;
    ModelConfig shape = test::export_shape(generation);
    shape.head_dim = 32;
    set_model_metadata(metadata, shape);
    set_tokenizer_metadata(metadata, test::export_tokenizer(), shape.vocab_size);
    EXPECT_EQ(metadata.text("general.architecture"), generation);
    ModelConfig back = model_of_gguf(metadata, false);
    EXPECT_NEAR(back.norm_eps, shape.norm_eps, 1e-12);
    back.norm_eps = shape.norm_eps;  // fp32 in the file
    back.n_shared_experts = shape.n_shared_experts;
    EXPECT_TRUE(back == shape) << generation;
    metadata.set(std::string(generation) + ".rope.scaling.type", std::string("yarn"));
    EXPECT_THAT(message_of<UserError>([&] { model_of_gguf(metadata, false); }),
                HasSubstr("rope.scaling.type"));
  }
}

TEST(ModelMetadata, TheModelWithExpertsComesBack) {
  for (const std::int64_t chosen : {1, 3}) {
    GgufMetadata metadata;
    ModelConfig shape = test::export_shape("qwen3", /*moe=*/true);
    shape.num_experts_per_tok = chosen;
    set_model_metadata(metadata, shape);
    set_tokenizer_metadata(metadata, test::export_tokenizer(), shape.vocab_size);
    EXPECT_EQ(metadata.text("general.architecture"), "qwen3moe");
    ModelConfig back = model_of_gguf(metadata, false);
    back.norm_eps = shape.norm_eps;
    back.aux_loss_alpha = shape.aux_loss_alpha;  // of training alone
    back.head_dim = shape.head_dim;
    EXPECT_TRUE(back == shape) << chosen;
    metadata.set("qwen3moe.expert_shared_count", std::uint32_t{1});
    EXPECT_THAT(message_of<UserError>([&] { model_of_gguf(metadata, false); }),
                HasSubstr("expert_shared_count"));
  }
}

TEST(ModelMetadata, ExpertsThatLlamaCppComputesOtherwiseAreRefused) {
  for (const char* generation : {"v2", "v2504"}) {
    GgufMetadata metadata;
    const ModelConfig shape = test::export_shape(generation, /*moe=*/true);
    EXPECT_THAT(message_of<UserError>([&] { set_model_metadata(metadata, shape); }),
                HasSubstr("llama.cpp computes no such model"));
  }
}

TEST(ModelMetadata, StacksOfExpertsComeBack) {
  const ModelConfig shape = test::export_shape("v3", /*moe=*/true);
  torch::manual_seed(2);
  const StateDict parameters = parameters_of(CausalLM(shape));
  StateDict file = to_gguf_names(parameters, shape);
  const torch::Tensor down = file.tensors.at("blk.1.ffn_down_exps.weight");
  EXPECT_EQ(down.sizes(), (torch::IntArrayRef{shape.n_routed_experts, 64, 96}));
  EXPECT_TRUE(down[2].equal(parameters.tensors.at("layers.1.feed_forward.experts.2.w2.weight")));
  EXPECT_TRUE(file.tensors.at("blk.0.ffn_gate_inp.weight")
                  .equal(parameters.tensors.at("layers.0.feed_forward.gate.weight")));
  std::int64_t reads = 0;
  for (auto& [name, tensor] : file.tensors) {
    file.lazy[name] = [&reads, whole = tensor] { return ++reads, whole; };
    tensor = tensor.to(torch::kMeta);
  }
  const StateDict back = to_v2_names(from_gguf_names(file, shape), shape);
  ASSERT_EQ(back.tensors.size(), parameters.tensors.size());
  for (const auto& [name, tensor] : parameters.tensors)
    EXPECT_TRUE(back.tensor(name).equal(tensor)) << name;
  EXPECT_EQ(reads, static_cast<std::int64_t>(file.tensors.size()));
  file.tensors.at("blk.1.ffn_down_exps.weight") = down.narrow(0, 1, 2);
  EXPECT_THAT(message_of<UserError>([&] { from_gguf_names(file, shape); }),
              HasSubstr("'blk.1.ffn_down_exps.weight' has the shape 2 x 64 x 96"));
}

TEST(ModelMetadata, NamesOfTensorsComeBack) {
  for (const char* generation : {"v2", "qwen2", "v3"}) {
    const ModelConfig shape = test::export_shape(generation);
    torch::manual_seed(2);
    const StateDict parameters = parameters_of(CausalLM(shape));
    const StateDict named = to_gguf_names(parameters, shape);
    EXPECT_TRUE(named.tensors.contains("token_embd.weight"));
    EXPECT_TRUE(named.tensors.contains("blk.1.ffn_down.weight"));
    EXPECT_TRUE(named.tensors.contains("output_norm.weight"));
    const StateDict back = to_v2_names(from_gguf_names(named, shape), shape);
    ASSERT_EQ(back.tensors.size(), parameters.tensors.size());
    for (const auto& [name, tensor] : parameters.tensors)
      EXPECT_TRUE(back.tensors.at(name).equal(tensor)) << generation << " " << name;
  }
}

}  // namespace
}  // namespace halftone::gguf_metadata_test
