// SPDX-License-Identifier: Apache-2.0
// The model that emoji_painter.cpp trains: a diffusion transformer (Peebles and Xie 2023) that
// paints what a caption says. It learns by flow matching (Lipman et al. 2023): a picture x and
// noise e are mixed to z = t x + (1 - t) e, and the model guesses x from z, t and the caption (Li
// and He 2025). To paint, one begins with noise and follows dz/dt = (x - z) / (1 - t).
#pragma once

#include <halftone/kernels/linear/compute_context.h>
#include <halftone/kernels/linear/weight_cache.h>
#include <halftone/nn/embedding.h>
#include <halftone/nn/feed_forward.h>
#include <halftone/nn/linear.h>
#include <halftone/nn/multi_head_attention.h>
#include <halftone/nn/new_parameter.h>
#include <halftone/nn/rms_norm.h>
#include <halftone/nn/timestep_embedding.h>
#include <halftone/optim/adamw.h>
#include <halftone/train/training_module.h>
#include <torch/nn/modules/container/modulelist.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "painter_data.h"

struct PainterOptions {
  std::int64_t side = 64;  // pixels
  std::int64_t patch = 8;  // pixels of a side of a token
  std::int64_t width = 256;
  std::int64_t depth = 6;
  double lr = 1e-3;
  std::int64_t warmup = 0;  // steps
  std::string tokenizer;    // tokenizer.json
};

struct PaintOptions {
  std::int64_t steps = 30;
  double guidance = 3.0;  // 1: as the caption says; above: more of what the caption changes
  std::uint64_t seed = 1;
};

/// Attention, a look at `context` where there is one, and a feed-forward layer.
struct PainterBlockImpl : torch::nn::Module {
  PainterBlockImpl(std::int64_t width, bool has_context)
      : norm(register_module("norm", halftone::RmsNorm(width, 1e-6))),
        attention(register_module("attention", attention_of(width))),
        ffn_norm(register_module("ffn_norm", halftone::RmsNorm(width, 1e-6))),
        ffn(register_module("ffn", halftone::FeedForward(width, width * 8 / 3 / 64 * 64, 0.0))) {
    if (!has_context) return;
    look_norm = register_module("look_norm", halftone::RmsNorm(width, 1e-6));
    look = register_module("look", attention_of(width));
    shifts = register_parameter("shifts", halftone::new_parameter({6, width}).zero_());
  }

  static halftone::MultiHeadAttention attention_of(std::int64_t width) {
    return halftone::MultiHeadAttention(halftone::MultiHeadAttentionOptions{
        .dim = width, .n_heads = width / 64 + (width % 64 != 0), .has_qk_norm = true});
  }

  /// Of a text: x (B, T, width), of which `lengths` count.
  torch::Tensor forward(torch::Tensor x, const torch::Tensor& lengths) {
    x = x + attention(norm(x), torch::Tensor(), lengths);
    return x + ffn(ffn_norm(x));
  }
  /// Of a picture: each branch is scaled and shifted by `condition` (B, 6, width).
  torch::Tensor forward(torch::Tensor x, const torch::Tensor& condition, const torch::Tensor& text,
                        const torch::Tensor& lengths) {
    const auto m = (condition + shifts).unsqueeze(2).unbind(1);  // each (B, 1, width)
    x = torch::addcmul(x, attention->forward(torch::addcmul(m[0], norm(x), 1 + m[1])), 1 + m[2]);
    x = x + look(look_norm(x), text, lengths);
    return torch::addcmul(x, ffn(torch::addcmul(m[3], ffn_norm(x), 1 + m[4])), 1 + m[5]);
  }

  halftone::RmsNorm norm;
  halftone::MultiHeadAttention attention;
  halftone::RmsNorm ffn_norm;
  halftone::FeedForward ffn;
  halftone::RmsNorm look_norm{nullptr};
  halftone::MultiHeadAttention look{nullptr};
  torch::Tensor shifts;
};
TORCH_MODULE(PainterBlock);

/// The tokens of captions, and one vector for each of them all.
struct Text {
  torch::Tensor tokens;   // (B, T, width)
  torch::Tensor lengths;  // (B) int64
  torch::Tensor mean;     // (B, width)

