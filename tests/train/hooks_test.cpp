// SPDX-License-Identifier: Apache-2.0
// When the hooks of callbacks and modules are called, and what they see.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/train/callback.h"
#include "halftone/train/trainer.h"
#include "support/lightning_golden.h"
#include "support/temp_folder.h"

namespace halftone::hooks_test {
namespace {

using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

using Calls = std::vector<std::string>;

/// Writes down each call, by Lightning's names.
struct Recorder : Callback {
  explicit Recorder(Calls& the_calls) : calls(the_calls) {}
  void add(const std::string& hook) { calls.push_back("callback." + hook); }

  void setup(const Trainer& /*trainer*/) override { add("setup"); }
  void on_fit_start(Trainer& /*trainer*/) override { add("on_fit_start"); }
  void on_sanity_check_start(Trainer& /*trainer*/) override { add("on_sanity_check_start"); }
  void on_sanity_check_end(Trainer& /*trainer*/) override { add("on_sanity_check_end"); }
  void on_train_epoch_start(Trainer& /*trainer*/, std::int64_t /*epoch*/) override {
    add("on_train_epoch_start");
  }
  void on_before_zero_grad(Trainer& /*trainer*/) override { add("on_before_zero_grad"); }
  void on_train_batch_start(Trainer& /*trainer*/, std::int64_t /*index*/) override {
    add("on_train_batch_start");
  }
  void on_before_backward(Trainer& /*trainer*/, const Tensor& /*loss*/) override {
    add("on_before_backward");
  }
  void on_after_backward(Trainer& /*trainer*/) override { add("on_after_backward"); }
  void on_train_batch_end(Trainer& /*trainer*/, std::int64_t /*index*/) override {
    add("on_train_batch_end");
  }
  void on_before_optimizer_step(Trainer& /*trainer*/) override { add("on_before_optimizer_step"); }
  void on_validation_start(Trainer& /*trainer*/) override { add("on_validation_start"); }
  void on_validation_end(Trainer& /*trainer*/,
                         const std::map<std::string, double>& /*values*/) override {
    add("on_validation_end");
  }
  void on_train_end(Trainer& /*trainer*/) override { add("on_train_end"); }
  void on_fit_end(Trainer& /*trainer*/) override { add("on_fit_end"); }
  void on_exception(Trainer& /*trainer*/, const std::exception& /*error*/) override {
    add("on_exception");
  }
  void on_save_checkpoint(Trainer& /*trainer*/, Checkpoint& /*checkpoint*/) override {
    add("on_save_checkpoint");
  }
  void on_load_checkpoint(Trainer& /*trainer*/, Checkpoint& /*checkpoint*/) override {
    add("on_load_checkpoint");
  }
  void on_test_start(Trainer& /*trainer*/) override { add("on_test_start"); }
  void on_test_end(Trainer& /*trainer*/, const std::map<std::string, double>& /*values*/) override {
    add("on_test_end");
  }
  void on_predict_start(Trainer& /*trainer*/) override { add("on_predict_start"); }
  void on_predict_end(Trainer& /*trainer*/) override { add("on_predict_end"); }

  Calls& calls;
};

struct Module : TrainingModule<> {
  explicit Module(Calls& the_calls, bool is_manual = false) : calls(the_calls), manual(is_manual) {}
  void add(const std::string& hook) { calls.push_back("module." + hook); }

