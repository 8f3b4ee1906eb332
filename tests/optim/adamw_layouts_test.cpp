// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>
#include <torch/utils.h>

#include <cmath>

#include "halftone/core/error.h"
#include "halftone/io/safetensors.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/kernels/optimizer/split_master.h"
#include "halftone/optim/adamw.h"
#include "support/adamw_layout.h"
#include "support/temp_folder.h"

namespace halftone::adamw_layouts_test {
namespace {

using test::Layout;

using Shapes = std::vector<std::vector<std::int64_t>>;

// Two that have small moments, with and without a last block that is whole; two that are too small.
const Shapes kShapes = {{64, 64}, {3, 5}, {77, 61}, {5000}};

std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const auto moments :
       {MomentStorage::kFloat32, MomentStorage::kBFloat16, MomentStorage::kInt8}) {
    const AdamWOptions plain{.lr = 0.01, .seed = 5, .moments = moments};
    all.push_back({torch::kFloat, plain});
    all.push_back({torch::kHalf, plain});
    for (const auto master :
         {MasterWeights::kNone, MasterWeights::kSplit16, MasterWeights::kSplit8}) {
      for (const bool stochastic : {false, true}) {
        AdamWOptions options = plain;
        options.master = master;
        options.stochastic_rounding = stochastic;
        options.fp32_gradients = stochastic;
        all.push_back({torch::kBFloat16, options});
      }
    }
  }
  return all;
}

std::vector<torch::Tensor> parameters_of(torch::ScalarType dtype) {
  torch::manual_seed(9);
  std::vector<torch::Tensor> parameters;
  for (const auto& shape : kShapes)
    parameters.push_back(torch::randn(shape).to(dtype).requires_grad_());
  return parameters;
}

torch::Tensor gradient_of(std::size_t parameter, std::int64_t step) {
  torch::manual_seed(static_cast<std::uint64_t>(step * 100) + parameter);
  return torch::randn(kShapes[parameter]) * torch::pow(10.0, torch::randn(kShapes[parameter]));
}

void set_gradients(const std::vector<torch::Tensor>& parameters, std::int64_t step) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const torch::Tensor gradient = gradient_of(i, step);
    if (parameters[i].grad().defined())
      parameters[i].mutable_grad().copy_(gradient);
    else
      parameters[i].mutable_grad() = gradient.to(parameters[i].scalar_type());
  }
}

void run(AdamW& optimizer, const std::vector<torch::Tensor>& parameters, std::int64_t from,
         std::int64_t to) {
  for (std::int64_t step = from; step < to; ++step) {
    set_gradients(parameters, step);
    optimizer.step();
    optimizer.zero_grad();
  }
}

StateDict copy_of(StateDict state) {
  for (auto& [name, tensor] : state.tensors) tensor = tensor.clone();
  return state;
}

void expect_same(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    EXPECT_EQ(tensor.scalar_type(), b.tensor(name).scalar_type());
    EXPECT_TRUE(torch::equal(tensor, b.tensor(name))) << name;
  }
  EXPECT_EQ(a.values, b.values);
}

void expect_same(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << i;
}

std::vector<torch::Tensor> copies_of(const std::vector<torch::Tensor>& parameters) {
  std::vector<torch::Tensor> copies;
  for (const torch::Tensor& p : parameters) copies.push_back(p.detach().clone().requires_grad_());
  return copies;
}

torch::Tensor decoded(const StateDict& state, const std::string& name, Moment moment) {
  const torch::Tensor& stored = state.tensor(name);
  if (stored.scalar_type() != torch::kByte) return stored.to(torch::kFloat).flatten();
  return decoded_moments(stored.flatten(), state.tensor(name + "_scale"), moment);
}

TEST(AdamWLayouts, BytesAreKnownBeforehand) {
  for (Layout layout : layouts()) {
    for (const bool release : {false, true}) {
      layout.options.release_gradients = release;
      std::vector<ParameterShape> shapes;
      for (const auto& shape : kShapes) shapes.push_back({shape, layout.dtype});
      shapes.push_back({{700, 3}, torch::kFloat});
      std::vector<torch::Tensor> parameters = parameters_of(layout.dtype);
      parameters.push_back(torch::zeros({700, 3}).requires_grad_());
      const AdamW optimizer(parameters, layout.options);
      EXPECT_EQ(adamw_bytes(shapes, layout.options), optimizer.bytes()) << text(layout);
    }
  }
}

