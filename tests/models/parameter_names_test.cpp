// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/parameter_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"

namespace halftone::parameter_names_test {
namespace {

using torch::Tensor;

ModelConfig small_config(bool moe) {
  return {.dim = 32,
          .n_layers = 2,
          .n_heads = 4,
          .n_kv_heads = 2,
          .vocab_size = 50,
          .max_seq_len = 16,
          .use_moe = moe};
}

/// The names of the 2504 generation, spelled out, for each of V2's.
std::string hf_name(std::string name) {
  const std::pair<const char*, const char*> pieces[] = {{"attention.wq", "self_attn.q_proj"},
                                                        {"attention.wk", "self_attn.k_proj"},
                                                        {"attention.wv", "self_attn.v_proj"},
                                                        {"attention.wo", "self_attn.o_proj"},
                                                        {"attention_norm", "input_layernorm"},
                                                        {"ffn_norm", "post_attention_layernorm"},
                                                        {"shared_experts.", "shared_experts.0."},
                                                        {"feed_forward", "mlp"},
                                                        {".w1.", ".gate_proj."},
                                                        {".w2.", ".down_proj."},
                                                        {".w3.", ".up_proj."},
                                                        {"tok_embeddings", "embed_tokens"}};
  for (const auto& [ours, theirs] : pieces) {
    const std::size_t at = name.find(ours);
    if (at != std::string::npos) name.replace(at, std::string(ours).size(), theirs);
  }
  return "model." + name;
}

/// Rows from adjacent pairs to half rotation, row by row: new i = old 2i, new i + d/2 = old 2i+1.
Tensor to_halves(const Tensor& weight, std::int64_t head_dim) {
  Tensor halves = weight.clone();
  for (std::int64_t row = 0; row < weight.size(0); ++row) {
    const std::int64_t head = row / head_dim * head_dim;
    const std::int64_t i = row % head_dim;
    halves[head + i / 2 + (i % 2) * head_dim / 2].copy_(weight[row]);
  }
  return halves;
}

StateDict hf_file(const CausalLM& model) {
  StateDict file;
  for (const auto& [name, tensor] : parameters_of(model).tensors) {
    const bool rotated =
        name.find("attention.wq") != name.npos || name.find("attention.wk") != name.npos;
    file.tensors[hf_name(name)] = rotated ? to_halves(tensor, 8) : tensor.clone();
  }
  return file;
}

std::string error_of(CausalLM& model, const StateDict& file) {
  try {
    load_parameters(model, file, "weights.safetensors");
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ParameterNames, HuggingFaceFilesLoadExactly) {
  for (const bool moe : {false, true}) {
    CausalLM source(small_config(moe));
    CausalLM target(small_config(moe));
    load_parameters(target, hf_file(source), "file");
    for (const auto& [name, tensor] : parameters_of(source).tensors)
      EXPECT_TRUE(parameters_of(target).tensor(name).equal(tensor)) << name;
  }
}

TEST(ParameterNames, EitherOrBothOfTheTiedPairWillDo) {
  CausalLM source(small_config(false));
  const StateDict own = parameters_of(source);
  for (const char* kind : {"head", "both"}) {
    StateDict file = own;
    file.tensors["output.weight"] = file.tensors["tok_embeddings.weight"].clone();
    if (kind == std::string("head")) file.tensors.erase("tok_embeddings.weight");
    CausalLM target(small_config(false));
    load_parameters(target, file, "file");
    EXPECT_TRUE(parameters_of(target)
                    .tensor("tok_embeddings.weight")
                    .equal(own.tensor("tok_embeddings.weight")));
  }
  StateDict hf = hf_file(source);
  hf.tensors["lm_head.weight"] = hf.tensors["model.embed_tokens.weight"];
  hf.tensors.erase("model.embed_tokens.weight");
  EXPECT_EQ(error_of(source, hf), "no error");
}

// The file's tensors stay where they are until each is copied.
StateDict lazy(const StateDict& file) {
  StateDict state;
  for (const auto& [name, tensor] : file.tensors) {
    state.tensors[name] = torch::empty_like(tensor, torch::kMeta);
    state.lazy[name] = [tensor = tensor] { return tensor.clone(); };
  }
  return state;
}

TEST(ParameterNames, UnreadFilesLoadExactly) {
  CausalLM source(small_config(true));
  StateDict file = hf_file(source);
  file.tensors["lm_head.weight"] = file.tensor("model.embed_tokens.weight");
  for (const char* missing : {"none", "model.embed_tokens.weight", "lm_head.weight"}) {
    StateDict part = file;
    part.tensors.erase(missing);
    CausalLM target(small_config(true));
    load_parameters(target, lazy(part), "file");
    for (const auto& [name, tensor] : parameters_of(source).tensors)
      EXPECT_TRUE(parameters_of(target).tensor(name).equal(tensor)) << name;
  }
  file.tensors["lm_head.weight"] = file.tensor("lm_head.weight") + 1;
  EXPECT_THAT(error_of(source, lazy(file)), testing::HasSubstr("differ"));
}

TEST(ParameterNames, TiedTensorsThatDifferAreRefused) {
  CausalLM model(small_config(false));
  StateDict file = parameters_of(model);
  file.tensors["output.weight"] = file.tensors["tok_embeddings.weight"] + 1;
  EXPECT_THAT(error_of(model, file), testing::HasSubstr("differ"));
}

TEST(ParameterNames, WhatDoesNotFitIsNamedAndNothingIsLoaded) {
  CausalLM model(small_config(false));
  const Tensor before = parameters_of(model).tensor("norm.weight").clone();
  StateDict file = parameters_of(CausalLM(small_config(false)));
  file.tensors["norm.weight"] = torch::full({32}, 5.0);
  file.tensors.erase("layers.1.ffn_norm.weight");
  file.tensors["mystery"] = torch::zeros({1});
  file.tensors["layers.0.attention.wk.weight"] = torch::zeros({4, 32});
  const std::string error = error_of(model, file);
  EXPECT_THAT(error, testing::HasSubstr("weights.safetensors"));
  EXPECT_THAT(error, testing::HasSubstr("missing: layers.1.ffn_norm.weight"));
  EXPECT_THAT(error, testing::HasSubstr("unexpected: mystery"));
  EXPECT_THAT(error,
              testing::HasSubstr("layers.0.attention.wk.weight [4, 32] instead of [16, 32]"));
  EXPECT_TRUE(parameters_of(model).tensor("norm.weight").equal(before));
}

TEST(ParameterNames, OtherDtypesAreConverted) {
  CausalLM model(small_config(false));
  StateDict file;
  for (const auto& [name, tensor] : parameters_of(model).tensors)
    file.tensors[name] = tensor.to(torch::kHalf);
  EXPECT_EQ(error_of(model, file), "no error");
  EXPECT_EQ(parameters_of(model).tensor("norm.weight").scalar_type(), torch::kFloat);
}

}  // namespace
}  // namespace halftone::parameter_names_test
