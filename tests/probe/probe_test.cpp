// SPDX-License-Identifier: Apache-2.0
#include "halftone/probe/probe.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/sgd.h>

#include <functional>
#include <limits>
#include <thread>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/inspect/non_finite_finder.h"
#include "support/temp_folder.h"

namespace halftone::probe_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Block : torch::nn::Module {
  Block() {
    torch::manual_seed(3);
    first = register_module("first", torch::nn::Linear(8, 8));
    second = register_module("second", torch::nn::Linear(8, 4));
  }
  Tensor forward(const Tensor& x) { return second(torch::relu(first(x))); }
  torch::nn::Linear first{nullptr}, second{nullptr};
};

Tensor input() { return torch::linspace(-1, 1, 40).reshape({5, 8}); }

ProbeOptions all_of_every_step(const test::TempFolder& folder) {
  return {.first_nonfinite = true,
          .census = true,
          .underflow = true,
          .compare = true,
          .folder = folder / "out",
          .every = 1};
}

ProbeReport watched(const std::function<void()>& program,
                    const torch::nn::Module* module = nullptr) {
  const test::TempFolder folder;
  ProbeOptions options = all_of_every_step(folder);
  options.module = module;
  start_probe(options);
  try {
    program();
  } catch (...) {
    stop_probe();
    throw;
  }
  return stop_probe();
}

void train(Block& block, const std::function<Tensor()>& loss, int steps = 2) {
  torch::optim::SGD optimizer(block.parameters(), torch::optim::SGDOptions(0.1));
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    loss().backward();
    optimizer.step();
  }
}

TEST(Probe, FindsNothingInAHealthyProgram) {
  Block block;
  const ProbeReport report = watched([&] {
    train(
        block, [&] { return block.forward(input()).sum(); }, 3);
  });
  EXPECT_FALSE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.run.steps, 3);
  EXPECT_EQ(report.run.searched_steps, 3);
  EXPECT_EQ(report.census.at("aten::addmm").at("fp32"), 6);
  EXPECT_EQ(report.census.at("aten::relu").at("fp32"), 3);
  EXPECT_TRUE(report.underflow.empty());  // all of it is fp32
  EXPECT_TRUE(report.comparisons.empty());
}

TEST(Probe, NamesTheOperationOfTheForwardPass) {
  Block block;
  const ProbeReport report = watched(
      [&] { train(block, [&] { return (block.forward(input()) * 1e3).exp().square().sum(); }); },
      &block);
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.first_nonfinite->operation, "aten::exp");
  EXPECT_FALSE(report.first_nonfinite->is_backward);
  EXPECT_EQ(report.first_nonfinite->kind, "overflow");
  EXPECT_EQ(report.first_nonfinite->step, 1);
  EXPECT_EQ(report.first_nonfinite->call, 1);
  ASSERT_EQ(report.first_nonfinite->inputs.size(), 1);
  EXPECT_EQ(report.first_nonfinite->inputs[0].dtype, "fp32");
  EXPECT_EQ(report.first_nonfinite->inputs[0].shape, (std::vector<std::int64_t>{5, 4}));
  EXPECT_EQ(report.first_nonfinite->inputs[0].non_finite, 0);
}

TEST(Probe, NamesTheStepOfTheBackwardPassAndItsModule) {
  Block block;
  const ProbeReport report = watched(
      [&] {
        train(block, [&] {
          const Tensor h = block.first(input());
          return block.second((h - h.detach()).abs().sqrt()).sum();
        });
      },
      &block);
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_TRUE(report.first_nonfinite->is_backward);
  EXPECT_EQ(report.first_nonfinite->operation, "aten::div");
  EXPECT_EQ(report.first_nonfinite->autograd_node, "SqrtBackward0");
  EXPECT_EQ(report.first_nonfinite->forward, "aten::sqrt");
  EXPECT_EQ(report.first_nonfinite->kind, "division by zero");
}

TEST(Probe, TellsDataFromWeights) {
  Block block;
  Tensor data = input();
  data[1][2] = kNan;
  const ProbeReport bad_data =
      watched([&] { train(block, [&] { return block.forward(data).sum(); }); }, &block);
  ASSERT_TRUE(bad_data.first_nonfinite.has_value());
  EXPECT_EQ(bad_data.first_nonfinite->kind, "input");
  EXPECT_EQ(bad_data.first_nonfinite->operation, "aten::addmm");
  EXPECT_EQ(bad_data.first_nonfinite->module, "first");

  Block other;
  {
    const torch::NoGradGuard no_grad;
    other.second->weight[0][0] = kInf;
  }
  const ProbeReport bad_weights =
      watched([&] { train(other, [&] { return other.forward(input()).sum(); }); }, &other);
  ASSERT_TRUE(bad_weights.first_nonfinite.has_value());
  EXPECT_EQ(bad_weights.first_nonfinite->kind, "weights");
  EXPECT_EQ(bad_weights.first_nonfinite->module, "second");
  EXPECT_THAT(bad_weights.first_nonfinite->parameters, testing::Contains("second.weight"));
  EXPECT_THAT(bad_weights.first_nonfinite->reason, HasSubstr("1 of 32 values of 'second.weight'"));
}