TEST(AdamWLayouts, BytesAreThoseOfTheTable) {
  const std::vector<ParameterShape> one = {{{1024, 1024}, torch::kBFloat16}};
  const std::int64_t n = 1024 * 1024;
  AdamWOptions options{.master = MasterWeights::kSplit8, .moments = MomentStorage::kInt8};
  const OptimizerBytes split8{2 * n, 2 * n, 2 * n + 8 * n / 256, n};
  EXPECT_EQ(adamw_bytes(one, options), split8);
  EXPECT_EQ(split8.total(), 7 * n + n / 32);
  options.release_gradients = true;
  EXPECT_EQ(adamw_bytes(one, options).total(), 5 * n + n / 32);
  EXPECT_EQ(adamw_bytes({{{1024, 1024}, torch::kFloat}}, {}).total(), 16 * n);
  options = {.moments = MomentStorage::kBFloat16, .fp32_gradients = true};
  EXPECT_EQ(adamw_bytes(one, options).total(), 10 * n);
}

TEST(AdamWLayouts, KeepSmallTensorsAndVectorsInFp32) {
  const auto parameters = parameters_of(torch::kBFloat16);
  for (const auto moments : {MomentStorage::kBFloat16, MomentStorage::kInt8}) {
    const AdamW optimizer(parameters, {.moments = moments});
    const StateDict state = optimizer.state_dict();
    const torch::ScalarType small =
        moments == MomentStorage::kInt8 ? torch::kByte : torch::kBFloat16;
    EXPECT_EQ(state.tensor("group 0, parameter 0.exp_avg").scalar_type(), small);
    EXPECT_EQ(state.tensor("group 0, parameter 1.exp_avg").scalar_type(), torch::kFloat);
    EXPECT_EQ(state.tensor("group 0, parameter 2.exp_avg_sq").scalar_type(), small);
    EXPECT_EQ(state.tensor("group 0, parameter 3.exp_avg_sq").scalar_type(), torch::kFloat);
  }
}

TEST(AdamWLayouts, StepByParameterIsTheStep) {
  const torch::Tensor factor = torch::tensor(0.5);
  const torch::Tensor none = torch::zeros({});
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const auto whole = parameters_of(layout.dtype);
    const auto parts = parameters_of(layout.dtype);
    AdamW a(whole, layout.options);
    AdamW b(parts, layout.options);
    for (std::int64_t step = 0; step < 3; ++step) {
      set_gradients(whole, step);
      set_gradients(parts, step);
      a.step_scaled(factor, none);
      for (const std::size_t i : {2, 0, 3, 1}) b.step_parameter(i, factor, none);
      EXPECT_EQ(b.step_count(), step);
      b.finish_step(none);
    }
    expect_same(whole, parts);
    expect_same(a.state_dict(), b.state_dict());
    b.step_parameter(0, factor, torch::ones({}));  // found_inf
    b.finish_step(torch::ones({}));
    expect_same(a.state_dict(), b.state_dict());
  }
}

TEST(AdamWLayouts, ReleasedGradientsGiveTheSameBits) {
  const torch::Tensor factor = torch::tensor(0.5);
  const torch::Tensor none = torch::zeros({});
  for (Layout layout : layouts()) {
    SCOPED_TRACE(text(layout));
    layout.options.fp32_gradients = false;
    const auto kept = parameters_of(layout.dtype);
    const auto released = parameters_of(layout.dtype);
    AdamW a(kept, layout.options);
    layout.options.release_gradients = true;
    AdamW b(released, layout.options);
    EXPECT_FALSE(released[0].grad().defined());
    for (std::int64_t step = 0; step < 4; ++step) {
      set_gradients(kept, step);
      set_gradients(released, step);
      const GradientStats kept_stats = a.gradient_stats();
      const GradientStats stats = b.gradient_stats();
      EXPECT_NEAR(stats.norm_squared.item<double>() / kept_stats.norm_squared.item<double>(), 1.0,
                  1e-12);
      EXPECT_TRUE(torch::equal(stats.non_finite, kept_stats.non_finite));
      a.step_scaled(factor, none);
      if (step < 2) {
        for (std::size_t i = 0; i < released.size(); ++i) b.step_parameter(i, factor, none);
        b.finish_step(none);
      } else {
        b.step_scaled(factor, none);
        EXPECT_TRUE(released[0].grad().defined());
        b.zero_grad();
      }
      EXPECT_FALSE(released[0].grad().defined());
    }
    expect_same(kept, released);
    expect_same(a.state_dict(), b.state_dict());
  }
}

