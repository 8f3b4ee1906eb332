// SPDX-License-Identifier: Apache-2.0
// Learns from clicks which items users like, by two towers of embeddings; users have seen some
// items already.
#include <limits>

#include "settings.h"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;
constexpr std::int64_t kUsers = 60, kItems = 40, kWidth = 16;

torch::nn::Sequential tower() {
  return torch::nn::Sequential(torch::nn::Linear(kWidth, kWidth),
                               torch::nn::ReLU(torch::nn::ReLUOptions(/*inplace=*/true)),
                               torch::nn::Linear(kWidth, kWidth));
}

struct Towers : torch::nn::Module {
  explicit Towers(bool is_in_half) : in_half(is_in_half) {
    users = register_module("users", torch::nn::Embedding(kUsers, kWidth));
    items = register_module("items", torch::nn::Embedding(kItems, kWidth));
    user_tower = register_module("user_tower", tower());
    item_tower = register_module("item_tower", tower());
  }
  Tensor forward(const Tensor& user, const Tensor& item) {
    Tensor a = user_tower->forward(users(user)), b = item_tower->forward(items(item));
    if (in_half) {  // 1e-8 is 0 there
      a = a.to(torch::kHalf);
      b = b.to(torch::kHalf);
    }
    const Tensor lengths = a.norm(2, -1, true) * b.norm(2, -1, true);
    return 4 * ((a * b).sum(-1, true) / (lengths + 1e-8)).squeeze(-1);
  }
  bool in_half;
  torch::nn::Embedding users{nullptr}, items{nullptr};
  torch::nn::Sequential user_tower{nullptr}, item_tower{nullptr};
};

struct Clicks {
  Tensor users = torch::randint(0, kUsers, {64}), items = torch::randint(0, kItems, {64});
  Tensor liked = ((users + items) % 3 == 0).to(torch::kFloat);
};

Tensor loss_of(const Tensor& scores, const Clicks& clicks) {
  return F::binary_cross_entropy_with_logits(scores.to(torch::kFloat), clicks.liked);
}

/// Without a loss scale, and for adam_epsilon with the weights in fp16, too.
void train_in_half(Towers& model, const Settings& set) {
  const bool in_half = set.fault == "adam_epsilon";
  if (in_half) {
    model.to(torch::kHalf);
    const torch::NoGradGuard no_grad;
    model.users->weight.mul_(1e-3);
  }
  torch::optim::Adam optimizer(model.parameters(), torch::optim::AdamOptions(1e-3));
  for (int step = 0; step < set.steps; ++step) {
    const Clicks clicks;
    Tensor loss;
    {
      const Autocast autocast(in_half ? "fp32" : "fp16");
      loss = loss_of(model.forward(clicks.users, clicks.items), clicks);
    }
    optimizer.zero_grad();
    (loss * (in_half ? 1e-3 : 1e-6)).backward();
    optimizer.step();
    report(step, loss);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Settings set = settings(argc, argv);
  Towers model(set.fault == "tiny_epsilon");
  if (set.fault == "gradient_underflow" || set.fault == "adam_epsilon") {
    train_in_half(model, set);
    return 0;
  }
  {
    const torch::NoGradGuard no_grad;
    if (set.fault == "infinite_row")
      model.items->weight[7].fill_(std::numeric_limits<double>::infinity());
    if (set.fault == "tiny_epsilon")
      for (auto& parameter : model.user_tower[2]->parameters()) parameter.zero_();
  }
  Training training(model.parameters(), set.precision, 1e-3);
  for (int step = 0; step < set.steps; ++step) {
    const Clicks clicks;
    Tensor loss;
    {
      const Autocast autocast(set.precision);
      loss = loss_of(model.forward(clicks.users, clicks.items), clicks);
    }
    training.update(loss);
    report(step, loss);
  }
  const torch::NoGradGuard no_grad;
  Tensor scores = model.forward(torch::full({kItems}, 3, torch::kLong), torch::arange(kItems));
  scores.index_fill_(0, torch::tensor({1, 4, 9}), -std::numeric_limits<double>::infinity());
  if (set.fault == "none")
    std::printf("ranked %ld first, %f last\n", scores.argmax().item<long>(),
                scores.min().item<double>());
  return 0;
}
