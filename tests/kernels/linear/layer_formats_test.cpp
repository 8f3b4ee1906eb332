// SPDX-License-Identifier: Apache-2.0
// Layers with a format of their own against the same matmuls written by hand: each in the regions
// of its own format, with its tensors converted on the way in and out.
#include "halftone/kernels/linear/layer_formats.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "halftone/kernels/linear/weight_cache.h"
#include "halftone/nn/recompute.h"
#include "support/compute_contexts.h"
#include "support/reference_scope.h"

namespace halftone::layer_formats_test {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;
using Formats = std::vector<std::optional<ComputeType>>;  // of each weight; nothing: the recipe's

constexpr std::uint64_t kSeed = 11;

/// The regions of a precision of fp32 weights.
struct Region {
  explicit Region(ComputeType type, std::shared_ptr<const LayerFormats> formats = nullptr)
      : autocast(torch::kCPU, tensor_dtype(type), is_half(tensor_dtype(type))),
        compute(context(type, std::move(formats))) {}

  static ComputeContext context(ComputeType type, std::shared_ptr<const LayerFormats> formats) {
    ComputeContext made = test::computing_in(type, kSeed, 1);
    made.layer_formats = std::move(formats);
    return made;
  }

  Autocast autocast;
  ComputeScope compute;
};

std::shared_ptr<const LayerFormats> formats_of(const Tensors& weights, const Formats& formats) {
  auto made = std::make_shared<LayerFormats>();
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (formats[i]) made->set(weights[i], *formats[i]);
  return made;
}

struct Problem {
  Problem() {
    torch::manual_seed(3);
    x = torch::randn({4, 6, 40}).requires_grad_();
    for (const std::int64_t rows : {16, 24, 8})
      weights.push_back((0.2 * torch::randn({rows, 40})).requires_grad_());
    g = torch::randn({4, 6, 48});
  }
  /// y, and the gradients of x and the weights.
  Tensors results(const std::function<Tensor()>& compute) const {
    const Tensor y = compute();
    Tensors all = torch::autograd::grad({y}, inputs(), {g.narrow(-1, 0, y.size(-1)).to(y.dtype())},
                                        /*retain_graph=*/{}, /*create_graph=*/false,
                                        /*allow_unused=*/true);
    all.insert(all.begin(), y);
    return all;
  }
  Tensors inputs() const {
    Tensors all{x};
    all.insert(all.end(), weights.begin(), weights.end());
    return all;
  }

  Tensor x, g;
  Tensors weights;
};

void expect_equal(const Tensors& a, const Tensors& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].defined(), b[i].defined()) << what << ", tensor " << i;
    if (!a[i].defined()) continue;
    EXPECT_EQ(a[i].dtype(), b[i].dtype()) << what << ", tensor " << i;
    EXPECT_TRUE(a[i].equal(b[i])) << what << ", tensor " << i;
  }
}

/// linear(x, weight) in `type` alone, its tensors brought to and from the dtype between layers.
Tensor by_hand(const Tensor& x, const Tensor& weight, ComputeType type, ComputeType recipe,
               const RoundingStreams& streams) {
  const torch::ScalarType own = tensor_dtype(type), between = tensor_dtype(recipe);
  Tensor y;
  {
    const Autocast autocast(torch::kCPU, own, is_half(own));
    ComputeContext context = compute_context_in(type);
    context.layer_formats.reset();
    context.streams = streams;
    const ComputeScope scope(context);
    y = halftone::linear(is_half(own) ? x : x.to(torch::kFloat), weight);
  }
  return type == ComputeType::kFloat32 ? y : y.to(between);
}

const std::vector<ComputeType> kRecipes{ComputeType::kBFloat16, ComputeType::kFloat16,
                                        ComputeType::kInt8, ComputeType::kFloat8Rows,
                                        ComputeType::kFloat8};

std::string pair_name(ComputeType layer, ComputeType recipe) {
  return std::string(to_string(layer)) + " among " + std::string(to_string(recipe));
}