TEST(AdamWLayouts, SplitMasterFollowsFp32WeightsBitForBit) {
  const auto split = parameters_of(torch::kBFloat16);
  std::vector<torch::Tensor> whole;
  for (const torch::Tensor& p : split)
    whole.push_back(p.detach().to(torch::kFloat).requires_grad_());
  AdamW a(split, {.lr = 1e-3, .master = MasterWeights::kSplit16});
  AdamW b(whole, {.lr = 1e-3});
  for (std::int64_t step = 0; step < 100; ++step) {
    set_gradients(split, step);
    for (std::size_t i = 0; i < whole.size(); ++i) whole[i].mutable_grad().copy_(split[i].grad());
    a.step();
    b.step();
  }
  const StateDict state = a.state_dict();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const torch::Tensor low = state.tensor(a.parameter_names()[i] + ".master_low");
    EXPECT_TRUE(torch::equal(joined_master({split[i].detach(), low}), whole[i]));
  }
}

TEST(AdamWLayouts, StatesResumeExactlyThroughAFile) {
  const test::TempFolder folder;
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const auto parameters = parameters_of(layout.dtype);
    AdamW optimizer(parameters, layout.options);
    run(optimizer, parameters, 0, 3);
    const StateDict state = optimizer.state_dict();
    for (const auto& [name, tensor] : state.tensors)
      EXPECT_GT(tensor.storage().nbytes(), tensor.nbytes()) << name << " is not a view";
    save_safetensors(folder.path() / "state.safetensors", state.tensors);
    StateDict saved = load_safetensors(folder.path() / "state.safetensors");
    saved.values = state.values;
    const auto copies = copies_of(parameters);
    run(optimizer, parameters, 3, 6);

    AdamWOptions fresh = layout.options;
    fresh.seed = 99;
    fresh.lr = 0.5;
    AdamW resumed(copies, fresh);
    resumed.load_state_dict(saved);
    expect_same(resumed.state_dict(), saved);
    run(resumed, copies, 3, 6);
    expect_same(parameters, copies);
    expect_same(optimizer.state_dict(), resumed.state_dict());
  }
}

TEST(AdamWLayouts, StatesOfBeforeLayoutsLoad) {
  const auto parameters = parameters_of(torch::kFloat);
  AdamW optimizer(parameters, {});
  StateDict old;
  for (std::size_t i = 0; i < kShapes.size(); ++i) {
    const std::string name = "group 0, parameter " + std::to_string(i);
    old.tensors[name + ".exp_avg"] = gradient_of(i, 1);
    old.tensors[name + ".exp_avg_sq"] = gradient_of(i, 2).square();
  }
  old.values = {{"step", std::int64_t{12}}, {"lr", 0.25},  {"beta1", 0.9},
                {"beta2", 0.999},           {"eps", 1e-8}, {"weight_decay", 0.01},
                {"seed", std::int64_t{3}}};
  optimizer.load_state_dict(old);
  expect_same(optimizer.state_dict(), old);
}

