// SPDX-License-Identifier: Apache-2.0
// Models that come from elsewhere: Hugging Face folders and weights to start from.
#include "halftone/pretrain/trained_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "halftone/core/error.h"
#include "halftone/data/corpus.h"
#include "halftone/data/token_loader.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/parameter_names.h"
#include "halftone/precision/policy.h"
#include "halftone/pretrain/evaluate.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "halftone/train/mixed_precision.h"
#include "support/paths.h"
#include "support/temp_folder.h"
#include "support/torch_file.h"

namespace halftone::trained_model_test {
namespace {

using nlohmann::json;
using test::message_of;
using test::TempFolder;
using test::torch_file_of;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kText = "spring sleep, not aware of dawn; everywhere birds are singing\n";

ModelConfig shape(std::int64_t vocab_size) {
  return {.dim = 8,
          .n_layers = 2,
          .n_heads = 2,
          .n_kv_heads = 1,
          .hidden_dim = 16,
          .vocab_size = vocab_size,
          .max_seq_len = 64,
          .rope_theta = 1e4};
}

json config_of(const ModelConfig& model) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", model.dim},
          {"num_hidden_layers", model.n_layers},
          {"num_attention_heads", model.n_heads},
          {"num_key_value_heads", model.n_kv_heads},
          {"intermediate_size", model.hidden_dim},
          {"vocab_size", model.vocab_size},
          {"max_position_embeddings", model.max_seq_len},
          {"rms_norm_eps", model.norm_eps},
          {"rope_theta", model.rope_theta},
          {"tie_word_embeddings", true}};
}

/// A Hugging Face folder of a random model, whose tensors have this library's names.
class HuggingFaceFolder : public testing::Test {
 protected:
  HuggingFaceFolder() : tokenizer_(bytes_tokenizer()), model_(make_model()) {
    tokenizer_.save(folder_.path());
    write_config(config_of(model_->config()));
    save(parameters_of(model_));
  }

  void write_config(const json& config) const {
    write_text(folder_ / "config.json", config.dump(1));
  }
  void save(const StateDict& state) const {
    save_safetensors(folder_ / "model.safetensors", state.tensors);
  }
  TrainedModel load() const { return load_trained_model(folder_.path()); }
  std::string refusal() const {
    return message_of<UserError>([&] { load(); });
  }

  EvalResult evaluated(CausalLM& model) const {
    write_text(folder_ / "text.txt", kText);
    Corpus corpus({.paths = {folder_ / "text.txt"}});
    const TokenLoader loader(tokenize_corpus(corpus, tokenizer_interface(tokenizer_)),
                             {.batch_size = 2, .seq_len = 16, .shuffle = false});
    const MixedPrecision precision(parse_precision("32-true"), {}, torch::kCPU);
    return evaluate(model, loader, precision, token_bytes(tokenizer_, model->config().vocab_size));
  }

  static Tokenizer bytes_tokenizer() {
    BpeTrainer trainer({.vocab_size = 270});
    trainer.add_text(kText);
    return trainer.train();
  }

  CausalLM make_model() const {
    torch::manual_seed(3);
    return CausalLM(shape(tokenizer_.vocab_size()));
  }

  TempFolder folder_;
  Tokenizer tokenizer_;
  CausalLM model_;
};

TEST_F(HuggingFaceFolder, IsTheModelThatWasSaved) {
  TrainedModel trained = load();
  EXPECT_EQ(trained.precision, "32-true");
  EXPECT_EQ(evaluated(trained.model).loss, evaluated(model_).loss);
}

TEST_F(HuggingFaceFolder, OfAnotherModelIsRefusedThoughItsTensorsFit) {
  json config = config_of(model_->config());
  config["logits_scaling"] = 8.0;
  write_config(config);
  EXPECT_THAT(refusal(), HasSubstr("another model by \"logits_scaling\" 8.0"));
}

TEST_F(HuggingFaceFolder, IsRefusedBeforeMemoryIsAskedFor) {
  json config = config_of(model_->config());
  config["hidden_size"] = 2'000'000;
  config["vocab_size"] = 1000;
  write_config(config);
  EXPECT_THAT(refusal(), HasSubstr("its tensors do not fit the model"));
  config["hidden_size"] = 4294967295;
  write_config(config);
  EXPECT_THAT(refusal(), HasSubstr("hidden_size must be an integer from 1 to 2147483647"));
}

