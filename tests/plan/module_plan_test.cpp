// SPDX-License-Identifier: Apache-2.0
// Plans of modules against closed forms, real tensors and each other.
#include "halftone/plan/module_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/functional.h>
#include <torch/nn/modules.h>
#include <torch/optim/adam.h>

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/conv2d.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/conv2d.h"
#include "halftone/nn/embedding.h"
#include "halftone/nn/feed_forward.h"
#include "halftone/nn/layer_norm.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/log_mel_spectrogram.h"
#include "halftone/nn/multi_head_attention.h"
#include "halftone/nn/new_parameter.h"
#include "halftone/nn/rms_norm.h"
#include "halftone/nn/timestep_embedding.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/mixed_precision.h"
#include "planned_steps.h"
#include "support/gemm_config_scope.h"
#include "support/message_of.h"
#include "support/tensor_memory.h"

namespace halftone::module_plan_test {
namespace {

using test::planned;
using test::Steps;
using torch::Tensor;
namespace F = torch::nn::functional;

constexpr double kFast = 1e18;  // of what is not looked at

MachineSpeed all_at(double flops, double memory = kFast) {
  MachineSpeed speed{.memory = memory};
  for (const ComputeType type : compute_types()) speed.matmuls[type] = flops;
  return speed;
}

double sum_of(const auto& flops) {
  double sum = 0;
  for (const auto& [kind, of_it] : flops) sum += of_it;
  return sum;
}

struct Rows {
  Tensor inputs;   // (B, 64)
  Tensor targets;  // (B, 8)
  auto tensors() { return std::tie(inputs, targets); }
};

Rows rows_of(std::int64_t count) { return {torch::randn({count, 64}), torch::randn({count, 8})}; }

/// Two layers and a mean square error.
class Regression : public Steps<Rows> {
 public:
  Regression() {
    this->register_module("inner", inner_);
    this->register_module("outer", outer_);
  }
  Tensor training_step(const Rows& batch, std::int64_t /*index*/) override {
    return F::mse_loss(outer_(torch::silu(inner_(batch.inputs))), batch.targets);
  }

