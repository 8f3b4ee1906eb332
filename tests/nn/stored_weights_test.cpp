// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/stored_weights.h"

#include <gtest/gtest.h>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/embedding.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/rms_norm.h"

namespace halftone::stored_weights_test {
namespace {

using torch::Tensor;

/// An embedding that is also the head, two layers and a norm.
struct SmallImpl : torch::nn::Module {
  SmallImpl() {
    register_module("table", table);
    register_module("first", first);
    register_module("second", second);
    register_module("norm", norm);
  }
  Tensor hidden(const Tensor& ids) {
    const Tensor both = merged_linear(table(ids), {first->weight, second->weight});
    return norm->add(both, {}).normed.narrow(-1, 0, 20);
  }
  Tensor logits(const Tensor& ids) { return table->logits(hidden(ids)); }

  Embedding table{Embedding(30, 20)};
  Linear first{Linear(20, 17)};
  Linear second{Linear(20, 15)};
  RmsNorm norm{RmsNorm(32, 1e-5)};
};
TORCH_MODULE(Small);

Small small() {
  torch::manual_seed(3);
  return Small();
}

ComputeContext context_with(std::shared_ptr<const StoredWeights> stored) {
  ComputeContext context = compute_context();
  context.stored_weights = std::move(stored);
  return context;
}

/// What the format keeps of a matrix.
Tensor kept(const Tensor& weight, WeightStorage storage) {
  if (storage == WeightStorage::kBFloat16) return weight.to(torch::kBFloat16).to(torch::kFloat);
  if (storage == WeightStorage::kFloat16) return weight.to(torch::kHalf).to(torch::kFloat);
  if (storage == WeightStorage::kFloat32) return weight;
  const Tensor scale = weight.abs().amax(1, /*keepdim=*/true) / 127.0F;
  return (weight / scale).round() * scale;
}

class EveryStorage : public testing::TestWithParam<WeightStorage> {};
INSTANTIATE_TEST_SUITE_P(StoredWeights, EveryStorage,
                         testing::Values(WeightStorage::kBFloat16, WeightStorage::kFloat16,
                                         WeightStorage::kInt8));

TEST_P(EveryStorage, ComputesWithWhatTheFormatKeeps) {
  const torch::NoGradGuard no_grad;
  for (const std::int64_t rows : {1, 3, 40}) {
    Small model = small(), rounded = small();
    for (Tensor& parameter : rounded->parameters())
      if (parameter.dim() == 2) parameter.copy_(kept(parameter, GetParam()));
    const Tensor ids = torch::arange(rows).remainder(30).unsqueeze(0);
    const Tensor expected = rounded->logits(ids);
    const std::uint64_t before = parameter_bytes(*model);
    const ComputeScope scope(context_with(store_weights(*model, GetParam())));
    const Tensor logits = model->logits(ids);
    EXPECT_EQ(logits.scalar_type(), torch::kFloat);
    // int8 rounds what goes into each layer, too: by half of 1/127 of its largest.
    const double allowed = GetParam() == WeightStorage::kInt8 ? 0.03 : 1e-5;
    EXPECT_LE((logits - expected).norm().item<double>(), allowed * expected.norm().item<double>());
    EXPECT_GT((logits - expected).norm().item<double>(), -1.0);
    EXPECT_LT(parameter_bytes(*model), before * 6 / 10 + 32 * 64);
    EXPECT_EQ(model->norm->weight.scalar_type(), torch::kFloat);
    EXPECT_FALSE(model->first->weight.requires_grad());
    EXPECT_EQ(model->first->weight.sizes(), (std::vector<std::int64_t>{17, 20}));
  }
}

TEST_P(EveryStorage, RowsOfTheEmbeddingAreExact) {
  const torch::NoGradGuard no_grad;
  Small model = small();
  const Tensor expected = kept(model->table->weight.detach().clone(), GetParam());
  const ComputeScope scope(context_with(store_weights(*model, GetParam())));
  const Tensor ids = torch::tensor({{3, 29, 0}, {3, 3, 1}});
  const Tensor rows = model->table(ids);
  EXPECT_EQ(rows.sizes(), (std::vector<std::int64_t>{2, 3, 20}));
  EXPECT_TRUE(rows.allclose(expected.index({ids}), 0, 1e-7));
  EXPECT_THROW(model->table(torch::tensor({{30}})), c10::Error);
}

TEST_P(EveryStorage, GivesTheLossOfItsLogits) {
  const torch::NoGradGuard no_grad;
  Small model = small();
  const ComputeScope scope(context_with(store_weights(*model, GetParam())));
  const Tensor ids = torch::arange(90).remainder(30).view({3, 30});
  const Tensor targets = ids.roll(1, 1), mask = torch::ones_like(ids).slice(1, 0, 30);
  mask[0][5] = 0;
  const Tensor loss = model->table->loss(model->hidden(ids), targets, mask);
  const Tensor each = -model->logits(ids)
                           .to(torch::kDouble)
                           .log_softmax(-1)
                           .gather(-1, targets.unsqueeze(-1))
                           .squeeze(-1);
  EXPECT_NEAR(loss.item<double>(), ((each * mask).sum() / mask.sum()).item<double>(), 1e-5);
}

TEST(StoredWeights, InTheDtypeOfAutocastAreRoundedOnce) {
  const torch::NoGradGuard no_grad;
  Small model = small();
  const Tensor x = torch::randn({2, 20});
  Tensor expected;
  {
    const Autocast region(torch::kCPU, torch::kBFloat16, true);
    expected = halftone::linear(x, model->first->weight);
  }
  const ComputeScope scope(context_with(store_weights(*model, WeightStorage::kBFloat16)));
  const Autocast region(torch::kCPU, torch::kBFloat16, true);
  const Tensor y = halftone::linear(x, model->first->weight);
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(y.equal(expected));
}

TEST(StoredWeights, RefuseAWeightThatOverflowsByName) {
  const torch::NoGradGuard no_grad;
  Small model = small();
  model->second->weight[3][4] = 1e5;
  try {
    store_weights(*model, WeightStorage::kFloat16);
    ADD_FAILURE() << "expected an error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("'second.weight': expected weights up to 65504"),
              std::string::npos)
        << error.what();
  }
}

TEST(StoredWeights, AreKnownByTheirTensorAlone) {
  const torch::NoGradGuard no_grad;
  Small model = small();
  const auto stored = store_weights(*model, WeightStorage::kInt8);
  EXPECT_TRUE(stored->holds(model->first->weight));
  EXPECT_FALSE(stored->holds(model->first->weight.clone()));
  EXPECT_FALSE(stored->holds(model->norm->weight));
  EXPECT_FALSE(stored->holds(Tensor()));
  // Without its context an int8 weight is no weight.
  EXPECT_THROW(halftone::linear(torch::zeros({1, 20}), model->first->weight), c10::Error);
}

TEST(StoredWeights, HaveNamesThatAreReadBack) {
  for (const WeightStorage storage : {WeightStorage::kFloat32, WeightStorage::kBFloat16,
                                      WeightStorage::kFloat16, WeightStorage::kInt8})
    EXPECT_EQ(parse_weight_storage(to_string(storage)), storage);
  EXPECT_THROW(parse_weight_storage("int4"), UserError);
}

}  // namespace
}  // namespace halftone::stored_weights_test