  /// These, and `other`, which has one row, for each of them once more.
  Text and_each(const Text& other) const {
    const std::int64_t more = tokens.size(1) - other.tokens.size(1);
    const torch::Tensor padded = torch::constant_pad_nd(other.tokens, {0, 0, 0, more});
    return {torch::cat({tokens, padded.expand_as(tokens)}),
            torch::cat({lengths, other.lengths.expand_as(lengths)}),
            torch::cat({mean, other.mean.expand_as(mean)})};
  }
};

class Painter : public halftone::TrainingModule<PainterBatch, torch::Tensor> {
 public:
  static constexpr std::int64_t kLongestCaption = 32;  // tokens

  explicit Painter(const PainterOptions& the_options)
      : options(the_options),
        tokenizer(caption_tokens(options.tokenizer)),
        tokens_(register_module("tokens",
                                halftone::Embedding(tokenizer.vocab_size(), options.width, false))),
        order_(parameter("order", kLongestCaption)),
        read_norm_(register_module("read_norm", halftone::RmsNorm(options.width, 1e-6))),
        time_(register_module("time", halftone::TimestepEmbedding(options.width))),
        shifts_(register_module("shifts", halftone::Linear(options.width, 6 * options.width))),
        patches_(register_module("patches", halftone::Linear(numbers(), options.width, true))),
        places_(parameter("places", across() * across())),
        norm_(register_module("norm", halftone::RmsNorm(options.width, 1e-6))),
        pixels_(register_module("pixels", halftone::Linear(options.width, numbers(), true))) {
    for (int i = 0; i < 2; ++i) readers_->push_back(PainterBlock(options.width, false));
    for (int i = 0; i < options.depth; ++i) painters_->push_back(PainterBlock(options.width, true));
    register_module("readers", readers_);
    register_module("painters", painters_);
    const torch::NoGradGuard no_grad;
    shifts_->weight.zero_();  // at first no picture is scaled or shifted
    pixels_->weight.zero_();
    save_hyper_parameters({{"side", options.side},
                           {"patch", options.patch},
                           {"width", options.width},
                           {"depth", options.depth},
                           {"tokenizer", options.tokenizer}});
  }

  Text read(const torch::Tensor& ids, const torch::Tensor& lengths) {
    torch::Tensor x = tokens_(ids) + order_.narrow(0, 0, ids.size(1));
    for (const auto& block : *readers_) x = block->as<PainterBlock>()->forward(x, lengths);
    x = read_norm_(x);
    const torch::Tensor counts =
        torch::arange(ids.size(1), lengths.options()) < lengths.unsqueeze(1);
    return {x, lengths, (x * counts.unsqueeze(2)).sum(1) / lengths.unsqueeze(1)};
  }

