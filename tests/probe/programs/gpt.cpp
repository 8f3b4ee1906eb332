// SPDX-License-Identifier: Apache-2.0
// A small decoder-only language model on letters, with padding, that writes some letters in the
// end.
#include <cmath>
#include <limits>

#include "settings.h"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;
constexpr std::int64_t kLetters = 32, kWidth = 32, kHeads = 4, kLength = 24;
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Block : torch::nn::Module {
  Block(std::string its_fault, bool uses_own) : fault(std::move(its_fault)), own(uses_own) {
    first = register_module("first", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    second = register_module("second", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    qkv = register_module("qkv", torch::nn::Linear(kWidth, 3 * kWidth));
    out = register_module("out", torch::nn::Linear(kWidth, kWidth));
    up = register_module("up", torch::nn::Linear(kWidth, 4 * kWidth));
    down = register_module("down", torch::nn::Linear(4 * kWidth, kWidth));
  }

  Tensor shares(const Tensor& q, const Tensor& k, const Tensor& hidden) const {
    Tensor scores = torch::matmul(q, k.transpose(-2, -1));
    if (fault != "score_overflow") scores = scores / std::sqrt(kWidth / kHeads);
    if (fault == "zero_times_inf")
      return torch::softmax(scores + hidden.to(scores.dtype()) * -kInf, -1);
    if (fault == "naive_softmax") {
      const Tensor powers = torch::exp(scores.to(torch::kHalf) * 8).masked_fill(hidden, 0);
      return (powers / powers.sum(-1, true)).to(scores.dtype());
    }
    return torch::softmax(scores.masked_fill(hidden, -kInf), -1);
  }

  Tensor attend(const Tensor& x, const Tensor& hidden) {
    const auto batch = x.size(0), length = x.size(1);
    const Tensor parts =
        qkv(x).view({batch, length, 3, kHeads, kWidth / kHeads}).permute({2, 0, 3, 1, 4});
    const Tensor q = parts[0], k = parts[1], v = parts[2];
    Tensor y;
    if (own) {
      y = torch::matmul(shares(q, k, hidden), v);
    } else {
      const Tensor mask = torch::zeros({length, length}, q.options()).masked_fill(hidden, -kInf);
      y = at::scaled_dot_product_attention(q, k, v, mask);
    }
    return out(y.transpose(1, 2).reshape({batch, length, kWidth}));
  }

  Tensor forward(Tensor x, const Tensor& hidden) {
    x = x + attend(first(x), hidden);
    return x + down(torch::gelu(up(second(x))));
  }

  std::string fault;
  bool own;
  torch::nn::LayerNorm first{nullptr}, second{nullptr};
  torch::nn::Linear qkv{nullptr}, out{nullptr}, up{nullptr}, down{nullptr};
};

struct Gpt : torch::nn::Module {
  Gpt(const std::string& fault, int seed) {
    tokens = register_module("tokens", torch::nn::Embedding(kLetters, kWidth));
    places = register_module("places", torch::nn::Embedding(kLength, kWidth));
    for (int i = 0; i < 2; ++i)
      blocks.push_back(register_module(
          "block" + std::to_string(i),
          std::make_shared<Block>(i == 1 ? fault : "",
                                  i == 1 && !fault.empty() ? true : seed % 2 == 0)));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    hidden = register_buffer("hidden", torch::ones({kLength, kLength}, torch::kBool).triu(1));
  }
  Tensor forward(const Tensor& letters) {
    const auto length = letters.size(1);
    Tensor x = tokens(letters) + places(torch::arange(length));
    for (const auto& block : blocks)
      x = block->forward(x, hidden.slice(0, 0, length).slice(1, 0, length));
    return torch::linear(norm(x), tokens->weight);  // tied
  }
  torch::nn::Embedding tokens{nullptr}, places{nullptr};
  std::vector<std::shared_ptr<Block>> blocks;
  torch::nn::LayerNorm norm{nullptr};
  Tensor hidden;
};

Tensor write(Gpt& model, int count) {
  const torch::NoGradGuard no_grad;
  Tensor letters = torch::ones({1, 1}, torch::kLong);
  for (int i = 0; i < count; ++i) {
    Tensor logits = model.forward(letters).select(1, -1) / 0.8;
    const Tensor least = std::get<0>(logits.topk(5)).select(1, -1).unsqueeze(1);
    logits.masked_fill_(logits < least, -kInf);
    letters = torch::cat({letters, torch::multinomial(torch::softmax(logits, -1), 1)}, 1);
  }
  return letters;
}

}  // namespace

int main(int argc, char** argv) {
  const Settings set = settings(argc, argv);
  const bool in_attention = set.fault != "none" && set.fault != "loss_scale";
  Gpt model(in_attention ? set.fault : "", set.seed);
  if (set.fault == "score_overflow" || set.fault == "naive_softmax") {
    const torch::NoGradGuard no_grad;
    model.blocks[1]
        ->qkv->weight.slice(0, 0, 2 * kWidth)
        .mul_(set.fault == "score_overflow" ? 500 : 8);
  }
  Training training(model.parameters(), set.precision, 1e-3);
  for (int step = 0; step < set.steps; ++step) {
    Tensor rows = torch::randint(1, kLetters, {4, kLength + 1});
    rows[1].slice(0, 15).zero_();
    Tensor loss;
    {
      const Autocast autocast(set.precision);
      const Tensor logits = model.forward(rows.slice(1, 0, kLength));
      loss = F::cross_entropy(logits.flatten(0, 1).to(torch::kFloat), rows.slice(1, 1).flatten(),
                              F::CrossEntropyFuncOptions().ignore_index(0));
    }
    if (set.fault == "loss_scale") {
      training.optimizer().zero_grad();
      (loss * 16777216.0).backward();
      const torch::NoGradGuard no_grad;
      for (const Tensor& parameter : training.parameters())
        parameter.mutable_grad().div_(16777216.0);
      training.optimizer().step();
    } else {
      training.update(loss);
    }
    report(step, loss);
  }
  if (set.fault == "none") std::printf("wrote %ld letters\n", write(model, 8).numel());
  return 0;
}
