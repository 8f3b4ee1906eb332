// SPDX-License-Identifier: Apache-2.0
// Each architecture beside transformers' class (tests/golden/make_families_golden.py), from its
// config.json and its names of tensors, and back to them.
#include <gtest/gtest.h>

#include <string>

#include "halftone/models/causal_lm.h"
#include "halftone/models/model_family.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "support/golden_file.h"
#include "support/temp_folder.h"

namespace halftone::model_families_test {
namespace {

using test::TempFolder;
using test::write_text;
using torch::Tensor;

ModelConfig read(const std::string& text) {
  const TempFolder folder;
  write_text(folder / "config.json", text);
  return read_hugging_face_config(folder / "config.json");
}

double relative_error(const Tensor& a, const Tensor& b) {
  return ((a.to(torch::kDouble) - b.to(torch::kDouble)).norm() / b.to(torch::kDouble).norm())
      .item<double>();
}

class ModelFamilies : public testing::TestWithParam<const char*> {
 protected:
  ModelFamilies()
      : golden_(test::read_golden("families/" + std::string(GetParam()) + ".safetensors")),
        config_(read(golden_.config.dump())),
        model_(config_) {
    load_parameters(model_, test::part_of(golden_, "weights."), "golden");
  }

  test::GoldenFile golden_;
  ModelConfig config_;
  CausalLM model_;
};

TEST_P(ModelFamilies, LogitsLossesAndGradientsEqualTransformers) {
  const Tensor ids = golden_.tensors.at("ids");
  const Tensor input = ids.narrow(1, 0, 12), targets = ids.narrow(1, 1, 12);
  EXPECT_LT(relative_error(model_->forward(input).logits, golden_.tensors.at("logits")), 1e-5);
  const LossOutput loss = model_->loss(input, targets, torch::ones_like(targets));
  EXPECT_NEAR(loss.cross_entropy.item<double>(), golden_.tensors.at("loss").item<double>(), 1e-5);
  EXPECT_NEAR(loss.aux_loss.item<double>(), golden_.tensors.at("aux_loss").item<double>(), 1e-6);
  loss.total().backward();
  const StateDict expected = to_v2_names(test::part_of(golden_, "grads."), config_);
  for (const auto& item : model_->named_parameters()) {
    const Tensor& theirs = expected.tensors.at(item.key());
    EXPECT_LT(relative_error(item.value().grad(), theirs), 1e-4) << item.key();
  }
}

TEST_P(ModelFamilies, CachedPositionsEqualThoseOfOnePass) {
  const torch::NoGradGuard no_grad;
  model_->eval();
  const Tensor ids = golden_.tensors.at("ids").narrow(1, 0, 12);
  KvCache cache = model_->make_cache(12);
  std::vector<Tensor> logits;
  for (const auto& [begin, count] : {std::pair<std::int64_t, std::int64_t>{0, 5}, {5, 1}, {6, 6}})
    logits.push_back(model_->forward(ids.narrow(1, begin, count), &cache).logits);
  EXPECT_LT(relative_error(torch::cat(logits, 1), golden_.tensors.at("logits")), 1e-5);
}

TEST_P(ModelFamilies, NamesAndOrderOfRowsComeBackAsTheyWere) {
  const StateDict theirs = test::part_of(golden_, "weights.");
  const StateDict ours = to_hugging_face_names(parameters_of(model_), config_);
  ASSERT_EQ(ours.tensors.size(), theirs.tensors.size());
  for (const auto& [name, tensor] : theirs.tensors)
    EXPECT_TRUE(ours.tensors.at(name).equal(tensor)) << name;
}

TEST_P(ModelFamilies, ConfigsComeBackAsTheyWere) {
  const FileForm* const form = export_form(config_);
  ASSERT_NE(form, nullptr);
  EXPECT_EQ(form->architecture, golden_.config["architectures"][0].get<std::string>());
  const std::string text = hugging_face_config(config_, *form);
  ModelConfig spelled_out = config_;
  spelled_out.head_dim = head_dim_of(config_);
  EXPECT_EQ(read(text), spelled_out) << text;
  // What transformers writes under the same names is the same.
  const nlohmann::json written = nlohmann::json::parse(text);
  for (const auto& [key, value] : written.items()) {
    const auto known = golden_.config.find(key);
    // Where every layer has experts, no layer has the width of a dense one.
    if (known == golden_.config.end() || (config_.use_moe && key == "intermediate_size")) continue;
    EXPECT_EQ(*known, value) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ModelFamilies,
                         testing::Values("llama", "qwen2", "qwen3", "qwen3_moe_1", "qwen3_moe_2"),
                         [](const auto& param) { return std::string(param.param); });

nlohmann::json sizes() {
  return nlohmann::json::parse(R"({"model_type": "minimind", "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "intermediate_size": 128, "max_position_embeddings": 64, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "architectures": ["MiniMindForCausalLM"]})");
}

// All call themselves "minimind"; the keys tell which they are.
TEST(MiniMindForms, AreToldApartByTheirKeys) {
  nlohmann::json v3 = sizes();
  v3.update({{"num_experts", 4},
             {"moe_intermediate_size", 192},
             {"num_experts_per_tok", 1},
             {"use_moe", false},
             {"head_dim", 96},
             {"tie_word_embeddings", true}});
  ModelConfig config = read(v3.dump());
  EXPECT_EQ(config.generation, "v3");
  EXPECT_EQ(config.hidden_dim, 128);
  EXPECT_FALSE(config.use_moe);
  v3["use_moe"] = true;
  config = read(v3.dump());
  EXPECT_TRUE(config.use_moe);
  EXPECT_EQ(config.hidden_dim, 192);
  EXPECT_EQ(config.n_shared_experts, 0);

  EXPECT_EQ(read(sizes().dump()).generation, "v2504");

  const auto v2 = nlohmann::json::parse(R"({"model_type": "minimind", "dim": 64, "n_layers": 2,
    "n_heads": 4, "n_kv_heads": 2, "vocab_size": 100, "hidden_dim": null, "multiple_of": 64,
    "norm_eps": 1e-05, "max_seq_len": 64, "rope_theta": 1000000.0, "use_moe": true,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": true,
    "aux_loss_alpha": 0.1, "architectures": ["CausalLM"]})");
  config = read(v2.dump());
  EXPECT_EQ(config.generation, "v2");
  EXPECT_TRUE(config.use_moe);
  EXPECT_EQ(config.n_shared_experts, 1);
  EXPECT_EQ(hidden_dim_of(config), 192);
}

}  // namespace
}  // namespace halftone::model_families_test