TEST(LayerFormats, StandAmongTensorsOfTheirOwnDtypeOrFp32) {
  using enum ComputeType;
  const auto among = [](ComputeType recipe) {
    std::vector<ComputeType> able;
    for (const ComputeType type : compute_types())
      if (can_stand_among(type, recipe)) able.push_back(type);
    return able;
  };
  EXPECT_EQ(among(kBFloat16), (std::vector{kFloat32, kBFloat16, kInt8, kFloat8Rows, kFloat8}));
  EXPECT_EQ(among(kFloat8), (std::vector{kFloat32, kBFloat16, kInt8, kFloat8Rows, kFloat8}));
  EXPECT_EQ(among(kFloat16), (std::vector{kFloat32, kFloat16, kInt8}));
  EXPECT_EQ(among(kInt8), (std::vector{kFloat32, kBFloat16, kInt8, kFloat8Rows, kFloat8}));
}

TEST(LayerFormats, GiveTheBitsOfTheRegionsOfTheirOwnFormat) {
  const Problem problem;
  const Tensor& weight = problem.weights.front();
  for (const ComputeType recipe : kRecipes)
    for (const ComputeType type : compute_types()) {
      if (!can_stand_among(type, recipe)) continue;
      const Tensors own = problem.results([&] {
        const Region region(recipe, formats_of({weight}, {type}));
        return halftone::linear(problem.x, weight);
      });
      const Tensors expected = problem.results(
          [&] { return by_hand(problem.x, weight, type, recipe, RoundingStreams(kSeed, 1)); });
      expect_equal(own, expected, pair_name(type, recipe));
    }
}

TEST(LayerFormats, TakeRoundedInputsToo) {
  const Problem problem;
  const Tensor x = problem.x.detach().to(torch::kBFloat16).requires_grad_();
  const Tensor& weight = problem.weights.front();
  const auto results = [&](const std::function<Tensor()>& compute) {
    const Tensor y = compute();
    Tensors all =
        torch::autograd::grad({y}, {x, weight}, {problem.g.narrow(-1, 0, 16).to(y.dtype())});
    all.push_back(y);
    return all;
  };
  for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kInt8, ComputeType::kFloat8}) {
    const Tensors own = results([&] {
      const Region region(ComputeType::kBFloat16, formats_of({weight}, {type}));
      return halftone::linear(x, weight);
    });
    const Tensors expected = results([&] {
      return by_hand(x, weight, type, ComputeType::kBFloat16, RoundingStreams(kSeed, 1));
    });
    expect_equal(own, expected, std::string(to_string(type)));
  }
}

TEST(LayerFormats, ChangeNoBitWhereTheyAreTheRecipes) {
  const Problem problem;
  for (const ComputeType recipe : kRecipes) {
    const auto results = [&](const std::shared_ptr<const LayerFormats>& formats) {
      return problem.results([&] {
        const Region region(recipe, formats);
        return merged_linear(problem.x, problem.weights);
      });
    };
    expect_equal(results(formats_of(problem.weights, Formats(3, recipe))), results(nullptr),
                 std::string(to_string(recipe)));
    expect_equal(results(std::make_shared<LayerFormats>()), results(nullptr), "none is named");
  }
}

TEST(LayerFormats, ShareAMatmulAmongThoseOfOneFormat) {
  const Problem problem;
  const Tensor &a = problem.weights[0], &b = problem.weights[1], &c = problem.weights[2];
  const ComputeType recipe = ComputeType::kBFloat16;
  const Tensors own = problem.results([&] {
    const Region region(recipe,
                        formats_of(problem.weights, {ComputeType::kInt8, {}, ComputeType::kInt8}));
    return merged_linear(problem.x, problem.weights);
  });
  const Tensors expected = problem.results([&] {
    Tensor quantized, rounded;
    {
      const Region region(recipe, formats_of({a, c}, {ComputeType::kInt8, ComputeType::kInt8}));
      quantized = merged_linear(problem.x, {a, c});
    }
    {
      const Region region(recipe);
      rounded = halftone::linear(problem.x, b);
    }
    return torch::cat({quantized.narrow(-1, 0, 16), rounded, quantized.narrow(-1, 16, 8)}, -1);
  });
  expect_equal(own, expected, "int8, bf16, int8");
}

