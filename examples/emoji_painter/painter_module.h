// SPDX-License-Identifier: Apache-2.0
// The model that emoji_painter.cpp trains: a diffusion transformer (Peebles and Xie 2023) that
// paints what a caption says. It learns by flow matching (Lipman et al. 2023): a picture x and
// normal noise e are mixed to z = t x + (1 - t) s e, where s = side / 64, and the model predicts x
// from z, t and the caption (Li and He 2025). To paint, one begins with noise and follows dz/dt =
// (x - z) / (1 - t).
#pragma once

#include <halftone/halftone.h>

#include <cstdint>
#include <string>
#include <vector>

#include "painter_data.h"

struct PainterOptions {
  std::int64_t side = 64;
  std::int64_t patch = 8;
  std::int64_t width = 256;
  std::int64_t depth = 6;
  std::int64_t limit = 0;
  std::string tokenizer;    // tokenizer.json
  double lr = 1e-3;         // this and the next only train
  std::int64_t warmup = 0;  // steps

  void fields(auto each) {
    each("side", side, "Pixels of a picture's side");
    each("patch", patch, "Pixels of a patch's side");
    each("width", width, "Of the transformer, a multiple of 64");
    each("depth", depth, "Blocks of the painter");
    each("limit", limit, "Emoji to learn from; 0: all but those held out");
    each("tokenizer", tokenizer);
  }

  /// Throws UserError for sizes that do not fit together.
  void check() const {
    if (side < 16 || side > 1024 || side % patch != 0 || width % 64 != 0)
      throw halftone::UserError(
          c10::str("expected a --side of 16 to 1024 that is a multiple of --patch and a --width "
                   "that is one of 64, got ",
                   side, ", ", patch, " and ", width));
  }
};

struct PaintOptions {
  std::int64_t steps = 30;
  double guidance = 3.0;
  std::uint64_t seed = 1;

  void fields(auto each) {
    each("steps", steps, "From noise to picture");
    each("guidance", guidance, "How much the words weigh; 1: as they were learned");
    each("seed", seed, "Of the noise");
  }
};

/// The tokens of captions, and one vector for each of them all.
struct EncodedText {
  torch::Tensor tokens;   // (B, T, width)
  torch::Tensor lengths;  // (B) int64
  torch::Tensor mean;     // (B, width)
};

class Painter : public halftone::TrainingModule<PainterBatch, torch::Tensor> {
 public:
  using Options = PainterOptions;

  const PainterOptions options;
  const halftone::Tokenizer tokenizer;
  PaintOptions paint_options;

  explicit Painter(const Options& the_options)
      : options(the_options), tokenizer(caption_tokens(options.tokenizer)) {
    for (int i = 0; i < options.depth; ++i)
      picture_blocks_->push_back(halftone::DiffusionBlock(halftone::DiffusionBlockOptions{
          .dim = options.width, .n_heads = options.width / 64, .hidden_dim = hidden_dim()}));
    register_module("picture_blocks", picture_blocks_);
    const torch::NoGradGuard no_grad;
    modulation_->weight.zero_();
    to_pixels_->weight.zero_();
    save_hyper_parameters(halftone::hyper_parameters_of(options));
  }

  EncodedText encode(const torch::Tensor& ids, const torch::Tensor& lengths) {
    const torch::Tensor x = token_embedding_(ids) + token_positions_.narrow(0, 0, ids.size(1));
    const torch::Tensor tokens = text_(x, lengths);
    return {tokens, lengths, halftone::mean_of_rows(tokens, lengths)};
  }

  /// The last tokens (N, patches, width) from z (B, 3, side, side), t (B) and N texts: those of z
  /// for each text, or, of twice as many texts, for each half of them.
  torch::Tensor hidden(const torch::Tensor& z, const torch::Tensor& t, const EncodedText& text) {
    torch::Tensor x = halftone::patches_of(z / noise_scale(), options.patch);
    x = patch_embedding_(x.to(patch_positions_.scalar_type())) + patch_positions_;
    const std::int64_t times = text.lengths.size(0) / z.size(0);
    x = x.repeat({times, 1, 1});
    const torch::Tensor time = time_(t * 1000).repeat({times, 1});
    const torch::Tensor condition =
        modulation_(torch::silu(time + text.mean)).unflatten(1, {6, -1});
    for (const auto& block : *picture_blocks_)
      x = block->as<halftone::DiffusionBlock>()->forward(x, condition, text.tokens, text.lengths);
    return norm_(x);
  }

