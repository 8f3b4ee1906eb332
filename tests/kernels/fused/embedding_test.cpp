// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/embedding.h"

#include <ATen/ops/embedding.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "support/instruction_sets.h"
#include "support/message_of.h"
#include "support/on_devices.h"

namespace halftone::embedding_test {
namespace {

using torch::Tensor;

/// Few ids are frequent, many never come, as in text.
Tensor text_ids(std::vector<std::int64_t> shape, std::int64_t classes) {
  return (torch::rand(shape).pow(4) * static_cast<double>(classes)).to(torch::kLong);
}

/// The rows of each id in fp64.
Tensor sums(const Tensor& gradient, const Tensor& ids, std::int64_t classes) {
  const Tensor rows = gradient.to(torch::kDouble).reshape({-1, gradient.size(-1)});
  return torch::zeros({classes, gradient.size(-1)}, rows.options())
      .index_add(0, ids.reshape({-1}).to(torch::kLong), rows);
}

void expect_sums(const Tensor& gradient, const Tensor& ids, std::int64_t classes) {
  const Tensor made = embedding_gradient(gradient, ids, classes);
  EXPECT_EQ(made.scalar_type(), gradient.scalar_type());
  // fp32 sums, rounded once: however many rows there are.
  const double relative = gradient.scalar_type() == torch::kFloat  ? 1e-6
                          : gradient.scalar_type() == torch::kHalf ? 0x1p-11
                                                                   : 0x1p-8;
  EXPECT_TRUE(made.to(torch::kDouble).allclose(sums(gradient, ids, classes), relative, 3e-5))
      << gradient.sizes() << " " << gradient.scalar_type();
}

using EmbeddingOn = test::OnDevices;
HALFTONE_ON_DEVICES(EmbeddingOn);

TEST_P(EmbeddingOn, GradientSumsTheRowsOfEachId) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf})
    for (const std::int64_t dim : {1, 3, 16, 63, 64, 65, 200})
      for (const std::int64_t count : {0, 1, 7, 500})
        for (const std::int64_t classes : {1, 5, 301})
          expect_sums(here(torch::randn({count, dim}).to(dtype)), here(text_ids({count}, classes)),
                      classes);
}

TEST(Embedding, GradientIsTheReferenceOnEveryInstructionSet) {
  torch::manual_seed(2);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const Tensor gradient = torch::randn({3, 41, 77}).to(dtype);
    const Tensor ids = text_ids({3, 41}, 19);
    const Tensor reference = embedding_gradient_reference(gradient, ids, 19);
    int tried = 0;
    test::for_each_instruction_set([&] {
      EXPECT_TRUE(embedding_gradient(gradient, ids, 19).allclose(reference, 1e-2, 1e-5));
      expect_sums(gradient, ids, 19);
      ++tried;
    });
    EXPECT_GE(tried, 1);
  }
}

TEST(Embedding, GradientTakesAnyLayout) {
  torch::manual_seed(3);
  const Tensor ids = text_ids({4, 9}, 11);
  const Tensor memory = torch::randn({1 + 4 * 9 * 33});
  const Tensor unaligned = memory.narrow(0, 1, 4 * 9 * 33).view({4, 9, 33});
  expect_sums(unaligned, ids, 11);
  expect_sums(unaligned.transpose(0, 1), ids.t(), 11);
  expect_sums(torch::ones({}).expand({4, 9, 33}), ids, 11);  // what sum() hands back
  expect_sums(unaligned, ids.to(torch::kInt), 11);
}

TEST(Embedding, GradientHasTheSameBitsForAnyNumberOfThreads) {
  torch::manual_seed(4);
  const Tensor gradient = torch::randn({900, 130});
  const Tensor ids = text_ids({900}, 2000);
  const int before = torch::get_num_threads();
  torch::set_num_threads(1);
  const Tensor one = embedding_gradient(gradient, ids, 2000);
  for (const int threads : {2, 3}) {
    torch::set_num_threads(threads);
    EXPECT_TRUE(embedding_gradient(gradient, ids, 2000).equal(one));
  }
  torch::set_num_threads(before);
}

TEST(Embedding, InfAndNanStayInTheirColumnAndRow) {
  Tensor gradient = torch::ones({5, 70});
  gradient[1][3] = std::numeric_limits<float>::infinity();
  gradient[4][69] = NAN;
  const Tensor made = embedding_gradient(gradient, torch::tensor({0, 2, 2, 0, 3}), 4);
  EXPECT_TRUE(made[2][3].isinf().item<bool>());
  EXPECT_TRUE(made[3][69].isnan().item<bool>());
  EXPECT_EQ(made.isfinite().logical_not().sum().item<std::int64_t>(), 2);
}

TEST_P(EmbeddingOn, LooksUpAndLearnsAsAtEmbedding) {
  torch::manual_seed(5);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf, torch::kDouble}) {
    const Tensor values = here(torch::randn({13, 6}).to(dtype));
    const Tensor ids = here(text_ids({2, 8}, 13));
    const Tensor factor = here(torch::randn({2, 8, 6}).to(dtype));
    const auto run = [&](const auto& lookup) {
      const Tensor weight = values.clone().requires_grad_();
      const Tensor y = lookup(weight, ids);
      (y * factor).sum().backward();
      return std::pair(y.detach(), weight.grad());
    };
    const auto [y, gradient] =
        run([](const Tensor& w, const Tensor& i) { return halftone::embedding(w, i); });
    const auto [expected, theirs] =
        run([](const Tensor& w, const Tensor& i) { return at::embedding(w, i); });
    EXPECT_TRUE(y.equal(expected));
    EXPECT_EQ(gradient.scalar_type(), dtype);
    EXPECT_TRUE(gradient.allclose(theirs, 5e-2, 5e-2));
    EXPECT_TRUE(halftone::embedding(values, ids).equal(expected));
  }
}

TEST_P(EmbeddingOn, CanBeDifferentiatedTwice) {
  const Tensor weight = here(torch::randn({5, 3})).requires_grad_();
  const Tensor y = halftone::embedding(weight, here(torch::tensor({1, 1, 4})));
  const Tensor first =
      torch::autograd::grad({y.pow(3).sum()}, {weight}, {}, true, /*create_graph=*/true).front();
  first.sum().backward();
  const Tensor times = here(torch::tensor({0., 2., 0., 0., 1.})).unsqueeze(1);
  const Tensor expected = 6 * weight.detach() * times;
  EXPECT_TRUE(weight.grad().allclose(expected, 1e-5, 1e-5));
}

TEST(Embedding, NamesAnIdOutside) {
  const Tensor weight = torch::zeros({4, 3});
  for (const std::int64_t bad : {-1, 4}) {
    const Tensor ids = torch::tensor({std::int64_t{0}, bad});
    EXPECT_NE(test::message_of<c10::Error>([&] {
                halftone::embedding(weight, ids);
              }).find("expected ids in 0 .. 3, got " + std::to_string(bad)),
              std::string::npos);
    EXPECT_THROW(embedding_gradient(torch::zeros({2, 3}), ids, 4), c10::Error);
  }
  EXPECT_THROW(halftone::embedding(weight, torch::zeros({2})), c10::Error);
  EXPECT_THROW(embedding_gradient(torch::zeros({2, 3}), torch::zeros({3}, torch::kLong), 4),
               c10::Error);
}

}  // namespace
}  // namespace halftone::embedding_test
