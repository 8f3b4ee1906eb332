// SPDX-License-Identifier: Apache-2.0
// What of a validation, test or prediction computes in the Trainer's precision, and in which: the
// steps do, with the layers that the training kept in fp32; data and metrics do not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/log.h"
#include "halftone/data/data_loader.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::evaluation_region_test {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;
using torch::Tensor;

using Dtypes = std::map<std::string, std::vector<torch::ScalarType>>;

/// That of a matmul here and now.
torch::ScalarType matmul_dtype() {
  const Tensor x = torch::eye(2);
  return x.matmul(x).scalar_type();
}

/// Four samples, whose reading computes.
struct Computed {
  static std::int64_t size() { return 4; }
  Tensor get(std::int64_t index) const {
    const torch::ScalarType seen = matmul_dtype();
    (*dtypes)["data"].push_back(seen);
    return torch::full({4}, static_cast<double>(index)) / 4;
  }
  std::shared_ptr<Dtypes> dtypes;
};

struct Joined {
  Tensor operator()(const std::vector<Tensor>& samples) const {
    (*dtypes)["collate"].push_back(matmul_dtype());
    return torch::stack(samples);
  }
  std::shared_ptr<Dtypes> dtypes;
};

using Loader = DataLoader<Computed, Joined>;

class Net : public TrainingModule<Tensor, Tensor> {
 public:
  explicit Net(std::shared_ptr<Dtypes> dtypes = std::make_shared<Dtypes>())
      : dtypes_(std::move(dtypes)) {}

  Tensor training_step(const Tensor& batch, std::int64_t /*index*/) override {
    return seen("training_step", batch).square().mean();
  }
  void validation_step(const Tensor& batch, std::int64_t /*index*/) override {
    log("val_loss", seen("step", batch).square().mean());
  }
  void test_step(const Tensor& batch, std::int64_t /*index*/) override {
    log("test_loss", seen("step", batch).square().mean());
  }
  Tensor predict_step(const Tensor& batch, std::int64_t /*index*/) override {
    return seen("step", batch);
  }
  void on_validation_loader_end() override { (*dtypes_)["metrics"].push_back(matmul_dtype()); }
  void on_test_loader_end() override { (*dtypes_)["metrics"].push_back(matmul_dtype()); }
  void on_train_epoch_end(std::int64_t /*epoch*/) override {
    (*dtypes_)["epoch"].push_back(matmul_dtype());
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.01)};
  }

 private:
  Tensor seen(const std::string& where, const Tensor& batch) {
    const Tensor hidden = hidden_(batch);
    const Tensor out = out_(hidden);
    (*dtypes_)[where].push_back(hidden.scalar_type());
    (*dtypes_)["out"].push_back(out.scalar_type());
    return out;
  }
  std::shared_ptr<Dtypes> dtypes_;
  torch::nn::Linear hidden_ = register_module("hidden", torch::nn::Linear(4, 4));
  torch::nn::Linear out_ = register_module("out", torch::nn::Linear(4, 1));
};

class EvaluationRegion : public testing::Test {
 protected:
  EvaluationRegion() {
    set_log_sink([this](LogLevel, const std::string& note) { notes_.push_back(note); });
  }
  ~EvaluationRegion() override { set_log_sink({}); }

  Loader loader() const {
    return Loader({dtypes_}, {.batch_size = 2, .shuffle = false, .num_workers = 0}, {dtypes_});
  }
  std::vector<std::string> notes_of(const std::string& text) const {
    std::vector<std::string> found;
    for (const std::string& note : notes_)
      if (note.find(text) != std::string::npos) found.push_back(note);
    return found;
  }
  void train(const TrainerOptions& options) {
    Net net(dtypes_);
    Loader train = loader(), validation = loader();
    Trainer(options).fit(net, train, validation);
  }

  std::shared_ptr<Dtypes> dtypes_ = std::make_shared<Dtypes>();
  std::vector<std::string> notes_;
  test::TempFolder folder_;
};

TEST_F(EvaluationRegion, HoldsTheStepsAndNeitherDataNorMetrics) {
  const TrainerOptions options{
      .max_epochs = 1, .precision = "bf16-mixed", .accelerator = "cpu", .num_sanity_val_steps = 0};
  train(options);
  Net net(dtypes_);
  Loader data = loader();
  Trainer trainer(options);
  trainer.validate(net, data);
  trainer.test(net, data);
  trainer.predict(net, data);
  EXPECT_THAT((*dtypes_)["training_step"], AllOf(SizeIs(2), Each(torch::kBFloat16)));
  EXPECT_THAT((*dtypes_)["step"], AllOf(SizeIs(8), Each(torch::kBFloat16)));
  EXPECT_THAT((*dtypes_)["data"], AllOf(SizeIs(20), Each(torch::kFloat32)));
  EXPECT_THAT((*dtypes_)["collate"], AllOf(SizeIs(10), Each(torch::kFloat32)));
  EXPECT_THAT((*dtypes_)["metrics"], AllOf(SizeIs(3), Each(torch::kFloat32)));
  EXPECT_THAT((*dtypes_)["epoch"], AllOf(SizeIs(1), Each(torch::kFloat32)));
}