TEST(AdamWLayouts, MomentsConvertOnLoad) {
  for (const auto from :
       {MomentStorage::kFloat32, MomentStorage::kBFloat16, MomentStorage::kInt8}) {
    const auto parameters = parameters_of(torch::kFloat);
    AdamW source(parameters, {.moments = from});
    run(source, parameters, 0, 3);
    const StateDict saved = copy_of(source.state_dict());
    for (const auto to :
         {MomentStorage::kFloat32, MomentStorage::kBFloat16, MomentStorage::kInt8}) {
      const auto copies = copies_of(parameters);
      AdamW target(copies, {.moments = to});
      target.load_state_dict(saved);
      const StateDict loaded = target.state_dict();
      for (const std::string& name : target.parameter_names()) {
        for (const Moment moment : {Moment::kFirst, Moment::kSecond}) {
          const std::string key = name + (moment == Moment::kFirst ? ".exp_avg" : ".exp_avg_sq");
          torch::Tensor wide = decoded(saved, key, moment);
          if (from == MomentStorage::kInt8 && from != to && moment == Moment::kSecond &&
              saved.tensor(key).scalar_type() == torch::kByte)  // as a step reads it
            wide = decoded_exp_avg_sq(saved.tensor(key).flatten(), saved.tensor(key + "_scale"),
                                      decoded(saved, name + ".exp_avg", Moment::kFirst),
                                      least_root(torch::tensor(3), 0.9, 0.999));
          const torch::Tensor& stored = loaded.tensor(key);
          torch::Tensor expected = wide;
          if (stored.scalar_type() == torch::kBFloat16)
            expected = wide.to(torch::kBFloat16).to(torch::kFloat);
          if (stored.scalar_type() == torch::kByte && from != to) {
            const torch::Tensor codes = torch::empty(wide.sizes(), torch::kByte);
            const torch::Tensor scales = torch::empty({moment_scales(wide.numel())});
            encode_moments_reference_(wide, moment, codes, scales);
            expected = decoded_moments_reference(codes, scales, moment);
          }
          EXPECT_TRUE(torch::equal(decoded(loaded, key, moment), expected)) << key;
        }
      }
    }
  }
}

TEST(AdamWLayouts, MastersConvertOnLoadAndLeaveWeightsAlone) {
  const auto parameters = parameters_of(torch::kBFloat16);
  AdamW source(parameters, {.lr = 0.01, .master = MasterWeights::kSplit16});
  run(source, parameters, 0, 5);
  const StateDict split16 = copy_of(source.state_dict());
  const std::string key = "group 0, parameter 0.master_low";
  const auto load = [&](MasterWeights master, const StateDict& state) {
    const auto copies = copies_of(parameters);
    AdamW target(copies, {.master = master});
    target.load_state_dict(state);
    expect_same(copies, parameters);
    return copy_of(target.state_dict());
  };
  const StateDict split8 = load(MasterWeights::kSplit8, split16);
  EXPECT_TRUE(torch::equal(split8.tensor(key), master_low_as(split16.tensor(key), torch::kByte)));
  // To the nearest of 24 bits, except where that would carry into the weight.
  const torch::Tensor weight = parameters[0].detach();
  const torch::Tensor exact = joined_master({weight, split16.tensor(key)});
  const torch::Tensor back = joined_master({weight, split8.tensor(key)});
  const torch::Tensor nearest = rounded_to_24_bits(exact);
  EXPECT_TRUE((back.eq(nearest) | split8.tensor(key).eq(255)).all().item<bool>());
  EXPECT_GT(back.eq(nearest).to(torch::kDouble).mean().item<double>(), 0.99);

  const StateDict wide = load(MasterWeights::kSplit16, split8);
  EXPECT_TRUE(torch::equal(joined_master({weight, wide.tensor(key)}), back));
  const StateDict none = load(MasterWeights::kNone, split16);
  EXPECT_EQ(none.tensors.count(key), 0U);
  const StateDict fresh = load(MasterWeights::kSplit16, none);
  EXPECT_EQ(fresh.tensor(key).count_nonzero().item<std::int64_t>(), 0);
}