 private:
  Linear inner_{64, 512};
  Linear outer_{512, 8};
};

PlannedTraining regression() {
  return planned_training([] { return std::make_shared<Regression>(); }, rows_of);
}

// Each of the layers once forward and twice backward, but that no one asks for the gradient of the
// batch.
constexpr double kRegressionFlops = 2.0 * (2 * 64 * 512 + 3 * 512 * 8);  // of a sample

TEST(ModulePlan, CountsTheMultiplyAddsOfItsLayers) {
  for (const char* precision : {"32-true", "bf16-mixed", "int8-mixed", "fp8-mixed", "bf16-true"}) {
    const ModulePlan plan = planned(regression(), precision);
    // LibTorch's own linear() multiplies what needs no rounding.
    EXPECT_EQ(plan.work.flops(), 32 * kRegressionFlops) << precision;
    EXPECT_EQ(plan.work.attention_flops.size(), 0U) << precision;
    EXPECT_EQ(sum_of(plan.work.layer_flops), 32 * kRegressionFlops) << precision;
    EXPECT_EQ(plan.work.layer_flops.begin()->first.type, parse_precision(precision).compute)
        << precision;
  }
}

TEST(ModulePlan, CountsEveryMicroBatchAndEveryProductOfALargeHead) {
  const PlannedTraining training = regression();
  const auto with_micro_batches = [&](std::int64_t count) {
    return plan_module(training, {.precision = "int8-mixed", .micro_batches = count}, 32, 0);
  };
  const ModulePlan one = with_micro_batches(1), seven = with_micro_batches(7);
  EXPECT_EQ(seven.work.flops(), 7 * one.work.flops());
  EXPECT_NEAR(seven.work.bytes / one.work.bytes, 7.0, 0.1);
  EXPECT_EQ(seven.update_bytes, one.update_bytes);
  // Of three chunks of logits two are run.
  const ModelConfig model{.dim = 32, .n_layers = 1, .n_heads = 2, .vocab_size = 40000};
  struct Head : Steps<Tensor> {
    explicit Head(const ModelConfig& config) : lm(config) { this->register_module("lm", lm); }
    Tensor training_step(const Tensor& ids, std::int64_t /*index*/) override {
      return lm->loss(ids, ids, torch::ones(ids.sizes(), ids.options().dtype(torch::kFloat)))
          .total();
    }
    CausalLM lm;
  };
  const ModulePlan head = planned(planned_training([&] { return std::make_shared<Head>(model); },
                                                   [](std::int64_t n) {
                                                     return torch::randint(40000, {n, 128});
                                                   }),
                                  "bf16-mixed", 8);
  double of_head = 0;
  for (const auto& [product, flops] : head.work.layer_flops)
    if (product.out == 40000) of_head += flops;
  EXPECT_NEAR(of_head, 3 * 2.0 * 8 * 128 * 32 * 40000, 1.0);
}

TEST(ModulePlan, CountsAttentionWithoutAMask) {
  struct Attends : Steps<Tensor> {
    Attends() { this->register_module("attention", attention); }
    Tensor training_step(const Tensor& x, std::int64_t /*index*/) override {
      return attention(x).square().mean();
    }
    MultiHeadAttention attention{MultiHeadAttentionOptions{.dim = 96, .n_heads = 3}};
  };
  const auto make = [] { return std::make_shared<Attends>(); };
  for (const char* precision : {"32-true", "bf16-mixed"}) {
    const ModulePlan plan = planned(planned_training(make,
                                                     [](std::int64_t n) {
                                                       return torch::randn({n, 100, 96});
                                                     }),
                                    precision, 4);
    // Two matmuls forward and five backward of each pair of a query and a key.
    EXPECT_EQ(sum_of(plan.work.attention_flops), 7 * 2.0 * 4 * 100 * 100 * 96) << precision;
    EXPECT_EQ(sum_of(plan.work.layer_flops), 2.0 * 4 * 100 * 96 * 96 * (2 * 3 + 3)) << precision;
  }
}

TEST(ModulePlan, CountsLibTorchsLayersByTheirDtype) {
  struct Net : Steps<Tensor> {
    Net() {
      this->register_module("convolution", convolution);
      this->register_module("linear", linear);
      scale = this->register_parameter("scale", torch::randn({16}));
    }
    Tensor training_step(const Tensor& x, std::int64_t /*index*/) override {
      const Tensor y = torch::relu(convolution(x)).mean({2, 3}) * scale;
      return linear(y + 0.1 * torch::randn_like(y)).square().mean();
    }
    torch::nn::Conv2d convolution{torch::nn::Conv2dOptions(3, 16, 3).padding(1)};
    torch::nn::Linear linear{16, 10};
    Tensor scale;
  };
  const auto make = [] { return std::make_shared<Net>(); };
  const auto plan = [&](const char* precision) {
    return planned(planned_training(make,
                                    [](std::int64_t n) {
                                      return torch::randn({n, 3, 20, 20});
                                    }),
                   precision, 2);
  };
  const double flops = 2.0 * 2 * (2 * 400 * 16 * 27 + 3 * 16 * 10);
  const ModulePlan fp32 = plan("32-true"), bf16 = plan("bf16-mixed");
  EXPECT_EQ(fp32.work.matmul_flops, (std::map{std::pair{ComputeType::kFloat32, flops}}));
  EXPECT_EQ(bf16.work.matmul_flops, (std::map{std::pair{ComputeType::kBFloat16, flops}}));
  EXPECT_EQ(fp32.bytes.weights, 4U * (3 * 16 * 9 + 16 + 16 * 10 + 10 + 16));
}

// ---- what a plan can take

/// Every layer of the library in one module, and LibTorch's operations between them.
struct Everything : Steps<std::vector<Tensor>> {
  Everything() {
    this->register_module("convolution", convolution);
    this->register_module("patches", patches);
    this->register_module("group_norm", group_norm);
    this->register_module("layer_norm", layer_norm);
    this->register_module("rms_norm", rms_norm);
    this->register_module("attention", attention);
    this->register_module("feed_forward", feed_forward);
    this->register_module("time", time);
    this->register_module("words", words);
    this->register_module("mel", mel);
    this->register_module("ears", ears);
    this->register_module("lm", lm);
    this->register_module("torch_norm", torch_norm);
    this->register_module("torch_group_norm", torch_group_norm);
    this->register_module("batch_norm", batch_norm);
    place = this->register_parameter("place", torch::randn({1, 16, 32}) * 0.02);
    own = this->register_parameter("own", new_parameter({32}).zero_());
    table = this->register_buffer("table", torch::arange(16).to(torch::kFloat).sin());
    scale = this->register_parameter("scale", torch::tensor(2.5));
    mean = this->register_buffer("mean", torch::tensor({0.5, 0.4, 0.3}).view({1, 3, 1, 1}));
  }