  /// x, fp32 (B, 3, side, side), of hidden().
  torch::Tensor pixels_of(const torch::Tensor& hidden) {
    const torch::Tensor patches = to_pixels_(hidden).to(torch::kFloat);
    return halftone::pictures_of_patches(patches, options.patch, options.side);
  }

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const torch::Tensor x = batch.pictures.to(torch::kFloat) / 127.5 - 1;
    const torch::Tensor t = batch.times.to(torch::kFloat) / PainterBatch::kTimes;
    const torch::Tensor z =
        halftone::flow_points(x, noise_scale() * batch.noise.to(torch::kFloat), t);
    const EncodedText text = encode(batch.ids, batch.lengths);
    return halftone::flow_matching_loss(pixels_of(hidden(z, t, text)), x, t);
  }

  /// Pictures (B, 3, side, side) fp32 in 0..1, of a batch of caption_batches().
  torch::Tensor predict_step(const Batch& batch, std::int64_t /*index*/) override {
    const EncodedText text = encode(batch.ids, batch.lengths);
    const auto guided = [&](const torch::Tensor& z, double t) {
      const auto both = hidden(z, torch::full({z.size(0)}, t, z.options()), text).chunk(2);
      // The last layer is linear: guidance before it is guidance behind it, at half the cost.
      return pixels_of(torch::lerp(both[1], both[0], paint_options.guidance));
    };
    const torch::Tensor noise = noise_scale() * batch.noise.to(torch::kFloat);
    return halftone::follow_flow(noise, paint_options.steps, guided).clamp(-1, 1).add(1).div(2);
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {halftone::cosine_adamw(
        *this, context, {.lr = options.lr, .beta2 = 0.95, .weight_decay = 0.0}, options.warmup)};
  }

 private:
  std::int64_t patches() const {
    return options.side * options.side / options.patch / options.patch;
  }
  std::int64_t patch_values() const { return 3 * options.patch * options.patch; }
  std::int64_t hidden_dim() const { return options.width * 8 / 3 / 64 * 64; }
  // The mean of a square of pixels has the noise of one pixel in a smaller picture: at the same t
  // as much is to be seen in each size.
  double noise_scale() const { return static_cast<double>(options.side) / 64.0; }

  halftone::Embedding token_embedding_ = register_module(
      "token_embedding", halftone::Embedding(tokenizer.vocab_size(), options.width, false));
  torch::Tensor token_positions_ = register_parameter(
      "token_positions",
      halftone::new_parameter({kLongestCaption, options.width}).normal_(0, 0.02));
  halftone::Encoder text_ = register_module(
      "text", halftone::Encoder(halftone::EncoderBlockOptions{.dim = options.width,
                                                              .n_heads = options.width / 64,
                                                              .hidden_dim = hidden_dim(),
                                                              .has_qk_norm = true},
                                /*depth=*/2));
  halftone::TimestepEmbedding time_ =
      register_module("time", halftone::TimestepEmbedding(options.width));
  halftone::Linear modulation_ =
      register_module("modulation", halftone::Linear(options.width, 6 * options.width));
  halftone::Linear patch_embedding_ =
      register_module("patch_embedding", halftone::Linear(patch_values(), options.width, true));
  torch::Tensor patch_positions_ = register_parameter(
      "patch_positions", halftone::new_parameter({patches(), options.width}).normal_(0, 0.02));
  torch::nn::ModuleList picture_blocks_;
  halftone::RmsNorm norm_ = register_module("norm", halftone::RmsNorm(options.width, 1e-6));
  halftone::Linear to_pixels_ =
      register_module("to_pixels", halftone::Linear(options.width, patch_values(), true));
};
