// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/module_scope.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/models/causal_lm.h"

namespace halftone::recorder_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using torch::Tensor;

/// The sites of the program's own calls, and of those of autograd's steps.
class SiteList : public Recorder {
 public:
  using Recorder::Recorder;

  std::vector<Site> sites;

  std::vector<Site> of(const std::string& operation, bool is_backward = false) const {
    std::vector<Site> found;
    std::copy_if(sites.begin(), sites.end(), std::back_inserter(found), [&](const Site& site) {
      return site.operation == operation && site.is_backward == is_backward;
    });
    return found;
  }

 protected:
  void on_begin(const OperationCall& call, const OpenCall& open) override {
    if (!call.is_backward && is_outermost()) sites.push_back(site_of(call, open));
  }
  void on_end(const OperationCall& /*call*/, const OpenCall& /*open*/) override {}
};

struct Block : torch::nn::Module {
  Block() {
    in = register_module("in", torch::nn::Linear(4, 4));
    out = register_module("out", torch::nn::Linear(4, 4));
  }
  Tensor forward(const Tensor& x) {
    const ModuleScope scope(*this);
    return out(in(x).relu());
  }
  torch::nn::Linear in{nullptr}, out{nullptr};
};

struct Net : torch::nn::Module {
  Net() {
    first = register_module("first", std::make_shared<Block>());
    second = register_module("second", std::make_shared<Block>());
  }
  Tensor forward(const Tensor& x) {
    const ModuleScope scope(*this);
    return second->forward(first->forward(x).exp()).sum();
  }
  std::shared_ptr<Block> first, second;
};

template <class Module, class Step>
std::shared_ptr<SiteList> sites_of(const Module& module, const Step& step) {
  auto list = std::make_shared<SiteList>(module);
  const Observation observation(list);
  step();
  return list;
}

std::vector<std::string> modules_of(const std::vector<Site>& sites) {
  std::vector<std::string> modules;
  for (const Site& site : sites) modules.push_back(site.module);
  return modules;
}

TEST(Recorder, NamesTheModuleByItsParametersElseByItsScope) {
  Net net;
  const Tensor x = torch::ones({2, 4});
  const auto list = sites_of(net, [&] { net.forward(x); });
  EXPECT_THAT(modules_of(list->of("aten::addmm")),
              ElementsAre("first.in", "first.out", "second.in", "second.out"));
  EXPECT_THAT(modules_of(list->of("aten::relu")), ElementsAre("first", "second"));
  EXPECT_THAT(modules_of(list->of("aten::exp")), ElementsAre(""));
  const Site relu = list->of("aten::relu").front();
  EXPECT_FALSE(relu.reads_parameter);
  EXPECT_THAT(relu.parameters, ElementsAre("first.in.bias"));
  EXPECT_EQ(innermost_module_scope(), nullptr);
}

TEST(Recorder, ABackwardStepBelongsToTheModuleOfItsForwardOperation) {
  Net net;
  const Tensor x = torch::ones({2, 4});
  const auto list = sites_of(net, [&] { net.forward(x).backward(); });
  const std::vector<Site> steps = list->of("aten::threshold_backward", /*is_backward=*/true);
  EXPECT_THAT(modules_of(steps), ElementsAre("second", "first"));
  EXPECT_EQ(steps.front().forward, "aten::relu");
  EXPECT_EQ(steps.front().node, "ReluBackward0");
  EXPECT_THAT(list->of("aten::relu", /*is_backward=*/true), IsEmpty());
}

TEST(Recorder, KnowsOurModulesAndMergedWeights) {
  torch::manual_seed(1);
  CausalLM model(ModelConfig{.dim = 32,
                             .n_layers = 2,
                             .n_heads = 2,
                             .n_kv_heads = 2,
                             .vocab_size = 64,
                             .max_seq_len = 16,
                             .use_moe = true});
  const Tensor ids = torch::randint(64, {1, 8});
  const auto list = sites_of(*model, [&] { model->forward(ids).logits.sum().backward(); });
  const auto linears = modules_of(list->of("halftone::linear"));
  EXPECT_EQ(linears.at(0), "layers.0.attention");
  EXPECT_EQ(linears.at(1), "layers.0.attention.wo");
  EXPECT_EQ(linears.at(2), "layers.0.feed_forward.experts.0");
  EXPECT_EQ(linears.at(3), "layers.0.feed_forward.experts.0.w2");
  EXPECT_EQ(list->of("aten::topk").front().module, "layers.0.feed_forward.gate");
  EXPECT_EQ(list->of("halftone::rotary_attention").back().module, "layers.1.attention");
  EXPECT_THAT(list->of("halftone::linear").front().parameters,
              ElementsAre("layers.0.attention.wq.weight", "layers.0.attention.wk.weight",
                          "layers.0.attention.wv.weight"));
}

TEST(Recorder, OfAProgramOfUnknownModulesNamesOperations) {
  Net net;
  auto list = std::make_shared<SiteList>();
  {
    const Observation observation(list);
    net.forward(torch::ones({2, 4})).backward();
  }
  EXPECT_EQ(list->of("aten::addmm").size(), 4U);
  EXPECT_EQ(list->of("aten::addmm").front().module, "");
  EXPECT_EQ(list->of("aten::threshold_backward", true).front().forward, "aten::relu");
}

TEST(ModuleScope, EndsWithAnException) {
  Net net;
  EXPECT_THROW(net.forward(torch::ones({2, 5})), c10::Error);
  EXPECT_EQ(innermost_module_scope(), nullptr);
}

}  // namespace
}  // namespace halftone::recorder_test
