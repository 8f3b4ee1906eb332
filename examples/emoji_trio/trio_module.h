// SPDX-License-Identifier: Apache-2.0
// The model that emoji_trio.cpp trains: three encoders that put a picture, a name and a spoken name
// at one place of a space (as CLIP does with two: Radford et al. 2021), and a MiniMind that says in
// words what is at a place.
#pragma once

#include <halftone/halftone.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "trio_data.h"

struct TrioOptions {
  std::int64_t width = 128;
  std::int64_t depth = 3;
  std::int64_t decoder_dim = 128;
  std::int64_t decoder_layers = 4;
  std::string tokenizer;    // tokenizer.json
  double lr = 1e-3;         // this and the next only train
  std::int64_t warmup = 0;  // steps

  void fields(auto each) {
    each("width", width, "Of the encoders, a multiple of 32");
    each("depth", depth, "Layers of each encoder");
    each("decoder_dim", decoder_dim, "Of MiniMind, a multiple of 64");
    each("decoder_layers", decoder_layers, "Of MiniMind");
    each("tokenizer", tokenizer);
  }
};

/// Rows to one vector of length 1.
struct TrioEncoderImpl : torch::nn::Module {
  TrioEncoderImpl(const TrioOptions& options, std::int64_t rows)
      : places(register_parameter("places",
                                  halftone::new_parameter({rows, options.width}).normal_(0, 0.02))),
        to_space(register_module("to_space", halftone::Linear(options.width, options.width))),
        encoder(register_module("encoder", halftone::Encoder(
                                               halftone::EncoderBlockOptions{
                                                   .dim = options.width,
                                                   .n_heads = options.width / 32,
                                                   .hidden_dim = options.width * 8 / 3 / 32 * 32},
                                               options.depth))) {}

  /// rows (B, T, width), of which `lengths` (B) count, or all -> fp32 (B, width).
  torch::Tensor forward(const torch::Tensor& rows, const torch::Tensor& lengths = {}) {
    const torch::Tensor x = encoder(rows + places.narrow(0, 0, rows.size(1)), lengths);
    const torch::Tensor place = to_space(halftone::mean_of_rows(x, lengths)).to(torch::kFloat);
    return place * place.square().sum(-1, true).add(1e-12).rsqrt();
  }

  torch::Tensor places;
  halftone::Linear to_space;
  halftone::Encoder encoder;
};
TORCH_MODULE(TrioEncoder);

class TrioModule : public halftone::TrainingModule<TrioBatch> {
 public:
  using Options = TrioOptions;
  struct Places {  // each (B, width)
    torch::Tensor pictures, names, sounds;
  };

  const TrioOptions options;
  const halftone::Tokenizer tokenizer;

  explicit TrioModule(const Options& the_options)
      : options(the_options), tokenizer(caption_tokens(options.tokenizer)) {
    save_hyper_parameters(halftone::hyper_parameters_of(options));
  }