TEST(AdamWLayouts, LoadRefusesBrokenStatesAndChangesNothing) {
  const auto parameters = parameters_of(torch::kBFloat16);
  AdamW optimizer(parameters, {.master = MasterWeights::kSplit8, .moments = MomentStorage::kInt8});
  run(optimizer, parameters, 0, 2);
  const StateDict good = copy_of(optimizer.state_dict());
  const std::string name = "group 0, parameter 2";
  std::vector<std::pair<std::string, torch::Tensor>> breaks = {
      {name + ".exp_avg", torch::zeros({77, 61}, torch::kChar)},
      {name + ".exp_avg_scale", torch::zeros({3})},
      {name + ".exp_avg_sq_scale", torch::zeros({19}, torch::kHalf)},
      {name + ".master_low", torch::zeros({77, 61}, torch::kInt)},
      {name + ".master_low", torch::zeros({77}, torch::kByte)},
      {name + ".exp_avg_scale", torch::Tensor()}};
  for (const auto& [key, tensor] : breaks) {
    StateDict bad = good;
    for (auto& [other, values] : bad.tensors) values = torch::zeros_like(values);
    if (tensor.defined())
      bad.tensors[key] = tensor;
    else
      bad.tensors.erase(key);
    try {
      optimizer.load_state_dict(bad);
      FAIL() << "accepted " << key;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
    expect_same(optimizer.state_dict(), good);
  }
}

TEST(AdamWLayouts, Fp32GradientsAddUpWhatBFloat16Loses) {
  for (const bool wide : {false, true}) {
    torch::Tensor weight = torch::ones({4}, torch::dtype(torch::kBFloat16).requires_grad(true));
    AdamW optimizer({weight}, {.lr = 0.1, .fp32_gradients = wide});
    EXPECT_EQ(weight.grad().scalar_type(), wide ? torch::kFloat : torch::kBFloat16);
    const void* place = weight.grad().data_ptr();
    (weight * 256).sum().backward();
    for (int k = 0; k < 64; ++k) (weight * 0.5).sum().backward();
    EXPECT_EQ(weight.grad().data_ptr(), place);
    EXPECT_EQ(weight.grad()[0].item<float>(), wide ? 288.0F : 256.0F);
    EXPECT_DOUBLE_EQ(optimizer.gradient_stats().norm_squared.item<double>(),
                     wide ? 4 * 288.0 * 288.0 : 4 * 65536.0);
    optimizer.step();
    EXPECT_LT(weight[0].item<float>(), 1.0F);
    optimizer.zero_grad();
    EXPECT_EQ(weight.grad().data_ptr(), place);
  }
}

// Also where a graph of before still holds the parameter.
TEST(AdamWLayouts, AutogradMakesFp32GradientsForBFloat16Weights) {
  torch::Tensor weight = torch::ones({4}, torch::dtype(torch::kBFloat16).requires_grad(true));
  const torch::Tensor before = (weight * 2).sum();
  AdamW optimizer({weight}, {.lr = 0.1, .fp32_gradients = true, .release_gradients = true});
  EXPECT_FALSE(weight.grad().defined());
  before.backward();
  (weight * 0.5).sum().backward();
  ASSERT_TRUE(weight.grad().defined());
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
  EXPECT_EQ(weight.grad()[0].item<float>(), 2.5F);
  optimizer.step_parameter(0, torch::ones({}), torch::zeros({}));
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_LT(weight[0].item<float>(), 1.0F);
}

// Least squares with 96 x 64 weights; what is left of the loss after 400 steps.
double trained_loss(const Layout& layout) {
  torch::manual_seed(1);
  const torch::Tensor truth = torch::randn({96, 64});
  torch::Tensor weight = torch::zeros({96, 64}, layout.dtype).requires_grad_();
  AdamWOptions options = layout.options;
  options.lr = 0.02;
  options.weight_decay = 0.0;
  AdamW optimizer({weight}, options);
  for (int step = 0; step < 400; ++step) {
    if (step == 300) optimizer.set_lr(0.002);
    const torch::Tensor x = torch::randn({32, 96});
    const torch::Tensor y = x.mm(weight.to(torch::kFloat));
    torch::nn::functional::mse_loss(y, x.mm(truth)).backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  return (weight.detach().to(torch::kFloat) - truth).square().mean().item<double>();
}

TEST(AdamWLayouts, TrainAboutAsWellAsFp32) {
  const int threads = torch::get_num_threads();
  torch::set_num_threads(1);  // small tensors
  const double reference = trained_loss({torch::kFloat, {}});
  ASSERT_LT(reference, 0.01);  // from 1
  for (const Layout& layout : layouts()) {
    if (layout.dtype == torch::kBFloat16 && layout.options.master == MasterWeights::kNone &&
        !layout.options.stochastic_rounding)
      continue;  // the one that is known to stall
    EXPECT_LT(trained_loss(layout), 1.5 * reference + 2e-4) << text(layout);
  }
  torch::set_num_threads(threads);
}

}  // namespace
}  // namespace halftone::adamw_layouts_test