  bool automatic_optimization() const override { return !manual; }
  Tensor training_step(const Batch& batch, std::int64_t index) override {
    add("training_step");
    if (index == throws_at) throw UserError("thrown on purpose");
    const Tensor loss = (line(batch.data) - batch.target).square().mean();
    for (std::size_t i = 0; manual && i < 2; ++i) {
      manual_backward(loss, /*retain_graph=*/true);
      optimizer(i).step();
    }
    return loss;
  }
  void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
    add("validation_step");
    log("val_loss", 1.0);
  }
  void test_step(const Batch& /*batch*/, std::int64_t /*index*/) override { add("test_step"); }
  Tensor predict_step(const Batch& batch, std::int64_t /*index*/) override {
    add("predict_step");
    return batch.data;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    add("configure_optimizers");
    std::vector<OptimizerSetup> setups = {
        std::make_shared<torch::optim::SGD>(std::vector{line->weight}, 0.01)};
    if (manual)
      setups.emplace_back(std::make_shared<torch::optim::SGD>(std::vector{line->bias}, 0.01));
    return setups;
  }
  void on_fit_start() override { add("on_fit_start"); }
  void on_train_epoch_start(std::int64_t /*epoch*/) override { add("on_train_epoch_start"); }
  void on_train_batch_start(std::int64_t /*index*/) override { add("on_train_batch_start"); }
  void on_before_zero_grad() override { add("on_before_zero_grad"); }
  void on_before_backward(const Tensor& /*loss*/) override { add("on_before_backward"); }
  void on_after_backward() override { add("on_after_backward"); }
  void on_before_optimizer_step() override { add("on_before_optimizer_step"); }
  void on_train_batch_end(std::int64_t /*index*/) override { add("on_train_batch_end"); }
  void on_validation_start() override { add("on_validation_start"); }
  void on_validation_end() override { add("on_validation_end"); }
  void on_fit_end() override { add("on_fit_end"); }

