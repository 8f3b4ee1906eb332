// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/export_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "halftone/core/error.h"
#include "halftone/io/gguf.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/models/int8_weights.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/pretrain.h"
#include "support/small_export.h"

namespace halftone::export_model_test {
namespace {

using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;
using torch::Tensor;

struct Kind {
  const char* generation;
  bool moe;
  const char* format;
  ExportDtype dtype;
};

std::string name_of_kind(const testing::TestParamInfo<Kind>& info) {
  return std::string(info.param.generation) + (info.param.moe ? "_moe_" : "_") + info.param.format +
         "_" + std::string(name_of(info.param.dtype));
}

std::vector<Kind> all_kinds() {
  std::vector<Kind> kinds;
  for (const char* generation : {"v2", "v2504", "v3", "qwen2"})
    for (const ExportFormat* format : export_formats())
      if (format->name() != "peft")  // of models with adapters alone
        for (const ExportDtype dtype : format->dtypes())
          kinds.push_back({generation, false, format->name().data(), dtype});
  for (const char* format : {"safetensors", "hf", "gguf"})
    for (const ExportDtype dtype : export_format(format).dtypes())
      kinds.push_back({"v3", true, format, dtype});
  return kinds;
}

class EveryExport : public testing::TestWithParam<Kind> {};

TEST_P(EveryExport, IsReadBackWithinItsBounds) {
  const TempFolder folder;
  const Kind& kind = GetParam();
  test::save_random_model(folder / "model", test::export_shape(kind.generation, kind.moe));
  const ExportReport report = export_model({.model = folder / "model",
                                            .format = &export_format(kind.format),
                                            .dtype = kind.dtype,
                                            .folder = folder / "out"});
  const ExportCheck& check = report.check;
  EXPECT_EQ(check.failure(), "");
  EXPECT_GT(check.positions, 32);
  EXPECT_GT(check.text.tokens, 500);
  EXPECT_FALSE(check.text.is_training_text);
  EXPECT_LE(check.logits_error, check.bounds.logits_error);
  const bool exact = kind.dtype == ExportDtype::kF32 || std::string(kind.format) == "w8a8";
  EXPECT_EQ(check.logits_error < 1e-12, exact) << check.logits_error;
  const auto json = nlohmann::json::parse(read_text(folder / "out" / "export.json"));
  EXPECT_EQ(json["verified"], true);
  EXPECT_EQ(json["logits_error"].get<double>(), check.logits_error);
  EXPECT_EQ(json["text"]["ids_equal"], true);
  RecordProperty("logits_error", std::to_string(check.logits_error * 1e9));
}

INSTANTIATE_TEST_SUITE_P(, EveryExport, testing::ValuesIn(all_kinds()), name_of_kind);

TEST(ExportModel, SmallerDtypesAreSmallerFiles) {
  const TempFolder folder;
  test::save_random_model(folder / "model", test::export_shape("v2"));
  std::map<ExportDtype, double> bytes;
  for (const ExportDtype dtype : {ExportDtype::kF32, ExportDtype::kF16, ExportDtype::kInt8}) {
    const ExportReport report = export_model({.model = folder / "model",
                                              .format = &export_format("safetensors"),
                                              .dtype = dtype,
                                              .folder = folder / std::string(name_of(dtype))});
    bytes[dtype] = static_cast<double>(report.files.at("model.safetensors"));
  }
  EXPECT_NEAR(bytes[ExportDtype::kF16] / bytes[ExportDtype::kF32], 0.5, 0.02);
  EXPECT_NEAR(bytes[ExportDtype::kInt8] / bytes[ExportDtype::kF32], 0.27, 0.03);
}

TEST(ExportModel, ScalesAreThoseOfTheForwardProduct) {
  torch::manual_seed(1);
  const Tensor weight = torch::randn({24, 96});
  const Int8Weight stored = quantize_weight(weight);
  const Int8Matrix product = quantize_right(weight, {});
  EXPECT_TRUE(stored.scales.squeeze(1).equal(product.scales));
  // Quantized anew, what is read back has the same integers and scales.
  const Int8Weight again = quantize_weight(stored.integers.to(torch::kFloat) * stored.scales);
  EXPECT_TRUE(again.integers.equal(stored.integers));
  EXPECT_TRUE(again.scales.allclose(stored.scales, 1e-6, 0));
}

TEST(ExportModel, ModelsWithExpertsLeaveOnlyWhereTheyAreComputedExactly) {
  const TempFolder folder;
  test::save_random_model(folder / "model", test::export_shape("v2", /*moe=*/true));
  const auto exported = [&](const char* format) {
    return export_model({.model = folder / "model",
                         .format = &export_format(format),
                         .dtype = export_format(format).dtypes().front(),
                         .folder = folder / format});
  };
  EXPECT_EQ(exported("safetensors").check.failure(), "");
  for (const char* format : {"gguf", "hf", "w8a8"})
    EXPECT_THAT(message_of<UserError>([&] { exported(format); }), HasSubstr("with experts"));
  test::save_random_model(folder / "model", test::export_shape("v3", /*moe=*/true));
  EXPECT_THAT(message_of<UserError>([&] { exported("w8a8"); }), HasSubstr("with experts"));
}

/// A format whose writer is wrong.
class Corrupted : public ExportFormat {
 public:
  using Damage = std::function<void(ExportSource&)>;
  Corrupted(const char* format, Damage damage)
      : format_(export_format(format)), damage_(std::move(damage)) {}