TEST(Probe, TellsWeightsThatGoBadWhileItWatches) {
  Block block;
  const ProbeReport report = watched([&] {
    train(block, [&] { return block.forward(input()).sum(); });
    {
      const torch::NoGradGuard no_grad;
      block.second->weight.fill_(kNan);  // as a damaged file would
    }
    train(block, [&] { return block.forward(input()).sum(); });
  });
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.first_nonfinite->kind, "weights");
  EXPECT_EQ(report.first_nonfinite->step, 3);
}

TEST(Probe, NamesTheUpdateThatMakesWeightsBad) {
  Block block;
  const ProbeReport report = watched([&] {
    train(
        block, [&] { return block.forward(input()).sum(); }, 1);
    const torch::NoGradGuard no_grad;
    block.first->weight.div_(torch::zeros({}));
  });  // and the program ends
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.first_nonfinite->operation, "aten::div_");
  EXPECT_EQ(report.first_nonfinite->kind, "division by zero");
}

TEST(Probe, TakesMasksForWhatTheyAre) {
  Block block;
  const Tensor hidden = torch::ones({5, 5}, torch::kBool).triu(1);
  const auto attention = [&](const Tensor& mask) {
    const Tensor h = block.first(input());
    return block.second(torch::matmul(torch::softmax(torch::matmul(h, h.t()) + mask, -1), h)).sum();
  };
  const ProbeReport report = watched([&] {
    const Tensor added = torch::zeros({5, 5}).masked_fill(hidden, -kInf);
    train(block, [&] { return attention(added); });
    train(block, [&] { return attention(torch::full({5, 5}, -kInf).triu(1)); });
    train(block, [&] {
      const Tensor h = block.first(input()).unsqueeze(0).unsqueeze(0);
      return at::scaled_dot_product_attention(h, h, h, added).sum();
    });
    train(block, [&] {
      const Tensor scores = block.forward(input()).masked_fill(hidden.slice(1, 0, 4), -kInf);
      return torch::log_softmax(scores.slice(0, 3), -1).sum() +
             torch::log_softmax(scores.masked_fill(scores.isneginf(), -1e30), -1).mean();
    });
    Tensor best = torch::full({}, kInf);
    best = torch::minimum(best, block.forward(input()).sum().detach());
    EXPECT_LT(best.item<double>(), kInf);
  });
  EXPECT_FALSE(report.first_nonfinite.has_value())
      << report.first_nonfinite->operation << " " << report.first_nonfinite->kind;
}

TEST(Probe, FindsARowThatIsMaskedThroughout) {
  Block block;
  const ProbeReport report = watched([&] {
    train(block, [&] {
      const Tensor mask = torch::zeros({5, 4}).index_fill(0, torch::tensor({2}), -kInf);
      return torch::softmax(block.forward(input()) + mask, -1).square().sum();
    });
  });
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_THAT(report.first_nonfinite->operation, HasSubstr("softmax"));
}

TEST(Probe, LeavesUninitialisedMemoryAlone) {
  Block block;
  const ProbeReport report = watched([&] {
    train(block, [&] {
      Tensor fresh = torch::empty({5, 8});
      for (std::int64_t i = 0; i < fresh.numel(); ++i)  // what the system may give
        fresh.data_ptr<float>()[i] = static_cast<float>(kNan);
      fresh.uniform_(-1, 1);
      Tensor filled = torch::empty_like(fresh);
      torch::add_out(filled, fresh, input());
      return block.forward(filled.relu_()).sum();
    });
  });
  EXPECT_FALSE(report.first_nonfinite.has_value());
}

/// One step of a GradScaler, which halves its scale where gradients overflow.
void scaled_step(Block& block, torch::optim::SGD& optimizer, Tensor& scale) {
  optimizer.zero_grad();
  Tensor loss;
  {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    loss = block.forward(input()).to(torch::kFloat).sum();
  }
  (loss * scale).backward();
  const torch::NoGradGuard no_grad;
  Tensor found = torch::zeros({1});
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : block.parameters()) gradients.push_back(parameter.grad());
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found, scale.reciprocal());
  if (found.item<float>() == 0)
    optimizer.step();
  else
    scale.mul_(0.5);
}

