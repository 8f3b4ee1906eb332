// SPDX-License-Identifier: Apache-2.0
// Adapters that PEFT trained and saved (tests/golden/make_lora_golden.py), and ours as it saves
// them.
#include "halftone/pretrain/peft_adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "halftone/core/error.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/file_names.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "halftone/pretrain/trained_model.h"
#include "support/golden_file.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/torch_file.h"

namespace halftone::peft_adapter_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;
using torch::Tensor;

ModelConfig config_of(const test::GoldenFile& golden) {
  const TempFolder folder;
  write_text(folder / "config.json", golden.config.dump());
  return read_hugging_face_config(folder / "config.json");
}

/// The model beside which PEFT trained the adapter of that name.
CausalLM base_of(const std::string& name) {
  const test::GoldenFile golden = test::read_golden("families/" + name + ".safetensors");
  CausalLM model(config_of(golden));
  load_parameters(model, test::part_of(golden, "weights."), "golden");
  return model;
}

fs::path golden_adapter(const std::string& name) {
  return fs::path(test::kGoldenDir) / "lora" / name;
}

double error(const Tensor& a, const Tensor& b) {
  return ((a.to(torch::kDouble) - b.to(torch::kDouble)).norm() / b.to(torch::kDouble).norm())
      .item<double>();
}

class PeftsAdapter : public testing::TestWithParam<const char*> {
 protected:
  PeftsAdapter()
      : golden_(test::read_golden("lora/" + std::string(GetParam()) + ".safetensors")),
        model_(base_of(GetParam())),
        adapter_(read_adapter(golden_adapter(GetParam()), model_->config())) {
    model_->add_adapters(adapter_.lora);
    load_adapter(model_, adapter_);
  }

  test::GoldenFile golden_;
  CausalLM model_;
  Adapter adapter_;
};

TEST_P(PeftsAdapter, GivesItsLogitsAndGradients) {
  const Tensor ids = golden_.tensors.at("ids")[0];
  const Tensor input = ids.narrow(1, 0, 12), targets = ids.narrow(1, 1, 12);
  EXPECT_LT(error(model_->forward(input).logits, golden_.tensors.at("logits")), 1e-5);
  model_->loss(input, targets, torch::ones_like(targets)).total().backward();
  const StateDict expected =
      to_v2_names(without_wrappers(test::part_of(golden_, "grads."), "golden"), model_->config());
  std::size_t compared = 0;
  for (const auto& item : model_->named_parameters()) {
    if (!item.value().requires_grad()) continue;
    EXPECT_LT(error(item.value().grad(), expected.tensors.at(item.key())), 1e-4) << item.key();
    ++compared;
  }
  EXPECT_EQ(compared, expected.tensors.size());
}

TEST_P(PeftsAdapter, GivesItsLogitsMerged) {
  CausalLM merged(model_->config());
  load_parameters(merged, merged_parameters(parameters_of(model_), model_->lora()), "merged");
  const Tensor input = golden_.tensors.at("ids")[0].narrow(1, 0, 12);
  EXPECT_LT(error(merged->forward(input).logits, golden_.tensors.at("logits")), 1e-5);
}

TEST_P(PeftsAdapter, ComesBackAsItWas) {
  const TempFolder folder;
  write_peft_adapter(folder.path(), parameters_of(model_), model_->lora(), model_->config());
  const StateDict theirs =
      load_safetensors(golden_adapter(GetParam()) / "adapter_model.safetensors");
  const StateDict ours = load_safetensors(folder / "adapter_model.safetensors");
  ASSERT_EQ(ours.tensors.size(), theirs.tensors.size());
  for (const auto& [name, tensor] : theirs.tensors)
    EXPECT_TRUE(ours.tensor(name).equal(tensor)) << name;
  const Adapter again = read_adapter(folder.path(), model_->config());
  EXPECT_EQ(again.lora, adapter_.lora);
  // What stands in both files says the same, where nothing had to be said otherwise.
  const json written = json::parse(read_text(folder / "adapter_config.json"));
  const json saved = json::parse(read_text(golden_adapter(GetParam()) / "adapter_config.json"));
  for (const char* key : {"peft_type", "r", "bias", "fan_in_fan_out", "lora_dropout", "use_dora"})
    EXPECT_EQ(written.at(key), saved.at(key)) << key;
}