  std::string_view name() const override { return format_.name(); }
  std::vector<ExportDtype> dtypes() const override { return format_.dtypes(); }
  void check(const ExportSource& source, ExportDtype dtype) const override {
    format_.check(source, dtype);
  }
  void write(const ExportSource& source, ExportDtype dtype,
             const std::filesystem::path& folder) const override {
    ExportSource damaged = source;
    damage_(damaged);
    format_.write(damaged, dtype, folder);
  }
  TrainedModel read(const std::filesystem::path& folder) const override {
    return format_.read(folder);
  }
  std::string precision() const override { return format_.precision(); }
  bool normalizes_text() const override { return format_.normalizes_text(); }

 private:
  const ExportFormat& format_;
  Damage damage_;
};

void expect_refused(const char* format, const Corrupted::Damage& damage, const std::string& message,
                    const ModelConfig& shape = test::export_shape("v2")) {
  const TempFolder folder;
  test::save_random_model(folder / "model", shape);
  const Corrupted corrupted(format, damage);
  for (const ExportDtype dtype : corrupted.dtypes()) {
    const ExportRequest request{.model = folder / "model",
                                .format = &corrupted,
                                .dtype = dtype,
                                .folder = folder / "exports" / "out"};
    EXPECT_THAT(message_of<ExportRefused>([&] { export_model(request); }), HasSubstr(message))
        << format << " " << name_of(dtype);
    EXPECT_TRUE(std::filesystem::is_empty(folder / "exports"));
  }
}

TEST(ExportModel, AWriterThatDamagesWeightsIsFoundOut) {
  for (const char* format : {"safetensors", "hf", "gguf", "w8a8"}) {
    expect_refused(
        format,
        [](ExportSource& source) {
          Tensor& weight = source.parameters.tensors.at("layers.1.feed_forward.w2.weight");
          weight = weight.roll(1, 0);
        },
        "its logits differ");
    expect_refused(
        format,
        [](ExportSource& source) {  // the wrong kind of rotation
          Tensor& weight = source.parameters.tensors.at("layers.0.attention.wq.weight");
          weight = weight.view({4, 8, 2, 64}).transpose(1, 2).reshape({64, 64});
        },
        "its logits differ");
  }
}

TEST(ExportModel, AWriterThatMixesUpExpertsIsFoundOut) {
  const ModelConfig shape = test::export_shape("v3", /*moe=*/true);
  for (const char* format : {"safetensors", "hf", "gguf"}) {
    expect_refused(
        format,
        [](ExportSource& source) {
          auto& tensors = source.parameters.tensors;
          std::swap(tensors.at("layers.1.feed_forward.experts.0.w2.weight"),
                    tensors.at("layers.1.feed_forward.experts.1.w2.weight"));
        },
        "its logits differ", shape);
    expect_refused(
        format, [](ExportSource& source) { source.model.num_experts_per_tok = 3; },
        "num_experts_per_tok", shape);
  }
}

TEST(ExportModel, AWriterThatDamagesTheTokenizerOrTheShapeIsFoundOut) {
  for (const char* format : {"safetensors", "hf", "gguf", "w8a8"}) {
    expect_refused(
        format,
        [](ExportSource& source) {
          source.tokenizer = test::export_tokenizer("quite another text, for 300 ids");
        },
        "its tokenizer gives other ids");
    expect_refused(
        format, [](ExportSource& source) { source.model.norm_eps = 1e-2; }, "norm_eps");
    expect_refused(
        format, [](ExportSource& source) { source.model.rope_theta = 1e6; }, "rope_theta");
  }
}

// llama.cpp composes no text, so there a GGUF file is held to composed text.
TEST(ExportModel, AWriterThatForgetsToComposeTextIsFoundOut) {
  const TempFolder folder;
  test::save_random_model(folder / "model", test::export_shape("v2"));
  auto composing = nlohmann::json::parse(test::export_tokenizer().json());
  composing["normalizer"] = {{"type", "NFC"}};
  write_text(folder / "model" / "tokenizer.json", composing.dump());
  const auto exported = [&](const ExportFormat& format) {
    return export_model({.model = folder / "model",
                         .format = &format,
                         .dtype = ExportDtype::kF32,
                         .folder = folder / "exports" / std::string(format.name())});
  };
  const Corrupted forgetful(
      "hf", [](ExportSource& source) { source.tokenizer = test::export_tokenizer(); });
  EXPECT_THAT(message_of<ExportRefused>([&] { exported(forgetful); }),
              HasSubstr("its tokenizer gives other ids"));
  for (const char* format : {"hf", "gguf"})
    EXPECT_EQ(exported(export_format(format)).check.failure(), "") << format;
}

TEST(ExportModel, ReplacesNothingButAnExport) {
  const TempFolder folder;
  test::save_random_model(folder / "model", test::export_shape("v2"));
  ExportRequest request{.model = folder / "model",
                        .format = &export_format("gguf"),
                        .dtype = ExportDtype::kF32,
                        .folder = folder / "mine"};
  std::filesystem::create_directories(folder / "mine");
  write_text(folder / "mine" / "letter.txt", "dear");
  request.overwrite = true;
  EXPECT_THAT(message_of<UserError>([&] { export_model(request); }),
              HasSubstr("something else than an export"));
  request.folder.clear();
  request.overwrite = false;
  EXPECT_EQ(export_model(request).folder, folder / "model" / "exports" / "gguf-f32");
  EXPECT_THAT(message_of<UserError>([&] { export_model(request); }), HasSubstr("--overwrite"));
  request.overwrite = true;
  EXPECT_EQ(export_model(request).check.failure(), "");
}

TEST(ExportModel, NumbersThatTheDtypeLacksAreRefusedByName) {
  const TempFolder folder;
  const ModelConfig shape = test::export_shape("v2");
  test::save_random_model(folder / "model", shape);
  StateDict weights = load_safetensors(folder / "model" / "model.safetensors");
  weights.tensors.at("norm.weight")[0] = 1e5F;
  save_safetensors(folder / "model" / "model.safetensors", weights.tensors);
  ExportRequest request{.model = folder / "model",
                        .format = &export_format("hf"),
                        .dtype = ExportDtype::kF16,
                        .folder = folder / "out"};
  EXPECT_THAT(message_of<UserError>([&] { export_model(request); }),
              HasSubstr("norm.weight are too large for f16"));
  weights.tensors.at("norm.weight")[0] = std::numeric_limits<float>::quiet_NaN();
  save_safetensors(folder / "model" / "model.safetensors", weights.tensors);
  request.dtype = ExportDtype::kF32;
  EXPECT_THAT(message_of<UserError>([&] { export_model(request); }), HasSubstr("inf or nan"));
}

TEST(ExportModel, Int8WeightsStartATraining) {
  const TempFolder folder;
  const ModelConfig shape = test::export_shape("v2");
  test::save_random_model(folder / "model", shape);
  export_model({.model = folder / "model",
                .format = &export_format("safetensors"),
                .dtype = ExportDtype::kInt8,
                .folder = folder / "out"});
  CausalLM model(shape);
  initialize_from(model, folder / "out" / "model.safetensors");
  const TrainedModel trained = load_trained_model(folder / "model");
  const auto weights = parameters_of(model), before = parameters_of(trained.model);
  const Tensor& one = before.tensors.at("layers.0.attention.wq.weight");
  const Tensor step = one.abs().amax(1, true) / 127;
  EXPECT_LE(((weights.tensors.at("layers.0.attention.wq.weight") - one).abs() / step)
                .max()
                .item<double>(),
            0.5001);
  EXPECT_TRUE(weights.tensors.at("norm.weight").equal(before.tensors.at("norm.weight")));
}

TEST(ExportedChatModel, IsComparedOnWhatItsMessagesSay) {
  const TempFolder folder;
  write_text(folder / "chats.jsonl",
             R"({"conversations": [{"role": "user", "content": "what is the moon like?"},
             {"role": "assistant", "content": "bright, above the river and the hills"}]})");
  std::string text = read_text(folder / "chats.jsonl");
  std::erase(text, '\n');
  write_text(folder / "chats.jsonl", text + "\n");
  TrainConfig config = resolve_config({{"task", std::string("sft"), "test"}});
  config.model = test::export_shape("v3");
  config.model.vocab_size = 0;
  config.data = {(folder / "chats.jsonl").string()};
  config.out = (folder / "run").string();
  config.batch_size = 1;
  config.seq_len = 32;
  config.max_steps = 1;
  pretrain(config);
  const ExportReport report = export_model({.model = folder / "run",
                                            .format = &export_format("gguf"),
                                            .dtype = ExportDtype::kF32,
                                            .folder = folder / "out"});
  EXPECT_TRUE(report.check.text.is_training_text);
  EXPECT_EQ(report.check.text.lines, 2);
  EXPECT_GT(report.check.text.tokens, 4);
}

TEST(RestoreInt8Weights, NamesScalesThatAreMissingOrOfAnotherShape) {
  StateDict state;
  state.tensors["w"] = torch::ones({3, 4}, torch::dtype(torch::kChar));
  EXPECT_THAT(message_of<UserError>([&] { restore_int8_weights(state, "a.bin"); }),
              HasSubstr("a.bin: tensor 'w' holds integers, but there is no 'w_scale'"));
  state.tensors["w_scale"] = torch::ones({3});
  EXPECT_THAT(message_of<UserError>([&] { restore_int8_weights(state, "a.bin"); }),
              HasSubstr("one scale for each of the rows of 'w'"));
}

}  // namespace
}  // namespace halftone::export_model_test
