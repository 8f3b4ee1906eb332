// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/layer_precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/linear.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/feed_forward.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"
#include "support/narrow_model.h"
#include "support/temp_folder.h"

namespace halftone::layer_precision_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;
using Types = std::map<std::string, ComputeType>;

CausalLM small_model(bool moe = false) { return test::narrow_model(2, moe); }

PrecisionPolicy policy(const char* name = "bf16-mixed") { return parse_precision(name); }

TEST(LayerPrecision, IsReadFromTheLastEqualsSign) {
  const LayerPrecision choice = parse_layer_precision("a=b=fp8-row");
  EXPECT_EQ(choice.pattern, "a=b");
  EXPECT_EQ(choice.format, ComputeType::kFloat8Rows);
  const auto error = [](const std::string& text) {
    return message_of<UserError>([&] { parse_layer_precision(text); });
  };
  EXPECT_THAT(error("feed_forward"), HasSubstr("expected REGEX=FORMAT"));
  EXPECT_THAT(error("feed_forward=int9"), HasSubstr("did you mean 'int8'?"));
  EXPECT_THAT(error("(=int8"), HasSubstr("expected a regular expression, got '('"));
}

TEST(LayerPrecision, RefusesWhatCannotStandBesideThePrecision) {
  const auto error = [](const char* precision, const std::string& text) {
    return message_of<UserError>([&] { check_layer_precision({text}, policy(precision)); });
  };
  EXPECT_THAT(error("32-true", "w=int8"), HasSubstr("goes with a mixed precision"));
  EXPECT_THAT(error("bf16-true", "w=int8"), HasSubstr("goes with a mixed precision"));
  EXPECT_THAT(error("bf16-mixed", "w=fp16"), HasSubstr("(fp32, bf16, int8, fp8-row, fp8)"));
  EXPECT_THAT(error("16-mixed", "w=bf16"), HasSubstr("(fp32, fp16, int8)"));
  EXPECT_NO_THROW(check_layer_precision({"w=bf16"}, policy("int8-mixed")));
  EXPECT_NO_THROW(check_layer_precision({}, policy("32-true")));
}

TEST(LayerPrecision, NamesLinearLayersAndTheHeadWhereLaterTextsWin) {
  CausalLM model = small_model();
  const Types types = layer_types(
      *model, {"feed_forward=int8", R"(layers\.1\.feed_forward\.w2=fp32)", "tok_embeddings=fp8"},
      policy());
  const Types expected{{"layers.0.feed_forward.w1", ComputeType::kInt8},
                       {"layers.0.feed_forward.w2", ComputeType::kInt8},
                       {"layers.0.feed_forward.w3", ComputeType::kInt8},
                       {"layers.1.feed_forward.w1", ComputeType::kInt8},
                       {"layers.1.feed_forward.w2", ComputeType::kFloat32},
                       {"layers.1.feed_forward.w3", ComputeType::kInt8},
                       {"tok_embeddings", ComputeType::kFloat8}};
  EXPECT_EQ(types, expected);
  EXPECT_EQ(layer_formats(*model, types)->size(), expected.size());
  EXPECT_EQ(layer_types(*model, {".*=int8"}, policy()).size(), 2U * 7U + 1U);
  EXPECT_EQ(layer_types(*model, {"type:FeedForward=int8"}, policy()).size(), 6U);
  EXPECT_TRUE(layer_types(*model, {}, policy("32-true")).empty());
}

TEST(LayerPrecision, ReachesTheExpertsAndNotTheirRouter) {
  CausalLM model = small_model(/*moe=*/true);
  const Types types = layer_types(*model, {R"(experts\.3=int8)"}, policy());
  EXPECT_EQ(types.size(), 2U * 3U);
  EXPECT_TRUE(types.contains("layers.1.feed_forward.experts.3.w2"));
  EXPECT_THAT(message_of<UserError>([&] { layer_types(*model, {"gate=int8"}, policy()); }),
              HasSubstr("expected linear layers, 'gate=int8' matches only modules without one"));
}

struct Mixed : torch::nn::Module {
  Mixed() {
    register_module("ours", Linear(8, 8));
    register_module("theirs", torch::nn::Linear(8, 8));
  }
};