INSTANTIATE_TEST_SUITE_P(Kinds, PeftsAdapter, testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& param) { return std::string(param.param); });

TEST(ReadAdapter, FindsRankAlphaAndLayers) {
  const auto lora = [](const char* name) {
    return read_adapter(golden_adapter(name), base_of(name)->config()).lora;
  };
  EXPECT_EQ(lora("llama"), (LoraConfig{.rank = 4, .alpha = 6.0, .targets = lora_target_names()}));
  // rsLoRA: 3 / sqrt(2) = alpha / 2.
  EXPECT_EQ(lora("qwen2"), (LoraConfig{.rank = 2,
                                       .alpha = 3 * std::sqrt(2.0),
                                       .targets = {"q_proj", "k_proj", "v_proj"}}));
  EXPECT_EQ(lora("qwen3").targets, (std::vector<std::string>{"q_proj", "k_proj", "down_proj"}));
}

/// A copy of PEFT's llama that is changed.
class BadAdapter : public testing::Test {
 protected:
  BadAdapter() : model_(base_of("llama")) {
    fs::copy(golden_adapter("llama"), folder_.path(), fs::copy_options::recursive);
  }

  void set(const char* key, const json& value) {
    json config = json::parse(read_text(folder_ / "adapter_config.json"));
    config[key] = value;
    write_text(folder_ / "adapter_config.json", config.dump());
  }

  std::string refused() {
    return message_of<UserError>([&] { read_adapter(folder_.path(), model_->config()); });
  }

  TempFolder folder_;
  CausalLM model_;
};

TEST_F(BadAdapter, OptionsThatChangeTheComputationAreRefusedByName) {
  const std::vector<std::pair<const char*, json>> options = {{"use_dora", true},
                                                             {"bias", "all"},
                                                             {"peft_type", "IA3"},
                                                             {"rank_pattern", {{"q_proj", 8}}},
                                                             {"fan_in_fan_out", true},
                                                             {"modules_to_save", {"lm_head"}},
                                                             {"lora_bias", true},
                                                             {"init_lora_weights", "pissa"},
                                                             {"use_qalora", true},
                                                             {"alpha_pattern", {{"q_proj", 8}}},
                                                             {"layer_replication", {{0, 1}}},
                                                             {"an_option_to_come", 3}};
  for (const auto& [key, value] : options) {
    const json before = json::parse(read_text(folder_ / "adapter_config.json"));
    set(key, value);
    EXPECT_THAT(refused(), testing::AllOf(HasSubstr("adapter_config.json: expected a LoRA adapter"),
                                          HasSubstr(key)));
    write_text(folder_ / "adapter_config.json", before.dump());
  }
  set("an_option_to_come", false);
  EXPECT_EQ(read_adapter(folder_.path(), model_->config()).lora.rank, 4);
}

TEST_F(BadAdapter, NumbersThatAreNoneAreRefused) {
  set("r", 0);
  EXPECT_THAT(refused(), HasSubstr("r must be"));
  set("r", 5);
  EXPECT_THAT(refused(), HasSubstr("its tensors are no adapter of rank 5"));
  set("r", 4);
  set("lora_alpha", "much");
  EXPECT_THAT(refused(), HasSubstr("lora_alpha must be"));
  set("lora_alpha", 0);
  EXPECT_THAT(refused(), HasSubstr("lora.alpha: expected a positive number"));
}

TEST_F(BadAdapter, FilesThatAreMissingOrDamagedAreNamed) {
  const std::string tensors = read_text(folder_ / "adapter_model.safetensors");
  write_text(folder_ / "adapter_model.safetensors", tensors.substr(0, tensors.size() / 2));
  EXPECT_THAT(refused(), HasSubstr("adapter_model.safetensors"));
  fs::remove(folder_ / "adapter_model.safetensors");
  EXPECT_THAT(refused(), HasSubstr("expected the file adapter_model.safetensors beside"));
  write_text(folder_ / "adapter_config.json", "[]");
  EXPECT_THAT(refused(), HasSubstr("adapter_config.json"));
  fs::remove(folder_ / "adapter_config.json");
  EXPECT_THAT(refused(), HasSubstr("lora.adapter: expected a folder with adapter_config.json"));
}