TEST(Probe, ReportsTheScalersOverflowsApart) {
  Block block;
  const ProbeReport report = watched([&] {
    torch::optim::SGD optimizer(block.parameters(), torch::optim::SGDOptions(0.1));
    Tensor scale = torch::full({}, 262144.0F);
    for (int step = 0; step < 10; ++step) scaled_step(block, optimizer, scale);
    EXPECT_LT(scale.item<double>(), 65536.0);
  });
  EXPECT_FALSE(report.first_nonfinite.has_value());
  EXPECT_GE(report.scaled_overflow.steps, 2);
  EXPECT_LT(report.scaled_overflow.steps, 10);
}

TEST(Probe, FindsAScaleThatIsTooLargeAndThatNobodyChecks) {
  Block block;
  const ProbeReport report = watched([&] {
    train(block, [&] {
      const Autocast autocast(torch::kCPU, torch::kHalf);
      return block.forward(input()).to(torch::kFloat).sum() * 1e6;
    });
  });
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_TRUE(report.first_nonfinite->is_backward);
  EXPECT_EQ(report.first_nonfinite->kind, "overflow");
  EXPECT_EQ(report.first_nonfinite->operation, "aten::_to_copy");
}

TEST(Probe, FindsTheLossThatAProgramReadsAndGivesUp) {
  Block block;
  const ProbeReport report = watched([&] {
    const Tensor loss = torch::log(block.forward(input()).abs().sum() * 0);
    if (!std::isfinite(loss.item<double>())) return;
    loss.backward();
  });
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.first_nonfinite->operation, "aten::log");
  EXPECT_EQ(report.first_nonfinite->kind, "log of zero");
}

TEST(Probe, FindsNanInTheResultsOfAProgramWithoutBackwardPass) {
  Block block;
  const ProbeReport report = watched([&] {
    const torch::NoGradGuard no_grad;
    const Tensor x = block.forward(input()).to(torch::kHalf) * 60000;
    const Tensor result = x * 1000 - x * 1000;
    EXPECT_TRUE(result.defined());
  });
  ASSERT_TRUE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.first_nonfinite->operation, "aten::mul");
  EXPECT_EQ(report.first_nonfinite->kind, "overflow");
}

TEST(Probe, ComparesWithFp32) {
  torch::manual_seed(2);
  const Tensor a = torch::randn({40, 50}).to(torch::kBFloat16);
  const Tensor b = torch::randn({50, 30}).to(torch::kBFloat16);
  Tensor product;
  const ProbeReport report = watched([&] {
    product = at::mm(a, b);
    product.clone().mul_(1.1);
    a.to(torch::kFloat).mul(1e-9).to(torch::kHalf);
  });
  const auto entry_of = [&](const std::string& operation, const std::string& dtype) {
    for (const auto& entry : report.comparisons)
      if (entry.operation == operation && entry.dtype == dtype) return entry;
    ADD_FAILURE() << operation;
    return ProbeReport::Comparison();
  };
  const Tensor exact = at::mm(a.to(torch::kDouble), b.to(torch::kDouble));
  const double error = ((product.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
  EXPECT_NEAR(entry_of("aten::mm", "bf16").relative_error, error, 1e-5);
  EXPECT_NEAR(entry_of("aten::mm", "bf16").cosine, 1.0, 1e-4);
  EXPECT_EQ(entry_of("aten::mm", "bf16").calls, 1);
  EXPECT_NEAR(entry_of("aten::mul_", "bf16").relative_error, 0.0017, 0.001);  // rounded once
  ASSERT_FALSE(report.underflow.empty());
  EXPECT_EQ(report.underflow[0].operation, "aten::_to_copy");  // the largest share
  EXPECT_EQ(report.underflow[0].dtype, "fp16");
  EXPECT_GT(report.underflow[0].flushed_share, 0.99);
}

TEST(Probe, ChangesNoBit) {
  const auto run = [] {
    Block block;
    torch::manual_seed(5);
    const torch::Tensor mean = torch::zeros(8), variance = torch::ones(8);
    torch::optim::SGD optimizer(block.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      const Autocast autocast(torch::kCPU, torch::kBFloat16);
      const Tensor x = torch::randn({6, 8}).to(torch::kBFloat16);
      const Tensor normed = std::get<0>(at::native_batch_norm(
          x, {}, {}, mean, variance, /*training=*/true, /*momentum=*/0.1, /*eps=*/1e-5));
      block.forward(torch::dropout(normed, 0.5, true).to(torch::kFloat)).sum().backward();
      optimizer.step();
    }
    std::vector<Tensor> values = block.parameters();
    values.insert(values.end(), {mean, variance, torch::rand({3})});
    return values;
  };
  const std::vector<Tensor> alone = run();
  std::vector<Tensor> beside;
  watched([&] { beside = run(); });
  ASSERT_EQ(alone.size(), beside.size());
  for (std::size_t i = 0; i < alone.size(); ++i) EXPECT_TRUE(alone[i].equal(beside[i])) << i;
}

// The threads of a kernel call operations themselves, while the probe holds the lock.
TEST(Probe, DoesNotWaitForThreadsOfItsOwnShadow) {
  const int threads = at::get_num_threads();
  at::set_num_threads(4);
  const ProbeReport report = watched([] {
    for (int i = 0; i < 3; ++i) {
      const Tensor q = torch::randn({4, 8, 128, 64}).to(torch::kBFloat16).set_requires_grad(true);
      at::scaled_dot_product_attention(q, q, q, {}, 0.0, /*is_causal=*/true).sum().backward();
    }
  });
  at::set_num_threads(threads);
  EXPECT_FALSE(report.first_nonfinite.has_value());
  EXPECT_FALSE(report.comparisons.empty());
}

TEST(Probe, WatchesManyThreads) {
  const ProbeReport report = watched([] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([] {
        Block block;
        for (int step = 0; step < 10; ++step) block.forward(input()).sum().backward();
      });
    for (std::thread& thread : threads) thread.join();
  });
  EXPECT_FALSE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.census.at("aten::relu").at("fp32"), 40);
}