TEST(LayerPrecision, RefusesPatternsThatNameNoLayerOfOurs) {
  Mixed module;
  const auto error = [&](const std::string& text) {
    return message_of<UserError>([&] { layer_types(module, {text}, policy()); });
  };
  EXPECT_THAT(error("their=int8"), HasSubstr("'their=int8' matches 'theirs', a torch::nn::Linear"));
  EXPECT_THAT(error(".*=int8"), HasSubstr("torch::nn::Linear"));
  EXPECT_THAT(error("oars=int8"), HasSubstr("matches no module's path; did you mean 'ours'?"));
  EXPECT_EQ(layer_types(module, {"ours=int8"}, policy()).size(), 1U);
}

// ---- in a MixedPrecision

struct Step {
  Tensor loss;
  std::vector<Tensor> gradients;
};

Step step_of(CausalLM& model, MixedPrecision& precision) {
  torch::manual_seed(9);
  const Tensor ids = torch::randint(120, {2, 17});
  Step step;
  {
    const auto region = precision.forward_context(/*pass=*/3, /*seed=*/4);
    step.loss = model
                    ->loss(ids.narrow(1, 0, 16).contiguous(), ids.narrow(1, 1, 16).contiguous(),
                           torch::ones({2, 16}))
                    .total();
  }
  step.gradients = torch::autograd::grad({precision.scaled(step.loss)}, model->parameters(), {},
                                         /*retain_graph=*/{}, /*create_graph=*/false,
                                         /*allow_unused=*/true);
  return step;
}

void expect_equal(const Step& a, const Step& b, const std::string& what) {
  EXPECT_TRUE(a.loss.equal(b.loss)) << what;
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i)
    EXPECT_TRUE(a.gradients[i].equal(b.gradients[i])) << what << ", parameter " << i;
}

TEST(LayerPrecision, GivesTheBitsOfTheRecipeWhereAllLayersHaveItsFormat) {
  for (const char* name : {"bf16-mixed", "16-mixed", "int8-mixed"}) {
    const std::string own = std::string(".*=") + std::string(to_string(policy(name).compute));
    for (const bool lean : {false, true}) {
      const MemoryPolicy memory =
          memory_policy({.memory = lean ? "lean" : "standard"}, policy(name));
      const auto result = [&](const std::vector<std::string>& texts) {
        CausalLM model = small_model();
        MixedPrecision precision(policy(name), {}, torch::kCPU, memory, texts);
        precision.convert_module(*model);
        return step_of(model, precision);
      };
      expect_equal(result({own}), result({}), std::string(name) + (lean ? ", lean" : ""));
    }
  }
}

TEST(LayerPrecision, IsThatOfRecomputedBlocksAndExpertsToo) {
  for (const bool moe : {false, true}) {
    const auto result = [&](bool recompute) {
      CausalLM model = small_model(moe);
      MemoryPolicy memory;
      memory.recompute_blocks = recompute;
      MixedPrecision precision(policy(), {}, torch::kCPU, memory,
                               {"feed_forward=int8", "attention.wo=fp8", "wk=fp32"});
      precision.convert_module(*model);
      return step_of(model, precision);
    };
    expect_equal(result(true), result(false), moe ? "experts" : "dense");
  }
}

TEST(LayerPrecision, ComputesEachLayerInItsFormat) {
  torch::manual_seed(2);
  FeedForward layer(32, 48, 0.0);
  const Tensor x = torch::randn({10, 32});
  MixedPrecision precision(policy(), {}, torch::kCPU, {}, {"w2=int8"});
  precision.convert_module(*layer);
  Tensor mixed;
  {
    const auto region = precision.forward_context(1, 1);
    mixed = layer->forward(x);
  }
  // By hand: the first two in bf16, the last one in int8 of the bf16 that it gets.
  const auto weights = layer->named_parameters();
  Tensor expected;
  {
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    const Tensor gate_up = merged_linear(x, {weights["w1.weight"], weights["w3.weight"]});
    const Tensor hidden = swiglu(gate_up);
    const Autocast off(torch::kCPU, torch::kBFloat16, /*enabled=*/false);
    ComputeContext context = compute_context_in(ComputeType::kInt8);
    context.streams = RoundingStreams(1, 1);
    const ComputeScope scope(context);
    expected = halftone::linear(hidden.to(torch::kFloat), weights["w2.weight"]);
  }
  EXPECT_TRUE(mixed.equal(expected.to(torch::kBFloat16)));
}