  /// The guess of x, fp32 (B, 3, side, side), from z of that shape and t (B).
  torch::Tensor guess(const torch::Tensor& z, const torch::Tensor& t, const Text& text) {
    const std::int64_t patch = options.patch;
    torch::Tensor x = (z / noise()).view({-1, 3, across(), patch, across(), patch});
    x = x.permute({0, 2, 4, 1, 3, 5}).reshape({z.size(0), -1, numbers()});
    x = patches_(x.to(places_.scalar_type())) + places_;
    const torch::Tensor condition =
        shifts_(torch::silu(time_(t * 1000) + text.mean)).unflatten(1, {6, -1});
    for (const auto& block : *painters_)
      x = block->as<PainterBlock>()->forward(x, condition, text.tokens, text.lengths);
    x = pixels_(norm_(x)).to(torch::kFloat).view({-1, across(), across(), 3, patch, patch});
    return x.permute({0, 3, 1, 4, 2, 5}).reshape(z.sizes());
  }

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const std::int64_t count = batch.pictures.size(0);
    const auto fp32 = batch.pictures.options().dtype(torch::kFloat);
    return loss_of(batch, time_of(torch::randn({count}, fp32)),
                   torch::randn(batch.pictures.sizes(), fp32));
  }

  // The same times, quantiles of those above, and the same noise in each validation.
  void validation_step(const Batch& batch, std::int64_t index) override {
    const std::int64_t count = batch.pictures.size(0);
    const torch::Tensor share = (torch::arange(count, torch::kFloat) + 0.5) / count;
    torch::Generator random = halftone::SampleSeed{static_cast<std::uint64_t>(index)}.generator();
    const torch::Tensor noise = torch::randn(batch.pictures.sizes(), random);
    const torch::Tensor normal = torch::erfinv(2 * share - 1) * std::sqrt(2.0);
    log("val_loss",
        loss_of(batch, time_of(normal.to(batch.ids.device())), noise.to(batch.ids.device())));
  }

  torch::Tensor predict_step(const Batch& batch, std::int64_t /*index*/) override {
    return paint(batch.ids, batch.lengths);
  }

  /// Pictures (B, 3, side, side) fp32 in 0..1. Each has noise of its own, which `how.seed` and its
  /// row fix.
  torch::Tensor paint(const torch::Tensor& ids, const torch::Tensor& lengths) {
    // Weights are brought into the precision's format once, not in each step.
    halftone::ComputeContext context = halftone::compute_context();
    context.weight_cache = std::make_shared<halftone::WeightCache>();
    const halftone::ComputeScope scope(context);

    const std::int64_t count = ids.size(0);
    const Captions nothing = encode_captions(tokenizer, {""}, kLongestCaption);
    const Text text =
        read(ids, lengths)
            .and_each(read(nothing.ids.to(ids.device()), nothing.lengths.to(ids.device())));
    torch::Tensor z = noise_of(count).to(ids.device());
    for (std::int64_t i = 0; i < how.steps; ++i) {
      // Small steps at first, where it is decided what the picture shows.
      const auto time = [&](std::int64_t step) {
        return std::pow(static_cast<double>(step) / static_cast<double>(how.steps), 2);
      };
      const torch::Tensor times = torch::full({2 * count}, time(i), z.options());
      const auto guesses = guess(torch::cat({z, z}), times, text).chunk(2);
      const torch::Tensor x = torch::lerp(guesses[1], guesses[0], how.guidance);
      z = torch::lerp(z, x, (time(i + 1) - time(i)) / (1 - time(i)));
    }
    return z.clamp(-1, 1).add(1).div(2);
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {{std::make_shared<halftone::AdamW>(
                 named_parameters().pairs(),
                 context.adamw({.lr = options.lr, .beta2 = 0.95, .weight_decay = 0.0})),
             halftone::LrScheduleOptions{.kind = halftone::Schedule::kCosine,
                                         .warmup = static_cast<double>(options.warmup)}}};
  }

  const PainterOptions options;
  const halftone::Tokenizer tokenizer;
  PaintOptions how;

 private:
  std::int64_t across() const { return options.side / options.patch; }
  std::int64_t numbers() const { return 3 * options.patch * options.patch; }
  // The mean of a square of pixels has the noise of one pixel in a smaller picture: at the same t
  // as much is to be seen in each size.
  double noise() const { return static_cast<double>(options.side) / 64.0; }

  torch::Tensor& parameter(const std::string& name, std::int64_t rows) {
    return register_parameter(name,
                              halftone::new_parameter({rows, options.width}).normal_(0, 0.02));
  }

  torch::Tensor noise_of(std::int64_t count) const {
    std::vector<torch::Tensor> rows;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<std::uint64_t>(i);
      torch::Generator random = halftone::SampleSeed{how.seed + row}.generator();
      rows.push_back(torch::randn({3, options.side, options.side}, random));
    }
    return noise() * torch::stack(rows);
  }

  // Logit-normal, most often small: there the caption alone tells what will become of the noise.
  static torch::Tensor time_of(const torch::Tensor& normal) {
    return torch::sigmoid(1.2 * normal - 2);
  }

  // The error of the direction dz/dt.
  torch::Tensor loss_of(const Batch& batch, const torch::Tensor& t, const torch::Tensor& noises) {
    const torch::Tensor x = batch.pictures.to(torch::kFloat) / 127.5 - 1;
    const torch::Tensor at = t.view({-1, 1, 1, 1});
    const torch::Tensor z = torch::lerp(noise() * noises, x, at);
    const torch::Tensor error = guess(z, t, read(batch.ids, batch.lengths)) - x;
    return (error / (1 - at).clamp_min(0.05)).square().mean();
  }

  halftone::Embedding tokens_;
  torch::Tensor order_;
  torch::nn::ModuleList readers_;
  halftone::RmsNorm read_norm_;
  halftone::TimestepEmbedding time_;
  halftone::Linear shifts_;
  halftone::Linear patches_;
  torch::Tensor places_;
  torch::nn::ModuleList painters_;
  halftone::RmsNorm norm_;
  halftone::Linear pixels_;
};