TEST(Probe, LetsASearchOfOneStepGoFirst) {
  Block block;
  const ProbeReport report = watched([&] {
    train(block, [&] { return block.forward(input()).sum(); });
    const auto origin =
        find_first_non_finite(block, [&] { return block.forward(input() * kInf).sum(); });
    EXPECT_TRUE(origin.has_value());
    train(block, [&] { return block.forward(input()).sum(); });
  });
  EXPECT_FALSE(report.first_nonfinite.has_value());
  EXPECT_EQ(report.census.at("aten::relu").at("fp32"), 4);
}

TEST(Probe, WritesItsFindAtOnce) {
  const test::TempFolder folder;
  Block block;
  start_probe(all_of_every_step(folder));
  train(
      block, [&] { return torch::log(block.forward(input()) * 0).sum(); }, 1);
  EXPECT_THAT(test::read_text(folder / "out/probe.json"), HasSubstr("\"log of zero\""));
  EXPECT_THAT(test::read_text(folder / "out/probe.html"), HasSubstr("log of zero"));
  stop_probe();
}

TEST(Probe, RefusesMisuse) {
  const test::TempFolder folder;
  EXPECT_THROW(stop_probe(), c10::Error);
  start_probe(all_of_every_step(folder));
  EXPECT_THROW(start_probe(all_of_every_step(folder)), c10::Error);
  stop_probe();
  test::write_text(folder / "file", "");
  ProbeOptions options = all_of_every_step(folder);
  options.folder = folder / "file/below";
  EXPECT_THROW(start_probe(options), UserError);
  EXPECT_THROW(stop_probe(), c10::Error);
}

TEST(ProbeOptions, ReadsTheEnvironment) {
  const auto read = [](const char* modes, const char* every, const char* rank) {
    const auto set = [](const char* name, const char* value) {
      value == nullptr ? ::unsetenv(name) : ::setenv(name, value, 1);
    };
    set("HALFTONE_PROBE", modes);
    set("HALFTONE_PROBE_EVERY", every);
    set("RANK", rank);
    return probe_options_from_environment();
  };
  EXPECT_FALSE(read(nullptr, nullptr, nullptr).has_value());
  EXPECT_FALSE(read("", nullptr, nullptr).has_value());
  const auto one = read("first-nonfinite", nullptr, "0");
  ASSERT_TRUE(one.has_value());
  EXPECT_TRUE(one->first_nonfinite && !one->census && !one->underflow && !one->compare);
  EXPECT_EQ(one->folder, "halftone-probe");
  EXPECT_FALSE(one->every.has_value());
  const auto three = read("census,underflow,compare", "100", "2");
  EXPECT_TRUE(!three->first_nonfinite && three->census && three->underflow && three->compare);
  EXPECT_EQ(three->folder, "halftone-probe/rank-2");
  EXPECT_EQ(three->every, 100);
  EXPECT_EQ(read("census", "auto", nullptr)->every, 0);
  EXPECT_THAT(test::message_of<UserError>([&] { read("census,nans", nullptr, nullptr); }),
              HasSubstr("first-nonfinite, census, underflow, compare, or several of them with "
                        "commas between, got 'nans'"));
  EXPECT_THAT(test::message_of<UserError>([&] { read("census", "often", nullptr); }),
              HasSubstr("expected a number of steps, such as 100, or auto, got 'often'"));
  read(nullptr, nullptr, nullptr);
}

}  // namespace
}  // namespace halftone::probe_test