  torch::nn::Linear line = register_module("line", torch::nn::Linear(2, 1));
  Calls& calls;
  bool manual;
  std::int64_t throws_at = -1;
};

TensorLoader loader_of(std::int64_t batches) {
  return TensorLoader({torch::ones({2 * batches, 2}), torch::ones({2 * batches, 1})},
                      {.batch_size = 2});
}

const nlohmann::json& golden(const std::string& name) {
  for (const nlohmann::json& item : test::lightning_golden("hooks"))
    if (item["name"] == name) return item;
  throw std::out_of_range(name);
}

/// Lightning's calls, without the hooks that there are none of here and those whose place differs:
/// gradients become zero before the batches of a step here, between forward and backward there, and
/// the epoch's end is told before its validation here, behind it there; batches that are tried out
/// are no validation here.
Calls shared(const Calls& calls) {
  static const std::vector<std::string> kShared = {"on_fit_start",
                                                   "on_sanity_check_start",
                                                   "on_sanity_check_end",
                                                   "on_train_epoch_start",
                                                   "on_train_batch_start",
                                                   "training_step",
                                                   "on_before_backward",
                                                   "on_after_backward",
                                                   "on_train_batch_end",
                                                   "on_before_optimizer_step",
                                                   "on_validation_start",
                                                   "validation_step",
                                                   "on_validation_end",
                                                   "on_train_end",
                                                   "on_fit_end",
                                                   "on_exception",
                                                   "configure_optimizers",
                                                   "on_test_start",
                                                   "test_step",
                                                   "on_test_end",
                                                   "on_predict_start",
                                                   "predict_step",
                                                   "on_predict_end"};
  Calls kept;
  bool sanity = false;
  for (const std::string& call : calls) {
    const std::string hook = call.substr(call.find('.') + 1);
    const bool module_has_none = call == "module.on_train_end" || call == "module.on_test_start" ||
                                 call == "module.on_test_end" ||
                                 call == "module.on_predict_start" ||
                                 call == "module.on_predict_end";
    if (hook == "on_sanity_check_end") sanity = false;
    const bool is_shared = std::find(kShared.begin(), kShared.end(), hook) != kShared.end();
    const bool of_sanity = sanity && hook != "validation_step";
    if (is_shared && !module_has_none && !of_sanity) kept.push_back(call);
    if (hook == "on_sanity_check_start") sanity = true;
  }
  return kept;
}

Calls lightnings(const std::string& name) { return shared(golden(name)["calls"].get<Calls>()); }

Calls fit(const std::string& name) {
  const nlohmann::json& item = golden(name);
  Calls calls;
  Module module(calls, item["manual_optimization"].get<bool>());
  if (!item["raised"].is_null()) module.throws_at = 1;
  TrainerOptions options{.max_epochs = item["options"]["max_epochs"].get<std::int64_t>(),
                         .accelerator = "cpu"};
  options.callbacks = {std::make_shared<Recorder>(calls)};
  options.num_sanity_val_steps = item["options"].value("num_sanity_val_steps", 0);
  options.accumulate_grad_batches = item["options"].value("accumulate_grad_batches", 1);
  TensorLoader train = loader_of(item["batches"].get<std::int64_t>());
  TensorLoader validation = loader_of(item["val_batches"].get<std::int64_t>());
  try {
    Trainer(options).fit(module, train, validation);
  } catch (const UserError&) {
    EXPECT_FALSE(item["raised"].is_null());
  }
  return calls;
}

// guide: hooks
TEST(Hooks, ComeInLightningsOrder) {
  for (const std::string name : {"automatic", "exception", "manual_two_optimizers"})
    EXPECT_EQ(shared(fit(name)), lightnings(name)) << name;
}

TEST(Hooks, OfTestAndPredictionComeInLightningsOrder) {
  Calls calls;
  Module module(calls);
  TensorLoader loader = loader_of(2);
  Trainer trainer({.accelerator = "cpu", .callbacks = {std::make_shared<Recorder>(calls)}});
  trainer.test(module, loader);
  EXPECT_EQ(shared(calls), lightnings("test"));
  calls.clear();
  EXPECT_EQ(trainer.predict(module, loader).size(), 2U);
  EXPECT_EQ(shared(calls), lightnings("predict"));
}

TEST(Hooks, AreThoseOfAStep) {
  Calls calls;
  Module module(calls);
  TensorLoader train = loader_of(3);
  Trainer({.max_epochs = 1,
           .accelerator = "cpu",
           .accumulate_grad_batches = 2,
           .callbacks = {std::make_shared<Recorder>(calls)}})
      .fit(module, train);
  std::erase_if(calls, [](const std::string& call) { return call.starts_with("module."); });
  EXPECT_THAT(
      calls, ElementsAre("callback.setup", "callback.on_fit_start", "callback.on_train_epoch_start",
                         "callback.on_before_zero_grad", "callback.on_train_batch_start",
                         "callback.on_before_backward", "callback.on_after_backward",
                         "callback.on_train_batch_end", "callback.on_train_batch_start",
                         "callback.on_before_backward", "callback.on_after_backward",
                         "callback.on_before_optimizer_step", "callback.on_train_batch_end",
                         "callback.on_before_zero_grad", "callback.on_train_batch_start",
                         "callback.on_before_backward", "callback.on_after_backward",
                         "callback.on_before_optimizer_step", "callback.on_train_batch_end",
                         "callback.on_train_end", "callback.on_fit_end"));
}

TEST(Hooks, MayChangeGradientsAndCheckpoints) {
  struct Zeroing : Callback {
    void on_before_optimizer_step(Trainer& trainer) override {
      for (const Tensor& parameter : trainer.module().parameters())
        if (parameter.grad().defined()) parameter.mutable_grad().zero_();
    }
    void on_save_checkpoint(Trainer& /*trainer*/, Checkpoint& checkpoint) override {
      checkpoint.trainer.values["mine"] = std::string("of the callback");
    }
    void on_load_checkpoint(Trainer& /*trainer*/, Checkpoint& checkpoint) override {
      seen = checkpoint.trainer.get<std::string>("mine");
    }
    std::string seen;
  };
  const TempFolder folder;
  Calls calls;
  Module module(calls);
  const Tensor before = module.line->weight.detach().clone();
  TensorLoader train = loader_of(3);
  const auto zeroing = std::make_shared<Zeroing>();
  const TrainerOptions options{.max_epochs = 1,
                               .accelerator = "cpu",
                               .callbacks = {zeroing},
                               .default_root_dir = folder / "run"};
  Trainer(options).fit(module, train);
  EXPECT_TRUE(module.line->weight.equal(before));
  Trainer(options).fit(module, train, {.resume = true});
  EXPECT_EQ(zeroing->seen, "of the callback");
}

TEST(Hooks, TellTheModuleOfTheException) {
  struct Told : Module {
    using Module::Module;
    void on_exception(const std::exception& error) override { what = error.what(); }
    std::string what;
  };
  Calls calls;
  Told module(calls);
  module.throws_at = 0;
  TensorLoader train = loader_of(3);
  EXPECT_THROW(Trainer({.max_epochs = 1, .accelerator = "cpu"}).fit(module, train), UserError);
  EXPECT_EQ(module.what, "thrown on purpose");
}

}  // namespace
}  // namespace halftone::hooks_test