TEST_F(HuggingFaceFolder, WithAHeadOfItsOwnMustHoldIt) {
  json config = config_of(model_->config());
  config["tie_word_embeddings"] = false;
  write_config(config);
  EXPECT_THAT(refusal(), HasSubstr("missing: output.weight"));
  StateDict both = parameters_of(model_);
  both.tensors["lm_head.weight"] = both.tensors.at("tok_embeddings.weight").clone();
  save(both);
  EXPECT_NO_THROW(load());
  both.tensors["lm_head.weight"][0][0] += 1;
  save(both);
  EXPECT_EQ(parameter_count(load().model->config()),
            parameter_count(model_->config()) + both.tensor("lm_head.weight").numel());
  config["tie_word_embeddings"] = true;
  write_config(config);
  EXPECT_THAT(refusal(), HasSubstr("differ, but this model has one matrix for both"));
}

TEST_F(HuggingFaceFolder, AsWeightsToStartFromAsksForTheSameComputation) {
  const InitialWeights weights(folder_.path());
  ModelConfig model = model_->config();
  EXPECT_NO_THROW(weights.check(model));
  model.rope_theta = 1e6;
  EXPECT_THAT(message_of<UserError>([&] { weights.check(model); }),
              AllOf(HasSubstr("were made for model.rope_theta 10000, got 1000000")));
  // A file alone does not say what it was made for.
  EXPECT_NO_THROW(InitialWeights(folder_ / "model.safetensors").check(model));
  model.dim = 2'000'000;
  EXPECT_THAT(message_of<UserError>([&] { weights.check(model); }),
              HasSubstr("its tensors do not fit the model"));
}

TEST_F(HuggingFaceFolder, EvaluationNamesTheWeightThatIsNoNumber) {
  {
    const torch::NoGradGuard no_grad;
    model_->named_parameters()["layers.1.feed_forward.w2.weight"][3][2] =
        std::numeric_limits<double>::infinity();
  }
  const std::string message = message_of<SystemError>([&] { evaluated(model_); });
  EXPECT_THAT(message, AllOf(HasSubstr("the loss of batch 1 is "),
                             HasSubstr("'layers.1.feed_forward.w2.weight' holds inf or nan")));
}

TEST_F(HuggingFaceFolder, EvaluationNamesTheOperationThatOverflows) {
  {
    const torch::NoGradGuard no_grad;
    for (const char* name : {"layers.0.feed_forward.w1.weight", "layers.0.feed_forward.w3.weight"})
      model_->named_parameters()[name].fill_(1e30);
  }
  const std::string message = message_of<SystemError>([&] { evaluated(model_); });
  EXPECT_THAT(message, AllOf(HasSubstr("the loss of batch 1 is "), HasSubstr("layers.0.")));
  EXPECT_TRUE(model_->is_training()) << "the mode is put back";
}

/// The names that training in several processes and torch.compile leave, and an old buffer.
std::map<std::string, torch::Tensor> as_wrapped(const StateDict& state) {
  std::map<std::string, torch::Tensor> wrapped;
  for (const auto& [name, tensor] : state.tensors) wrapped["module._orig_mod." + name] = tensor;
  wrapped["module._orig_mod.freqs_cos"] = torch::ones({4, 2});
  return wrapped;
}

std::string as_file_to_resume_from(const std::string& model) {
  using namespace test::pickle;
  return dict({text("model"), model, text("optimizer"), dict({}), text("epoch"), integer(1)});
}

