// SPDX-License-Identifier: Apache-2.0
// The module that vision_transformer.cpp trains and serve.cpp uses: a small vision transformer
// (Dosovitskiy et al. 2021) for pictures of 28 by 28, which it sees as 16 patches of 7 by 7.
#pragma once

#include <halftone/nn/linear.h>
#include <halftone/nn/rms_norm.h>
#include <halftone/optim/adamw.h>
#include <halftone/train/training_module.h>
#include <torch/nn/functional/loss.h>

#include <cstdint>
#include <memory>
#include <vector>

constexpr std::int64_t kPatch = 7;
constexpr std::int64_t kPatches = 16;
constexpr std::int64_t kLabels = 10;

struct BlockImpl : torch::nn::Module {
  BlockImpl(std::int64_t width, std::int64_t the_heads)
      : heads(the_heads),
        attention_norm(register_module("attention_norm", halftone::RmsNorm(width, 1e-6))),
        qkv(register_module("qkv", halftone::Linear(width, 3 * width))),
        out(register_module("out", halftone::Linear(width, width))),
        mlp_norm(register_module("mlp_norm", halftone::RmsNorm(width, 1e-6))),
        up(register_module("up", halftone::Linear(width, 4 * width))),
        down(register_module("down", halftone::Linear(4 * width, width))) {}

  // The stream x stays fp32 in a mixed precision, since + promotes; the branches are narrow.
  torch::Tensor forward(torch::Tensor x) {
    x = x + attend(attention_norm(x));
    return x + down(torch::gelu(up(mlp_norm(x))));
  }

  torch::Tensor attend(const torch::Tensor& x) {
    // (batch, patches, 3 width) -> 3 of (batch, heads, patches, width / heads)
    const auto parts = qkv(x).unflatten(-1, {3, heads, -1}).permute({2, 0, 3, 1, 4}).unbind();
    const torch::Tensor seen = torch::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
    return out(seen.transpose(1, 2).flatten(2));
  }

  std::int64_t heads;
  halftone::RmsNorm attention_norm;
  halftone::Linear qkv;
  halftone::Linear out;
  halftone::RmsNorm mlp_norm;
  halftone::Linear up;
  halftone::Linear down;
};
TORCH_MODULE(Block);

struct VisionTransformer : halftone::TrainingModule<> {
  VisionTransformer(std::int64_t width, std::int64_t depth, std::int64_t heads,
                    std::int64_t the_warmup = 0)
      : warmup(the_warmup),
        patches(register_module("patches", halftone::Linear(kPatch * kPatch, width))),
        places(register_parameter("places", 0.02 * torch::randn({kPatches, width}))),
        norm(register_module("norm", halftone::RmsNorm(width, 1e-6))),
        head(register_module("head", halftone::Linear(width, kLabels))) {
    for (std::int64_t i = 0; i < depth; ++i) blocks->push_back(Block(width, heads));
    register_module("blocks", blocks);
    // What another program needs to build this module again; each checkpoint has it.
    save_hyper_parameters({{"width", width}, {"depth", depth}, {"heads", heads}});
  }

  /// (batch, 1, 28, 28) -> (batch, 10)
  torch::Tensor forward(const torch::Tensor& pictures) {
    const torch::Tensor tiles = pictures.unfold(2, kPatch, kPatch).unfold(3, kPatch, kPatch);
    torch::Tensor x = patches(tiles.flatten(4).flatten(1, 3)) + places;
    for (const auto& block : *blocks) x = block->as<Block>()->forward(x);
    return head(norm(x).mean(1));  // the mean over the patches stands for the picture
  }

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const torch::Tensor scores = forward(batch.data);
    log("train_accuracy", accuracy(scores, batch));
    return loss_of(scores, batch);
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    const torch::Tensor scores = forward(batch.data);
    log("val_loss", loss_of(scores, batch));
    log("val_accuracy", accuracy(scores, batch));
  }
  void test_step(const Batch& batch, std::int64_t /*index*/) override {
    log("test_accuracy", accuracy(forward(batch.data), batch));
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {{std::make_shared<halftone::AdamW>(named_parameters().pairs(),
                                               context.adamw({.lr = 2e-3, .weight_decay = 0.05})),
             halftone::LrScheduleOptions{.kind = halftone::Schedule::kCosine,
                                         .warmup = static_cast<double>(warmup)}}};
  }

  // fp32, also in a true 16-bit precision, where no autocast would see to it.
  static torch::Tensor loss_of(const torch::Tensor& scores, const Batch& batch) {
    return torch::nn::functional::cross_entropy(scores.to(torch::kFloat), batch.target);
  }
  static torch::Tensor accuracy(const torch::Tensor& scores, const Batch& batch) {
    return scores.argmax(1).eq(batch.target).to(torch::kDouble).mean();
  }

  std::int64_t warmup;
  halftone::Linear patches;
  torch::Tensor places;
  torch::nn::ModuleList blocks;
  halftone::RmsNorm norm;
  halftone::Linear head;
};