TEST_F(EvaluationRegion, HoldsTheStepsOfAPassOverTheTrainingData) {
  struct Pass : Callback {
    void on_train_end(Trainer& trainer) override { trainer.pass_over_training_data(); }
  };
  Net net(dtypes_);
  Loader data = loader();
  Trainer({.max_epochs = 1,
           .precision = "bf16-mixed",
           .accelerator = "cpu",
           .callbacks = {std::make_shared<Pass>()}})
      .fit(net, data);
  EXPECT_THAT((*dtypes_)["training_step"], AllOf(SizeIs(4), Each(torch::kBFloat16)));
  EXPECT_THAT((*dtypes_)["collate"], AllOf(SizeIs(4), Each(torch::kFloat32)));
}

TEST_F(EvaluationRegion, HasTheLayersInFp32ThatTheTrainingHad) {
  const TrainerOptions options{.max_epochs = 1,
                               .precision = "bf16-mixed",
                               .accelerator = "cpu",
                               .default_root_dir = folder_ / "run",
                               .num_sanity_val_steps = 0,
                               .keep_fp32 = {"^out$"}};
  train(options);
  EXPECT_THAT(notes_of("kept in fp32: out"), SizeIs(1));
  const SavedModel saved = load_saved_model(folder_ / "run");
  ASSERT_TRUE(saved.layers);
  EXPECT_EQ(*saved.layers, (LayerChoices{.keep_fp32 = {"^out$"}}));
  Net net(dtypes_);
  Loader data = loader();
  Trainer same(options_of(saved));
  EXPECT_EQ(same.policy().name, "bf16-mixed");
  same.load((folder_ / "run").string(), net);
  same.validate(net, data);
  same.test(net, data);
  same.predict(net, data);
  same.predict(Net(dtypes_), data, {.ckpt_path = (folder_ / "run").string()});
  EXPECT_THAT((*dtypes_)["step"], AllOf(SizeIs(10), Each(torch::kBFloat16)));
  EXPECT_THAT((*dtypes_)["out"], AllOf(SizeIs(12), Each(torch::kFloat32)));
  EXPECT_THAT(notes_of("kept in fp32: out"), SizeIs(3)) << "once of each module";
  EXPECT_THAT(notes_, Each(Not(HasSubstr("was trained with"))));
}

TEST_F(EvaluationRegion, LeavesNoLayerInFp32BehindTheTrainer) {
  const TrainerOptions plain{.precision = "bf16-mixed", .accelerator = "cpu"};
  TrainerOptions kept = plain;
  kept.keep_fp32 = {"^out$"};
  Net net(dtypes_);
  Loader data = loader();
  {
    Trainer trainer(kept);
    trainer.validate(net, data);
    trainer.test(net, data);
  }
  Trainer(plain).validate(net, data);
  const std::vector<torch::ScalarType>& out = (*dtypes_)["out"];
  ASSERT_EQ(out.size(), 6U);
  EXPECT_THAT(std::vector(out.begin(), out.begin() + 4), Each(torch::kFloat32));
  EXPECT_THAT(std::vector(out.begin() + 4, out.end()), Each(torch::kBFloat16));
}

TEST_F(EvaluationRegion, SaysWhenLayersComputeOtherwiseThanInTheTraining) {
  TrainerOptions options{.max_epochs = 1,
                         .precision = "bf16-mixed",
                         .accelerator = "cpu",
                         .default_root_dir = folder_ / "run",
                         .num_sanity_val_steps = 0,
                         .keep_fp32 = {"^out$", "type:Linear"}};
  train(options);
  Net net;
  Trainer({.precision = "bf16-mixed", .accelerator = "cpu"}).load(folder_ / "run", net);
  EXPECT_THAT(notes_, Contains(AllOf(HasSubstr("keep_fp32 ^out$ and type:Linear"),
                                     HasSubstr("is used with keep_fp32 none"))));
  notes_.clear();
  Trainer({.precision = "32-true", .accelerator = "cpu"}).load(folder_ / "run", net);
  EXPECT_THAT(notes_, Each(Not(HasSubstr("was trained with")))) << "a choice of its own";

  options.keep_fp32 = {"^out$"};
  options.max_epochs = 2;
  Net resumed(dtypes_);
  Loader data = loader();
  Trainer(options).fit(resumed, data, {.resume = true});
  EXPECT_THAT(notes_, Contains(HasSubstr("the run goes on with keep_fp32 ^out$, layer_precision "
                                         "none; before it had keep_fp32 ^out$ and")));
  notes_.clear();
  options.max_epochs = 3;
  Trainer(options).fit(resumed, data, {.resume = true});
  EXPECT_THAT(notes_, Each(Not(HasSubstr("the run goes on with"))));
}

}  // namespace
}  // namespace halftone::evaluation_region_test