// ---- in a Trainer

class Regression : public TrainingModule<> {
 public:
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor hidden = first(batch.data).tanh();
    types.push_back(linear_type(hidden));
    return (last(hidden).to(torch::kFloat) - batch.target).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : named_parameters()) named.emplace_back(item.key(), item.value());
    return {std::make_shared<AdamW>(named, context.adamw({.lr = 1e-2}))};
  }
  Linear first = register_module("first", Linear(8, 32));
  Linear last = register_module("last", Linear(32, 1));
  std::vector<std::optional<ComputeType>> types;
};

struct Trained {
  StateDict weights;
  std::vector<std::string> notes;
};

Trained trained(TrainerOptions options, const FitOptions& how = {}) {
  torch::manual_seed(7);
  Regression module;
  torch::manual_seed(1);
  const Tensor x = torch::randn({40, 8});
  TensorLoader loader({x, x.sum(1, true).tanh()}, {.batch_size = 8, .seed = 3});
  Trained result;
  set_log_sink([&](LogLevel, const std::string& message) { result.notes.push_back(message); });
  Trainer trainer(std::move(options));
  trainer.fit(module, loader, how);
  set_log_sink({});
  result.weights = network_state(module);
  return result;
}

bool are_equal(const StateDict& a, const StateDict& b) {
  for (const auto& [name, tensor] : a.tensors)
    if (!tensor.equal(b.tensor(name))) return false;
  return true;
}

TEST(LayerPrecision, TrainsInTheFormatsThatWereAskedFor) {
  const auto options = [](std::vector<std::string> texts, std::vector<std::string> kept = {}) {
    return TrainerOptions{.max_steps = 12,
                          .precision = "bf16-mixed",
                          .enable_progress_bar = false,
                          .keep_fp32 = std::move(kept),
                          .layer_precision = std::move(texts)};
  };
  const Trained plain = trained(options({}));
  const Trained own = trained(options({"first|last=bf16"}));
  EXPECT_TRUE(are_equal(own.weights, plain.weights));
  const Trained lowered = trained(options({"first=int8"}));
  EXPECT_FALSE(are_equal(lowered.weights, plain.weights));
  EXPECT_THAT(lowered.notes,
              testing::Contains(HasSubstr("layers with a format of their own: 1 in int8 (first)")));
  EXPECT_TRUE(are_equal(trained(options({"first=int8"})).weights, lowered.weights));
  const Trained kept = trained(options({"first=int8"}, {"first"}));
  EXPECT_TRUE(are_equal(kept.weights, trained(options({}, {"first"})).weights))
      << "keep_fp32 goes first";
}

TEST(LayerPrecision, IsRefusedBeforeAnythingIsTrained) {
  const auto error = [](const char* precision, std::vector<std::string> texts) {
    return message_of<UserError>([&] {
      trained({.max_steps = 1,
               .precision = precision,
               .enable_progress_bar = false,
               .layer_precision = std::move(texts)});
    });
  };
  EXPECT_THAT(error("32-true", {"first=int8"}), HasSubstr("goes with a mixed precision"));
  EXPECT_THAT(error("bf16-mixed", {"second=int8"}), HasSubstr("matches no module's path"));
  EXPECT_THAT(error("16-mixed", {"first=fp8"}),
              HasSubstr("can stand among the layers of 16-mixed"));
  set_log_sink({});
}

TEST(LayerPrecision, GoesOnBitByBitAfterAResume) {
  const test::TempFolder folder;
  const auto options = [&](const std::string& name, std::int64_t steps) {
    return TrainerOptions{.max_steps = steps,
                          .precision = "bf16-mixed",
                          .enable_progress_bar = false,
                          .default_root_dir = folder / name,
                          .layer_precision = {"first=int8", "last=fp8"}};
  };
  const Trained whole = trained(options("whole", 9));
  trained(options("parts", 4));
  const Trained resumed = trained(options("parts", 9), {.resume = true});
  EXPECT_TRUE(are_equal(resumed.weights, whole.weights));
  EXPECT_THAT(test::read_text(folder / "parts/config.toml"),
              HasSubstr("layer_precision = [\"first=int8\",\"last=fp8\"]"));
}

}  // namespace
}  // namespace halftone::layer_precision_test