  /// Pictures (B, 3, 16, 16) uint8, ids (B, 10), samples (B, 4000), labels (B).
  Tensor training_step(const std::vector<Tensor>& batch, std::int64_t /*index*/) override {
    Tensor x = batch[0].to(torch::kFloat) / 255 - mean;
    const Tensor smaller = F::interpolate(x, F::InterpolateFuncOptions()
                                                 .size(std::vector<std::int64_t>{8, 8})
                                                 .mode(torch::kBicubic)
                                                 .align_corners(false)
                                                 .antialias(true));
    const Tensor larger = F::interpolate(smaller, F::InterpolateFuncOptions()
                                                      .size(std::vector<std::int64_t>{16, 16})
                                                      .mode(torch::kBicubic)
                                                      .align_corners(false));
    const Tensor t = torch::rand({x.size(0)}), noise = torch::randn(x.sizes());
    x = x + t.view({-1, 1, 1, 1}) * (noise - larger);
    x = torch::gelu(torch_group_norm(batch_norm(group_norm(convolution(x)))));
    Tensor rows = patches(x).flatten(2).transpose(1, 2) + place + table.view({1, 16, 1});
    rows = rows + time(t).unsqueeze(1);
    const Tensor seen = words(batch[1]);
    rows = rows + attention(layer_norm(rows), seen);
    rows = rows + feed_forward(rms_norm(torch_norm(rows))) * own;
    const Tensor heard = ears(mel(batch[2]).mean(2));
    const Tensor scores = F::normalize(rows.mean(1)).matmul(F::normalize(heard).t()) * scale.exp();
    const Tensor contrast = F::cross_entropy(scores, torch::arange(scores.size(0)));
    const Tensor order = torch::randperm(scores.size(0));
    const Tensor mask = torch::ones_like(batch[1]).to(torch::kFloat);
    return contrast + rows.index_select(0, order).square().mean() +
           lm->loss(batch[1], batch[1], mask).total() +
           F::dropout(rows, F::DropoutFuncOptions().p(0.1)).abs().mean();
  }