TEST(LayerFormats, MakeTheResultFp32WhereFp32MeetsOthers) {
  const Problem problem;
  const Tensor exact = problem.x.detach().matmul(problem.weights[0].detach().t());
  const Region region(ComputeType::kBFloat16,
                      formats_of(problem.weights, {ComputeType::kFloat32, {}, {}}));
  const Tensor y = merged_linear(problem.x, problem.weights);
  EXPECT_EQ(y.scalar_type(), torch::kFloat);
  EXPECT_LT((y.narrow(-1, 0, 16) - exact).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(input_dtype(problem.x, problem.weights), torch::kFloat);
  EXPECT_EQ(input_dtype(problem.x, {problem.weights[1]}), torch::kBFloat16);
}

TEST(LayerFormats, WithoutTheMergedMatmulAreComputedOneByOne) {
  const Problem problem;
  const test::ReferenceScope one_by_one("merged_linear");
  const Tensors own = problem.results([&] {
    const Region region(ComputeType::kBFloat16,
                        formats_of(problem.weights, {{}, ComputeType::kInt8, {}}));
    return merged_linear(problem.x, problem.weights);
  });
  const Tensors expected = problem.results([&] {
    Tensors parts;
    for (std::size_t i = 0; i < 3; ++i)
      parts.push_back(by_hand(problem.x, problem.weights[i],
                              i == 1 ? ComputeType::kInt8 : ComputeType::kBFloat16,
                              ComputeType::kBFloat16, RoundingStreams(kSeed, 1)));
    return torch::cat(parts, -1);
  });
  expect_equal(own, expected, "one by one");
}

TEST(LayerFormats, GiveWayToAMarkThatKeepsFp32) {
  const Problem problem;
  const Tensor& weight = problem.weights.front();
  mark_keep_fp32(weight);
  for (const ComputeType recipe : {ComputeType::kBFloat16, ComputeType::kInt8}) {
    const auto results = [&](const std::shared_ptr<const LayerFormats>& formats) {
      return problem.results([&] {
        const Region region(recipe, formats);
        return halftone::linear(problem.x, weight);
      });
    };
    expect_equal(results(formats_of({weight}, {ComputeType::kFloat8})), results(nullptr), "kept");
  }
  unmark_keep_fp32(weight);
}

TEST(LayerFormats, HoldForViewsOfTheWeightAndForNoOther) {
  const Tensor weight = torch::randn({8, 40});
  LayerFormats formats;
  EXPECT_EQ(formats.of(weight), std::nullopt);
  formats.set(weight, ComputeType::kInt8);
  EXPECT_EQ(formats.of(weight.narrow(0, 0, 4)), ComputeType::kInt8);
  EXPECT_EQ(formats.of(weight.clone()), std::nullopt);
  weight.set_data(weight.to(torch::kBFloat16));
  EXPECT_EQ(formats.of(weight), ComputeType::kInt8) << "the parameter is still the same";
  formats.set(weight, ComputeType::kFloat8);
  EXPECT_EQ(formats.of(weight), ComputeType::kFloat8);
  EXPECT_EQ(layer_format(weight), std::nullopt) << "in force in a context only";
  formats.set(torch::ones({2, 2}), ComputeType::kInt8);  // freed at once
  for (int i = 0; i < 100; ++i) EXPECT_EQ(formats.of(torch::empty({2, 2})), std::nullopt);
}

TEST(LayerFormats, GoIntoTheBackwardPassOfWhatIsComputedAgain) {
  const Problem problem;
  for (const ComputeType type : {ComputeType::kInt8, ComputeType::kFloat8, ComputeType::kFloat32}) {
    const auto results = [&](bool again) {
      return problem.results([&] {
        const Region region(ComputeType::kBFloat16, formats_of({problem.weights[1]}, {type}));
        const auto block = [&](const Tensors& in) {
          return Tensors{merged_linear(in[0], problem.weights)};
        };
        return again ? recompute(block, {problem.x}, problem.weights).front()
                     : block({problem.x}).front();
      });
    };
    expect_equal(results(true), results(false), std::string(to_string(type)));
  }
}

TEST(LayerFormats, KeepTheirWeightsInTheCacheAndAddGradientsInPlace) {
  const Problem problem;
  const auto gradients = [&](bool fused, bool cache) {
    Tensors weights;
    for (const Tensor& weight : problem.weights) {
      weights.push_back(weight.detach().clone().requires_grad_());
      weights.back().mutable_grad() = torch::ones_like(weight);
    }
    std::optional<ComputeScope> caching;
    caching.emplace(test::caching_weights(cache));
    for (int pass = 0; pass < 2; ++pass) {
      Tensor y;
      {
        const Region region(ComputeType::kBFloat16,
                            formats_of(weights, {ComputeType::kInt8, {}, ComputeType::kInt8}));
        ComputeContext context = compute_context();
        context.fused_grad_accumulation = fused;
        const ComputeScope scope(context);
        y = merged_linear(problem.x.detach(), weights);
      }
      y.backward(problem.g.to(y.dtype()));
    }
    Tensors grads;
    for (const Tensor& weight : weights) grads.push_back(weight.grad());
    return grads;
  };
  const Tensors plain = gradients(false, false);
  expect_equal(gradients(false, true), plain, "cached");
  const Tensors fused = gradients(true, true);
  for (std::size_t i = 0; i < plain.size(); ++i)
    EXPECT_TRUE(torch::allclose(fused[i], plain[i], 1e-5, 1e-5)) << i;
}

TEST(LayerFormats, AddInt8GradientsToGradientsOf16Bits) {
  const Problem problem;
  const auto gradient = [&](bool fused) {
    const Tensor weight = problem.weights[0].detach().to(torch::kBFloat16).requires_grad_();
    weight.mutable_grad() = torch::zeros_like(weight);
    Tensor y;
    {
      const Region region(ComputeType::kBFloat16, formats_of({weight}, {ComputeType::kInt8}));
      ComputeContext context = compute_context();
      context.fused_grad_accumulation = fused;
      const ComputeScope scope(context);
      y = halftone::linear(problem.x.detach(), weight);
    }
    y.backward(problem.g.narrow(-1, 0, 16).to(y.dtype()));
    return weight.grad();
  };
  EXPECT_EQ(gradient(true).scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(gradient(true).equal(gradient(false)));
}

// ---- the output head

struct Head {
  Head() {
    torch::manual_seed(5);
    hidden = torch::randn({40, 32}).requires_grad_();
    weight = (0.3 * torch::randn({50, 32})).requires_grad_();
    targets = torch::randint(50, {40});
    mask = torch::ones({40});
  }
  Tensors results(const std::function<Tensor()>& compute) const {
    const Tensor loss = compute();
    Tensors all = torch::autograd::grad({loss}, {hidden, weight});
    all.push_back(loss);
    return all;
  }
  Tensor hidden, weight, targets, mask;
};

TEST(LayerFormats, OfAHeadGiveTheLossOfTheRegionsOfThatFormat) {
  const Head head;
  const auto loss = [&] {
    return linear_cross_entropy(head.hidden, head.weight, head.targets, head.mask, 16);
  };
  for (const ComputeType recipe : {ComputeType::kBFloat16, ComputeType::kInt8})
    for (const ComputeType type :
         {ComputeType::kFloat32, ComputeType::kBFloat16, ComputeType::kInt8}) {
      const Tensors own = head.results([&] {
        const Region region(recipe, formats_of({head.weight}, {type}));
        return loss();
      });
      const Tensors expected = head.results([&] {
        const Region region(type);
        return loss();
      });
      expect_equal(own, expected, pair_name(type, recipe));
    }
}

TEST(LayerFormats, OfAHeadAreThoseOfItsLogits) {
  const Head head;
  for (const ComputeType type :
       {ComputeType::kFloat32, ComputeType::kBFloat16, ComputeType::kInt8, ComputeType::kFloat8}) {
    const torch::NoGradGuard no_grad;
    const Region region(ComputeType::kBFloat16, formats_of({head.weight}, {type}));
    const Tensor logits = lm_head_logits(head.hidden, head.weight);
    EXPECT_EQ(logits.scalar_type(), tensor_dtype(type));
    const double whole = masked_mean_cross_entropy(logits, head.targets, head.mask).item<double>();
    const double in_chunks =
        linear_cross_entropy(head.hidden, head.weight, head.targets, head.mask).item<double>();
    EXPECT_NEAR(in_chunks, whole, 2e-6 * std::abs(whole)) << to_string(type);
  }
}

}  // namespace
}  // namespace halftone::layer_formats_test