  torch::Tensor place_of_pictures(const torch::Tensor& pictures) {  // (B, 3, side, side)
    return picture_(patches_(halftone::patches_of(pictures, kPatch)));
  }
  torch::Tensor place_of_names(const Captions& names) {
    return name_(tokens_(names.ids), names.lengths);
  }
  torch::Tensor place_of_sounds(const Sounds& sounds) {
    return sound_(bands_(sounds.rows), sounds.lengths);
  }
  Places places_of(const Batch& batch) {
    return {.pictures = place_of_pictures(batch.pictures),
            .names = place_of_names(batch.names),
            .sounds = place_of_sounds(batch.sounds)};
  }

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Places at = places_of(batch);
    log("temperature", log_scale_.detach().neg().exp().sum());
    return log_losses({{"loss_picture_name", contrast(at.pictures, at.names)},
                       {"loss_picture_sound", contrast(at.pictures, at.sounds)},
                       {"loss_name_sound", contrast(at.names, at.sounds)}}) +
           caption_loss(batch, at);
  }

  void validation_step(const Batch& batch, std::int64_t /*index*/) override { keep(batch); }
  void on_validation_loader_end() override { log_recalls("val_"); }
  void test_step(const Batch& batch, std::int64_t /*index*/) override { keep(batch); }
  void on_test_loader_end() override { log_recalls("test_"); }

  /// What the decoder says of a place (1, width), the likeliest token at each step.
  std::string say(const torch::Tensor& place, std::int64_t language) {
    const halftone::SpecialTokens special = tokenizer.special_tokens();
    const torch::TensorOptions number = place.options().dtype(torch::kLong);
    const torch::Tensor begin = torch::full({1, 1}, special.bos, number);
    const torch::Tensor where = prefix_rows(place, torch::full({1}, language, number));
    const halftone::GeneratedText said = halftone::generate_after_rows(
        decoder_, torch::cat({where, decoder_->embedded(begin)}, 1),
        {.greedy = true, .max_new_tokens = kLongestName, .eos = special.eos});
    return tokenizer.decode(std::vector<std::int32_t>(said.ids.begin(), said.ids.end()));
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {halftone::cosine_adamw(
        *this, context, {.lr = options.lr, .beta2 = 0.98, .weight_decay = 0.05}, options.warmup)};
  }

 private:
  static constexpr std::int64_t kPatch = 8;  // pixels
  static constexpr std::int64_t kPatches = kSide / kPatch * (kSide / kPatch);
  static constexpr std::int64_t kPrefix =
      4;  // rows that say where: before a caption, and a language's

  halftone::ModelConfig decoder_config() const {
    return {.dim = options.decoder_dim,
            .n_layers = options.decoder_layers,
            .n_heads = options.decoder_dim / 32,
            .n_kv_heads = options.decoder_dim / 64,
            .vocab_size = tokenizer.vocab_size(),
            .max_seq_len = kPrefix + 1 + kLongestName};
  }

  // Which of the batch's b belongs to each a, and which a to each b?
  torch::Tensor contrast(const torch::Tensor& a, const torch::Tensor& b) {
    return halftone::contrastive_loss(
        a, b, log_scale_.to(torch::kFloat).clamp_max(std::log(100.0)).exp());
  }

  // A place as what stands before a caption: (B, kPrefix + 1, dim).
  torch::Tensor prefix_rows(const torch::Tensor& place, const torch::Tensor& languages) {
    const torch::Tensor language = language_(languages).unsqueeze(1);
    const torch::Tensor x = place * std::sqrt(static_cast<double>(options.width));
    const torch::Tensor where = prefix_(x.to(language.scalar_type())).unflatten(1, {kPrefix, -1});
    return torch::cat({where.to(language.scalar_type()), language}, 1);
  }

  // Of the captions of all pictures and all sounds, which the decoder reads at once.
  torch::Tensor caption_loss(const Batch& batch, const Places& at) {
    const std::int64_t said = batch.names.ids.size(1) - 1;
    const auto twice = [](const torch::Tensor& x) { return torch::cat({x, x}); };
    const torch::Tensor before =
        prefix_rows(torch::cat({at.pictures, at.sounds}), twice(batch.languages));
    const auto of = decoder_->hidden_after_rows(before, twice(batch.names.ids.narrow(1, 0, said)))
                        .hidden.chunk(2);
    const torch::Tensor targets = batch.names.ids.narrow(1, 1, said).contiguous();
    const torch::Tensor mask = halftone::sequence_mask(batch.names.lengths - 1, said);
    return log_losses({{"loss_picture_caption", decoder_->cross_entropy(of[0], targets, mask)},
                       {"loss_sound_caption", decoder_->cross_entropy(of[1], targets, mask)}});
  }

  void keep(const Batch& batch) {
    const Places at = places_of(batch);
    recalls_.add({{"picture", at.pictures}, {"name", at.names}, {"sound", at.sounds}},
                 batch.held_out * std::ssize(kLanguages) + batch.languages);
  }

  // Over all that was kept, not batch by batch: who is nearest depends on who is there. Each
  // language has a gallery of its own.
  void log_recalls(const std::string& prefix) {
    for (const auto& recall : recalls_.take()) {
      const auto by = static_cast<HeldOut>(recall.group / std::ssize(kLanguages));
      // Only a sound is new in what is held out by its voice.
      if (by == HeldOut::kVoice && recall.from != "sound" && recall.to != "sound") continue;
      log(prefix + (by == HeldOut::kVoice ? "voice_" : "emoji_") + recall.name(), recall.share,
          static_cast<double>(recall.count));
    }
  }

  halftone::Linear patches_ =
      register_module("patches", halftone::Linear(3 * kPatch * kPatch, options.width, true));
  halftone::Embedding tokens_ =
      register_module("tokens", halftone::Embedding(tokenizer.vocab_size(), options.width, false));
  halftone::Linear bands_ = register_module("bands", halftone::Linear(kBands, options.width, true));
  TrioEncoder picture_ = register_module("picture", TrioEncoder(options, kPatches));
  TrioEncoder name_ = register_module("name", TrioEncoder(options, kLongestName));
  TrioEncoder sound_ = register_module("sound", TrioEncoder(options, kLongestSound));
  torch::Tensor log_scale_ =
      register_parameter("log_scale", halftone::new_parameter({1}).fill_(std::log(1 / 0.07)));
  halftone::Linear prefix_ = register_module(
      "prefix", halftone::Linear(options.width, kPrefix* options.decoder_dim, true));
  halftone::Embedding language_ = register_module(
      "language", halftone::Embedding(std::ssize(kLanguages), options.decoder_dim, false));
  halftone::CausalLM decoder_ = register_module("decoder", halftone::CausalLM(decoder_config()));
  halftone::RetrievalRecall recalls_;  // of the validation or test that is under way
};