TEST_F(HuggingFaceFolder, MayHoldItsWeightsInShards) {
  std::map<std::string, torch::Tensor> one;
  std::map<std::string, torch::Tensor> two;
  json map;
  for (const auto& [name, tensor] : parameters_of(model_).tensors) {
    const bool is_first = name.starts_with("layers.0.");
    (is_first ? one : two)[name] = tensor;
    map[name] = is_first ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
  }
  std::filesystem::remove(folder_ / "model.safetensors");
  save_safetensors(folder_ / "model-00001-of-00002.safetensors", one);
  save_safetensors(folder_ / "model-00002-of-00002.safetensors", two);
  write_text(folder_ / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  TrainedModel trained = load();
  EXPECT_EQ(evaluated(trained.model).loss, evaluated(model_).loss);
  std::filesystem::remove(folder_ / "model-00002-of-00002.safetensors");
  EXPECT_THAT(refusal(), HasSubstr("model-00002-of-00002.safetensors' is missing"));
}

TEST_F(HuggingFaceFolder, MayHoldItsWeightsInAFileOfTorch) {
  std::filesystem::remove(folder_ / "model.safetensors");
  EXPECT_THAT(refusal(), HasSubstr("has no weights: expected model.safetensors"));
  write_text(folder_ / "pytorch_model.bin", torch_file_of(as_wrapped(parameters_of(model_))));
  TrainedModel trained = load();
  EXPECT_EQ(evaluated(trained.model).loss, evaluated(model_).loss);
}

TEST_F(HuggingFaceFolder, StartsFromAFileToResumeFrom) {
  const std::filesystem::path path = folder_ / "pretrain_8_resume.pth";
  write_text(path, torch_file_of(as_wrapped(parameters_of(model_)), as_file_to_resume_from));
  torch::manual_seed(4);
  CausalLM other(model_->config());
  ASSERT_NE(evaluated(other).loss, evaluated(model_).loss);
  InitialWeights(path).check(other->config());
  initialize_from(other, path);
  EXPECT_EQ(evaluated(other).loss, evaluated(model_).loss);
}

TEST_F(HuggingFaceFolder, NamesTheTensorsThatAFileLacks) {
  auto tensors = as_wrapped(parameters_of(model_));
  tensors.erase("module._orig_mod.norm.weight");
  tensors["module._orig_mod.nrom.weight"] = torch::ones({8});
  write_text(folder_ / "a.pth", torch_file_of(tensors));
  EXPECT_THAT(
      message_of<UserError>([&] { InitialWeights(folder_ / "a.pth").check(model_->config()); }),
      AllOf(HasSubstr("a.pth: its tensors do not fit the model (missing: norm.weight; unexpected: "
                      "nrom.weight)")));
}

TEST_F(HuggingFaceFolder, ConvertsWeightsOfEveryFloatFormat) {
  for (const torch::ScalarType dtype :
       {torch::kHalf, torch::kBFloat16, torch::kFloat8_e4m3fn, torch::kFloat8_e5m2}) {
    SCOPED_TRACE(dtype);
    StateDict state = parameters_of(model_);
    for (auto& [name, tensor] : state.tensors) tensor = tensor.to(dtype);
    state.tensors["output.weight"] = state.tensors.at("tok_embeddings.weight").clone();
    save(state);
    const StateDict loaded = parameters_of(load().model);
    for (const auto& [name, tensor] : loaded.tensors)
      EXPECT_TRUE(tensor.equal(state.tensors.at(name).to(torch::kFloat))) << name;
  }
}

TEST_F(HuggingFaceFolder, WithScaledFp8WeightsIsRefused) {
  StateDict state = parameters_of(model_);
  state.tensors["layers.0.attention.wq.weight_scale_inv"] = torch::ones({1, 1});
  save(state);
  EXPECT_THAT(refusal(),
              HasSubstr("model.safetensors: 'layers.0.attention.wq.weight_scale_inv' scales "
                        "quantized weights"));
}

// Files that PyTorch wrote: tests/golden/make_pth_golden.py.
TEST(InitialWeightsOfTorch, AreThoseThatWereSaved) {
  const ModelConfig config{.dim = 4,
                           .n_layers = 1,
                           .n_heads = 2,
                           .n_kv_heads = 1,
                           .hidden_dim = 8,
                           .vocab_size = 6,
                           .max_seq_len = 16};
  for (const char* name : {"state_dict", "half", "resume"}) {
    SCOPED_TRACE(name);
    const std::string path = std::string(test::kGoldenDir) + "/pth/" + name + ".pth";
    CausalLM model(config);
    InitialWeights(path).check(config);
    initialize_from(model, path);
    for (const auto& [parameter, tensor] : parameters_of(model).tensors) {
      const torch::Tensor flat = tensor.reshape({-1});
      for (std::int64_t i = 0; i < flat.numel(); ++i)
        ASSERT_EQ(flat[i].item<double>(), static_cast<double>(7 * i % 11 - 3)) << parameter;
    }
  }
}

}  // namespace
}  // namespace halftone::trained_model_test