TEST_F(BadAdapter, TensorsOfAnotherModelAreNamed) {
  ModelConfig other = model_->config();
  other.hidden_dim = 48;
  EXPECT_THAT(
      message_of<UserError>([&] { read_adapter(folder_.path(), other); }),
      testing::AllOf(HasSubstr("no adapter of rank 4 of this model"), HasSubstr("another shape")));
  StateDict state = load_safetensors(folder_ / "adapter_model.safetensors");
  state.tensors["base_model.model.lm_head.lora_A.weight"] = torch::zeros({4, 24});
  save_safetensors(folder_ / "adapter_model.safetensors", state.tensors);
  EXPECT_THAT(refused(), HasSubstr("found the tensor 'lm_head.lora_A.weight'"));
  const std::string b = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
  const Tensor before = state.tensors.at(b);
  state.tensors.erase("base_model.model.lm_head.lora_A.weight");
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{24, 0}, {0, 4}, {24}, {0}, {24, 4, 1}, {}}) {
    state.tensors[b] = torch::zeros(sizes);
    save_safetensors(folder_ / "adapter_model.safetensors", state.tensors);
    // The rows of heads are counted first, then shapes are compared.
    EXPECT_THAT(refused(), testing::AnyOf(HasSubstr("q_proj.lora_B.weight' has"),
                                          HasSubstr("attention.wq.lora_B.weight [")))
        << torch::IntArrayRef(sizes);
  }
  state.tensors[b] = before;
  state.tensors.erase("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight");
  save_safetensors(folder_ / "adapter_model.safetensors", state.tensors);
  EXPECT_THAT(refused(), HasSubstr("missing: layers.1.attention.wq.lora_A.weight"));
}

TEST_F(BadAdapter, OtherAdaptersOfTheModelAreRefused) {
  const Adapter adapter = read_adapter(folder_.path(), model_->config());
  const auto loaded = [&](const LoraConfig& lora) {
    CausalLM model = base_of("llama");
    model->add_adapters(lora);
    return message_of<UserError>([&] { load_adapter(model, adapter); });
  };
  EXPECT_THAT(loaded({.rank = 2}), HasSubstr("its rank is 4, got lora.rank 2"));
  EXPECT_THAT(loaded({.rank = 4, .alpha = 4.0}), HasSubstr("its alpha is 6, got lora.alpha 4"));
  EXPECT_THAT(loaded({.rank = 4, .alpha = 6.0}),
              HasSubstr("unexpected: layers.0.attention.wk.lora_A.weight"));
}

TEST_F(BadAdapter, IsNoModelByItself) {
  EXPECT_THAT(message_of<UserError>([&] { load_trained_model(folder_.path()); }),
              HasSubstr("holds an adapter without the model that it belongs to"));
}

// y = W x + B (A x), whatever the rank, on V2's names and on Llama's.
TEST(ReadAdapter, TakesWhatMiniMindSaves) {
  const TempFolder folder;
  CausalLM model = base_of("llama");
  const LoraConfig lora{.rank = 3, .alpha = 3.0, .targets = {"q_proj", "o_proj"}};
  model->add_adapters(lora);
  {
    const torch::NoGradGuard no_grad;
    for (const auto& item : model->named_parameters())
      if (item.value().requires_grad()) item.value().normal_();
  }
  const StateDict own = adapter_parameters(parameters_of(model));
  for (const StateDict& named : {own, to_hugging_face_names(own, model->config())}) {
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, tensor] : named.tensors) {
      std::string theirs = name;
      theirs.replace(theirs.find(".lora_"), 6, ".lora.");
      tensors[theirs] = tensor.clone();
    }
    save_safetensors(folder / "lora_512.safetensors", tensors);
    const Adapter adapter = read_adapter(folder / "lora_512.safetensors", model->config());
    EXPECT_EQ(adapter.lora, lora);
    for (const auto& [name, tensor] : own.tensors)
      EXPECT_TRUE(adapter.parameters.tensor(name).equal(tensor)) << name;
  }
}

}  // namespace
}  // namespace halftone::peft_adapter_test