  Conv2d convolution{
      Conv2dOptions{.in_channels = 3, .out_channels = 8, .kernel = {3, 3}, .padding = {1, 1}}};
  Conv2d patches{
      Conv2dOptions{.in_channels = 8, .out_channels = 32, .kernel = {4, 4}, .stride = {4, 4}}};
  GroupNorm group_norm{2, 8};
  LayerNorm layer_norm{32};
  RmsNorm rms_norm{32, 1e-5};
  MultiHeadAttention attention{MultiHeadAttentionOptions{.dim = 32, .n_heads = 2}};
  FeedForward feed_forward{32, 64, 0.0};
  TimestepEmbedding time{32};
  Embedding words{100, 32};
  LogMelSpectrogram mel{LogMelOptions{.n_mels = 20}};
  Linear ears{20, 32};
  CausalLM lm{ModelConfig{.dim = 32, .n_layers = 1, .n_heads = 2, .vocab_size = 100}};
  torch::nn::LayerNorm torch_norm{torch::nn::LayerNormOptions({32})};
  torch::nn::GroupNorm torch_group_norm{2, 8};
  torch::nn::BatchNorm2d batch_norm{8};
  Tensor place, own, table, scale, mean;
};

std::vector<Tensor> everything_batch(std::int64_t n) {
  return {torch::randint(256, {n, 3, 16, 16}, torch::kUInt8), torch::randint(100, {n, 10}),
          torch::randn({n, 4000})};
}

PlannedTraining everything() {
  return planned_training([] { return std::make_shared<Everything>(); }, everything_batch);
}

/// Tensors of a real step at their most, beside what is there before it.
template <class Module, class Batch>
double measured_step(Module& module, const Batch& batch, MixedPrecision& mixed,
                     test::TensorMemory& tensors) {
  const std::int64_t before = tensors.live();
  tensors.reset_peak();
  Tensor loss;
  {
    const ForwardContext region = mixed.forward_context();
    loss = module.training_step(batch, 0);
  }
  mixed.backward(loss);
  return static_cast<double>(tensors.peak() - before);
}

TEST(ModulePlan, TakesEveryLayerAndItsMemoryIsThatOfRealTensors) {
  for (const char* precision : {"32-true", "bf16-mixed", "int8-mixed"}) {
    const PrecisionPolicy policy = parse_precision(precision);
    const NumericsConfig numerics{policy, memory_policy({}, policy)};
    test::TensorMemory tensors;
    MixedPrecision mixed(policy, {}, torch::kCPU, numerics.memory);
    const auto module = std::make_shared<Everything>();
    mixed.convert_module(*module);
    const auto setups = module->configure_optimizers({.memory = numerics.memory});
    const std::vector<Tensor> batch = everything_batch(64);
    measured_step(*module, batch, mixed, tensors);  // tables are there
    const double measured = measured_step(*module, batch, mixed, tensors);
    const PlannedTraining training = everything();
    const StepMemory predicted = step_memory([&] { return training.make(64); }, 1, numerics);
    // Not counted: what LibTorch's operations take inside themselves, such as a Fourier transform.
    EXPECT_NEAR((predicted.activations + predicted.workspace) / measured, 1.0, 0.12) << precision;
  }
}

/// A parameter, and one function of it.
struct OneOperation : Steps<Tensor> {
  using Function = std::function<Tensor(const Tensor& x)>;
  explicit OneOperation(Function the_function) : function(std::move(the_function)) {
    weight = this->register_parameter("weight", torch::randn({1, 8, 16, 16}));
  }
  Tensor training_step(const Tensor& x, std::int64_t /*index*/) override {
    return function(x * weight).square().mean();
  }
  Function function;
  Tensor weight;
};

Tensor maps_of(std::int64_t n) { return torch::randn({n, 8, 16, 16}); }

/// Operations of LibTorch that call others, with tables of their own and without.
std::vector<std::pair<const char*, OneOperation::Function>> operations_of_operations() {
  return {
      {"repeat",
       [](const Tensor& x) {
         return x.repeat({1, 1, 2, 3});
       }},
      {"repeat in front",
       [](const Tensor& x) {
         return x.repeat({2, 1, 1, 1, 1});
       }},
      {"tile",
       [](const Tensor& x) {
         return x.tile({2, 2});
       }},
      {"repeat_interleave", [](const Tensor& x) { return x.repeat_interleave(3, 2); }},
      {"unfold", [](const Tensor& x) { return x.unfold(2, 4, 2).contiguous(); }},
      {"im2col",
       [](const Tensor& x) {
         return F::unfold(x, F::UnfoldFuncOptions({3, 3}).padding(1));
       }},
      {"movedim", [](const Tensor& x) { return x.movedim(1, 3).contiguous(); }},
      {"pixel_shuffle",
       [](const Tensor& x) { return F::pixel_shuffle(x, F::PixelShuffleFuncOptions(2)); }},
      {"embedding",
       [](const Tensor& x) {
         return F::embedding(torch::arange(8 * 64).view({64, 8}), x.flatten(0, 1).flatten(1));
       }},
      {"index", [](const Tensor& x) { return x.index({torch::arange(32)}); }},
      {"index_put",
       [](const Tensor& x) {
         return torch::zeros_like(x).index_put({torch::arange(32)}, x.slice(0, 0, 32));
       }},
      {"gather", [](const Tensor& x) { return x.gather(1, torch::zeros_like(x, torch::kLong)); }},
      {"roll",
       [](const Tensor& x) {
         return x.roll({3, 2}, {2, 3});
       }},
      {"flip",
       [](const Tensor& x) {
         return x.flip({2, 3});
       }},
      {"pad circular",
       [](const Tensor& x) {
         return F::pad(x, F::PadFuncOptions({1, 1, 1, 1}).mode(torch::kCircular));
       }},
      {"tril", [](const Tensor& x) { return x.tril(); }},
      {"triu_indices",
       [](const Tensor& x) {
         return x.flatten(2)
             .matmul(x.flatten(2).transpose(1, 2))
             .index({torch::indexing::Slice(), torch::triu_indices(8, 8)[0],
                     torch::triu_indices(8, 8)[1]});
       }},
      {"diag_embed", [](const Tensor& x) { return x.mean(3).diag_embed(); }},
      {"einsum",
       [](const Tensor& x) {
         return torch::einsum("nchw,nchv->nhwv", {x, x});
       }},
      {"cdist", [](const Tensor& x) { return torch::cdist(x.flatten(2), x.flatten(2)); }},
      {"cat",
       [](const Tensor& x) {
         return torch::cat({x, x, x}, 1);
       }},
      {"split", [](const Tensor& x) { return torch::cat(x.split(2, 1), 2); }},
      {"meshgrid",
       [](const Tensor& x) {
         return x * torch::meshgrid({torch::arange(16), torch::arange(16)}, "ij")[0];
       }},
      {"one_hot", [](const Tensor& x) { return x * F::one_hot(torch::arange(16) % 4, 16); }},
      {"masked_fill",
       [](const Tensor& x) {
         return x.masked_fill(torch::ones({16, 16}, torch::kBool).triu(1), -1.0);
       }},
      {"where", [](const Tensor& x) { return torch::where(x > 0, x, torch::zeros_like(x)); }},
      {"grid_sample",
       [](const Tensor& x) {
         return F::grid_sample(
             x, F::affine_grid(torch::eye(2, 3).expand({64, 2, 3}), {64, 8, 16, 16}));
       }},
      {"adaptive_pool",
       [](const Tensor& x) {
         return F::adaptive_avg_pool2d(x, F::AdaptiveAvgPool2dFuncOptions({5, 3}));
       }},
      {"linspace", [](const Tensor& x) { return x * torch::linspace(0, 1, 16); }},
      {"lerp",
       [](const Tensor& x) { return torch::lerp(x, x.flip({0}), torch::linspace(0, 1, 16)); }},
      {"fft",
       [](const Tensor& x) { return torch::real(torch::fft_fft(x)) + torch::fft_fftfreq(16); }},
  };
}

TEST(ModulePlan, TakesOperationsOfOperationsAndTheirMemoryIsThatOfRealTensors) {
  const PrecisionPolicy policy = parse_precision("32-true");
  const NumericsConfig numerics{policy, memory_policy({}, policy)};
  for (const auto& [name, function] : operations_of_operations()) {
    SCOPED_TRACE(name);
    test::TensorMemory tensors;
    MixedPrecision mixed(policy, {}, torch::kCPU, numerics.memory);
    const auto module = std::make_shared<OneOperation>(function);
    const auto setups = module->configure_optimizers({.memory = numerics.memory});
    const Tensor batch = maps_of(64);
    measured_step(*module, batch, mixed, tensors);
    const double measured = measured_step(*module, batch, mixed, tensors);
    const PlannedTraining training =
        planned_training([&] { return std::make_shared<OneOperation>(function); }, maps_of);
    const StepMemory predicted = step_memory([&] { return training.make(64); }, 1, numerics);
    EXPECT_NEAR((predicted.activations + predicted.workspace) / measured, 1.0, 0.001);
  }
}

TEST(ModulePlan, TakesOptimizersOfLibTorch) {
  struct WithAdam : Regression {
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext&) override {
      return {std::make_shared<torch::optim::Adam>(parameters())};
    }
  };
  const ModulePlan plan =
      planned(planned_training([] { return std::make_shared<WithAdam>(); }, rows_of), "32-true");
  constexpr std::uint64_t kNumbers = 64 * 512 + 512 * 8;
  EXPECT_EQ(plan.bytes.weights, 4 * kNumbers);
  EXPECT_EQ(plan.bytes.gradients, 4 * kNumbers);
  EXPECT_EQ(plan.bytes.states, 8 * kNumbers);
  EXPECT_EQ(plan.update_bytes, 0);
  EXPECT_GT(plan.work.bytes, planned(regression(), "32-true").work.bytes) << "its step counts";
}

TEST(ModulePlan, CountsWhatOneDnnKeepsOfEachShape) {
  const auto workspace = [](const char* ways, std::int64_t batch) {
    const test::GemmConfigScope scope(ways);
    return static_cast<double>(planned(regression(), "32-true", batch).bytes.workspace);
  };
  const double kernels = has_onednn_gemm32() ? 2 * 3 : 0;  // of two layers
  const auto kept = [&](std::int64_t batch) {
    return workspace("bf16=upcast,fp16=upcast,fp32=onednn", batch) -
           workspace("bf16=upcast,fp16=upcast,fp32=blas", batch);
  };
  EXPECT_EQ(kept(1024), kernels * 650 * 1024);
  EXPECT_EQ(kept(32), 0) << "small matmuls take the BLAS";
  // Of 16 bits, oneDNN computes those that are native, of any size.
  const auto in_bf16 = [](const char* ways) {
    const test::GemmConfigScope scope(ways);
    return matmul_format(ComputeType::kBFloat16).kept_kernels(32, 64, 512);
  };
  EXPECT_EQ(in_bf16("bf16=native,fp16=upcast,fp32=blas"), 3);
  EXPECT_EQ(in_bf16("bf16=native,bf16.forward=upcast,fp16=upcast,fp32=blas"), 2);
  EXPECT_EQ(in_bf16("bf16=upcast,fp16=upcast,fp32=onednn"), 0);
  EXPECT_EQ(matmul_format(ComputeType::kInt8).kept_kernels(4096, 4096, 4096), 0);
}

TEST(ModulePlan, HasFormatsOfSingleLayers) {
  const ModulePlan plan = plan_module(
      regression(), {.precision = "bf16-mixed", .layer_precision = {"inner=fp32"}}, 32, 0);
  std::map<ComputeType, double> flops;
  for (const auto& [product, of_it] : plan.work.layer_flops) flops[product.type] += of_it;
  EXPECT_EQ(flops.at(ComputeType::kFloat32), 32 * 2.0 * 2 * 64 * 512);
  EXPECT_EQ(flops.at(ComputeType::kBFloat16), 32 * 2.0 * 3 * 512 * 8);
}

// ---- what it refuses

/// Of a module that has a parameter of four numbers.
template <class Step>
ModulePlan plan_of(Step step) {
  struct Module : Steps<Tensor> {
    explicit Module(Step the_step) : step(std::move(the_step)) {
      weight = this->register_parameter("weight", torch::randn({4}));
    }
    Tensor training_step(const Tensor& x, std::int64_t /*index*/) override {
      return step(x, weight);
    }
    Step step;
    Tensor weight;
  };
  return planned(planned_training([&] { return std::make_shared<Module>(step); },
                                  [](std::int64_t n) {
                                    return torch::randn({n, 4});
                                  }),
                 "32-true");
}

template <class Step>
std::string refusal_of(Step step) {
  return test::message_of<UserError>([&] { plan_of(step); });
}

TEST(ModulePlan, RefusesAStepThatLooksAtNumbers) {
  EXPECT_THAT(refusal_of([](const Tensor& x, const Tensor& w) {
                return x.sum().item<float>() > 0 ? w.sum() : -w.sum();
              }),
              testing::HasSubstr("cannot plan this step"));
  EXPECT_THAT(refusal_of([](const Tensor& x, const Tensor& w) {
                return w.sum() * x.sum().data_ptr<float>()[0];
              }),
              testing::HasSubstr("cannot plan this step"));
  EXPECT_THAT(refusal_of([](const Tensor& /*x*/, const Tensor& w) {
                const Tensor own = torch::empty({4});
                own.data_ptr<float>()[0] = 1.0F;
                return (own * w).sum();
              }),
              testing::HasSubstr("cannot plan this step"));
}

TEST(ModulePlan, TakesAStepThatLooksAtATable) {
  EXPECT_NO_THROW(plan_of([](const Tensor& x, const Tensor& w) {
    const Tensor last = torch::arange(4)[-1];
    return (x * w).narrow(1, 0, last.item<std::int64_t>()).sum();
  }));
  // 8 TB: it has no data, and takes no memory.
  EXPECT_NO_THROW(plan_of([](const Tensor& x, const Tensor& w) {
    return (x * w + torch::arange(std::int64_t{1} << 40U).narrow(0, 0, 4)).sum();
  }));
}

TEST(ModulePlan, RefusesAModuleThatWasMadeBefore) {
  const auto made = std::make_shared<Regression>();
  EXPECT_THAT(test::message_of<UserError>(
                  [&] { planned(planned_training([&] { return made; }, rows_of), "32-true"); }),
              testing::HasSubstr("its parameter 'inner.weight' has data already"));
}

TEST(ModulePlan, ComputesOnZerosWhatHasNoShapesOtherwise) {
  struct Odd : Regression {
    Tensor training_step(const Rows& batch, std::int64_t index) override {
      const Tensor median = std::get<0>(batch.inputs.median(1, /*keepdim=*/true));
      const Tensor sorted = torch::searchsorted(torch::linspace(-1, 1, 64), batch.inputs);
      return Regression::training_step({batch.inputs + median + sorted, batch.targets}, index);
    }
  };
  const ModulePlan plan =
      planned(planned_training([] { return std::make_shared<Odd>(); }, rows_of), "32-true");
  EXPECT_EQ(plan.work.flops(), planned(regression(), "32-true").work.flops());
}

TEST(ModulePlan, LeavesNothingBehind) {
  torch::manual_seed(4);
  const Tensor expected = torch::rand({3});
  torch::manual_seed(4);
  planned(everything(), "bf16-mixed");
  EXPECT_TRUE(torch::empty({2}).is_cpu());
  EXPECT_TRUE(torch::equal(torch::rand({3}), expected)) << "the generator has moved";
  EXPECT_EQ(torch::randn({3, 2}).matmul(torch::randn({2, 5})).sizes(), at::IntArrayRef({3, 5}));
  EXPECT_THROW(planned(everything(), "16-mixed", -1), UserError);
  EXPECT_TRUE(torch::empty({2}).is_cpu());
}

// ---- seconds

TEST(ModuleSeconds, AreThoseOfItsMatmuls) {
  const ModulePlan plan = planned(regression(), "bf16-mixed");
  MachineSpeed speed = all_at(1e9);
  EXPECT_NEAR(step_seconds(plan, speed), 32 * kRegressionFlops / 1e9, 1e-9);
  speed.matmuls[ComputeType::kBFloat16] = 4e9;
  EXPECT_NEAR(step_seconds(plan, speed), 32 * kRegressionFlops / 4e9, 1e-9);
  // A shape that was measured goes first.
  for (const auto& [product, flops] : plan.work.layer_flops)
    if (product.in == 64) speed.layers[product] = 1e9;
  EXPECT_NEAR(step_seconds(plan, speed), 32 * (2.0 * 2 * 64 * 512 / 1e9 + 2.0 * 3 * 512 * 8 / 4e9),
              1e-9);
  EXPECT_NEAR(step_seconds(plan, part_of(speed, 0.5)), 2 * step_seconds(plan, speed), 1e-12);
}

TEST(ModuleSeconds, AreThoseOfWhatIsReadAndWritten) {
  const ModulePlan plan = planned(regression(), "32-true", 1000);
  MachineSpeed speed = all_at(kFast, 1e9);
  const double bytes = plan.work.bytes + plan.update_bytes;
  EXPECT_NEAR(step_seconds(plan, speed), bytes / 1e9, 1e-9);
  // SiLU reads and writes (1000, 512), and reads two and writes one when it goes back.
  EXPECT_GT(plan.work.bytes, 5 * 4.0 * 1000 * 512);
  EXPECT_LT(plan.work.bytes, 6 * 4.0 * 1000 * 512);
  // And computes as many exponentials in both directions.
  EXPECT_EQ(plan.work.functions, 2.0 * 1000 * 512);
  speed.function_s = 1e-6;
  EXPECT_NEAR(step_seconds(plan, speed), bytes / 1e9 + 1.024, 1e-9);
  speed.function_s = 0;
  speed.operation_s = 1e-3;
  EXPECT_NEAR(step_seconds(plan, speed), bytes / 1e9 + 1e-3 * plan.work.operations, 1e-9);
}

TEST(ModuleSeconds, GrowWithTheBatchAndAnEpochHasItsSteps) {
  const MachineSpeed speed = all_at(1e9, 1e9);
  const ModulePlan small = planned(regression(), "32-true", 64);
  const ModulePlan large = planned(regression(), "32-true", 128);
  const double more = step_seconds(large, speed) - step_seconds(small, speed);
  const double twice = step_seconds(planned(regression(), "32-true", 192), speed);
  EXPECT_NEAR(twice - step_seconds(large, speed), more, 0.01 * more);
  EXPECT_EQ(epoch_seconds(large, 1280, speed), 10 * step_seconds(large, speed));
  EXPECT_THROW(step_seconds(large, MachineSpeed{}), c10::Error);
}

// ---- budgets

TEST(LargestBatch, IsTheLastThatFits) {
  const PlannedTraining training = regression();
  for (const std::uint64_t budget : {std::uint64_t{16} << 20U, std::uint64_t{40} << 20U}) {
    const std::optional<ModulePlan> best =
        largest_batch(training, {.precision = "bf16-mixed"}, {.bytes = budget}, 0);
    ASSERT_TRUE(best) << budget;
    EXPECT_LE(best->bytes.total(), budget);
    EXPECT_GT(planned(training, "bf16-mixed", best->batch_size + 1).bytes.total(), budget);
  }
}

TEST(LargestBatch, KnowsBounds) {
  const PlannedTraining training = regression();
  constexpr std::uint64_t kAny = std::numeric_limits<std::uint64_t>::max();
  for (const std::int64_t most : {1, 2, 100, 128}) {
    const auto best = largest_batch(training, {}, {.bytes = kAny, .most = most}, 0);
    ASSERT_TRUE(best);
    EXPECT_EQ(best->batch_size, most);
  }
  EXPECT_FALSE(largest_batch(training, {}, {.bytes = 1000}, 0));
  EXPECT_FALSE(largest_batch(training, {}, {.bytes = kAny}, kAny / 2)->bytes.process == 0);
}

TEST(LargestBatch, IsLargerWithLeanerNumbers) {
  // In so much memory that the machine code of bf16 matmuls, which no batch makes larger, is
  // little.
  const auto size = [](const char* precision) {
    return largest_batch(everything(), {.precision = precision}, {.bytes = std::uint64_t{2} << 30U},
                         0)
        ->batch_size;
  };
  EXPECT_GT(size("bf16-mixed"), size("32-true"));
}

TEST(ModulePlansText, HasALineForEachRecipe) {
  const std::vector<ModulePlan> plans =
      plan_precisions(regression(), {"32-true", "bf16-mixed"}, {}, 32, 0);
  const std::string text = module_plans_text(plans, 3200, all_at(1e9, 1e9));
  EXPECT_THAT(text, testing::ContainsRegex("precision +memory +batch +peak"));
  EXPECT_THAT(text, testing::ContainsRegex("\n32-true +standard +32 "));
  EXPECT_THAT(text, testing::ContainsRegex("\nbf16-mixed +standard +32 "));
  // Released gradients are kept in no precision that scales the loss.
  EXPECT_THAT(
      test::message_of<UserError>([] { plan_precisions(regression(), {"bf17-mixed"}, {}, 32, 0); }),
      testing::HasSubstr("bf17-mixed"));
  EXPECT_EQ(plan_precisions(regression(), {"32-true", "16-mixed"},
                            {.memory = {.memory = "leanest"}}, 32, 0)
                .size(),
            1U);
}

}  // namespace
}  // namespace halftone::module_plan_test
