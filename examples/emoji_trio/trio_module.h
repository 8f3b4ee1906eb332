// SPDX-License-Identifier: Apache-2.0
// The model that emoji_trio.cpp trains: three encoders that put a picture, a name and a spoken name
// at one place of a space (as CLIP does with two: Radford et al. 2021), and a MiniMind that says in
// words what is at a place.
#pragma once

#include <halftone/autocast/autocast.h>
#include <halftone/models/causal_lm.h>
#include <halftone/nn/embedding.h>
#include <halftone/nn/linear.h>
#include <halftone/nn/new_parameter.h>
#include <halftone/optim/adamw.h>
#include <halftone/train/training_module.h>
#include <torch/nn/functional/loss.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trio_data.h"
#include "trio_encoder.h"

struct TrioOptions {
  std::int64_t width = 128;  // of the encoders
  std::int64_t depth = 3;
  std::int64_t decoder_dim = 128;
  std::int64_t decoder_layers = 4;
  double lr = 1e-3;
  std::int64_t warmup = 0;  // steps
  std::string tokenizer;    // tokenizer.json
};

/// The places of a batch, each (B, width).
struct TrioPlaces {
  torch::Tensor pictures;
  torch::Tensor names;
  torch::Tensor sounds;
};

/// The share of `queries` (N, E) whose own row of `gallery` (N, E) is among the k nearest; as near
/// as another is not nearer.
inline torch::Tensor recall_at(std::int64_t k, const torch::Tensor& queries,
                               const torch::Tensor& gallery) {
  const torch::Tensor near = queries.matmul(gallery.t());
  const torch::Tensor farther = near < near.diagonal().unsqueeze(1);
  return (farther.sum(1) >= queries.size(0) - k).to(torch::kDouble).mean();
}

class TrioModule : public halftone::TrainingModule<TrioBatch> {
 public:
  static constexpr std::int64_t kPatch = 8;  // pixels
  static constexpr std::int64_t kPrefix =
      4;  // rows that say where: before a caption, and a language's

  explicit TrioModule(const TrioOptions& the_options)
      : options(the_options),
        tokenizer(caption_tokens(options.tokenizer)),
        patches_(
            register_module("patches", halftone::Linear(3 * kPatch * kPatch, options.width, true))),
        tokens_(register_module("tokens",
                                halftone::Embedding(tokenizer.vocab_size(), options.width, false))),
        bands_(register_module("bands", halftone::Linear(kBands, options.width, true))),
        picture_(register_module(
            "picture", TrioEncoder(options.width, options.depth, kSide * kSide / kPatch / kPatch))),
        name_(register_module("name", TrioEncoder(options.width, options.depth, kLongestName))),
        sound_(register_module("sound", TrioEncoder(options.width, options.depth, kLongestSound))),
        log_scale_(register_parameter("log_scale",
                                      halftone::new_parameter({1}).fill_(std::log(1 / 0.07)))),
        prefix_(register_module(
            "prefix", halftone::Linear(options.width, kPrefix * options.decoder_dim, true))),
        language_(register_module(
            "language", halftone::Embedding(std::ssize(kLanguages), options.decoder_dim, false))),
        decoder_(register_module("decoder", halftone::CausalLM(decoder_config()))) {
    save_hyper_parameters({{"width", options.width},
                           {"depth", options.depth},
                           {"decoder_dim", options.decoder_dim},
                           {"decoder_layers", options.decoder_layers},
                           {"tokenizer", options.tokenizer}});
  }

  torch::Tensor place_of_pictures(const torch::Tensor& pictures) {  // (B, 3, side, side)
    const torch::Tensor tiles = pictures.unfold(2, kPatch, kPatch).unfold(3, kPatch, kPatch);
    return picture_(patches_(tiles.permute({0, 2, 3, 1, 4, 5}).flatten(3).flatten(1, 2)));
  }
  torch::Tensor place_of_names(const torch::Tensor& ids, const torch::Tensor& lengths) {
    return name_(tokens_(ids), lengths);
  }
  torch::Tensor place_of_sounds(const torch::Tensor& sounds, const torch::Tensor& lengths) {
    return sound_(bands_(sounds), lengths);
  }
  TrioPlaces places_of(const Batch& batch) {
    return {place_of_pictures(batch.pictures), place_of_names(batch.names, batch.name_lengths),
            place_of_sounds(batch.sounds, batch.sound_lengths)};
  }

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const TrioPlaces at = places_of(batch);
    log("temperature", log_scale_.detach().neg().exp().sum());
    return logged("loss_picture_name", contrast(at.pictures, at.names)) +
           logged("loss_picture_sound", contrast(at.pictures, at.sounds)) +
           logged("loss_name_sound", contrast(at.names, at.sounds)) + caption_loss(batch, at);
  }

  void validation_step(const Batch& batch, std::int64_t /*index*/) override { keep(batch); }
  void on_validation_loader_end() override { log_recalls("val_"); }
  void test_step(const Batch& batch, std::int64_t /*index*/) override { keep(batch); }
  void on_test_loader_end() override { log_recalls("test_"); }

  /// The tokens that the decoder says of a place (1, width), the likeliest at each step.
  std::vector<std::int32_t> say(const torch::Tensor& place, std::int64_t language) {
    const halftone::SpecialTokens special = tokenizer.special_tokens();
    halftone::KvCache cache = decoder_->make_cache(kPrefix + 1 + kLongestName);
    torch::Tensor rows =
        torch::cat({prefix_rows(place, torch::full({1}, language, torch::kLong)),
                    decoder_->embedded(torch::full({1, 1}, special.bos, torch::kLong))},
                   1);
    std::vector<std::int32_t> ids;
    while (std::ssize(ids) < kLongestName) {
      const torch::Tensor hidden = decoder_->hidden_of_rows(rows, &cache).hidden.slice(1, -1);
      const auto id = decoder_->logits(hidden).argmax(-1).item<std::int64_t>();
      if (id == special.eos) break;
      ids.push_back(static_cast<std::int32_t>(id));
      rows = decoder_->embedded(torch::full({1, 1}, id, torch::kLong));
    }
    return ids;
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {{std::make_shared<halftone::AdamW>(
                 named_parameters().pairs(),
                 context.adamw({.lr = options.lr, .beta2 = 0.98, .weight_decay = 0.05})),
             halftone::LrScheduleOptions{.kind = halftone::Schedule::kCosine,
                                         .warmup = static_cast<double>(options.warmup)}}};
  }

  const TrioOptions options;
  const halftone::Tokenizer tokenizer;

 private:
  halftone::ModelConfig decoder_config() const {
    return {.dim = options.decoder_dim,
            .n_layers = options.decoder_layers,
            .n_heads = options.decoder_dim / 32,
            .n_kv_heads = options.decoder_dim / 64,
            .vocab_size = tokenizer.vocab_size(),
            .max_seq_len = kPrefix + 1 + kLongestName};
  }

  torch::Tensor logged(const std::string& name, const torch::Tensor& loss) {
    log(name, loss.detach());
    return loss;
  }

  // InfoNCE (van den Oord et al. 2018), both ways: which of the batch's b belongs to each a? The
  // scale makes small differences of a cosine large, which is why it is computed in fp32.
  torch::Tensor contrast(const torch::Tensor& a, const torch::Tensor& b) {
    const halftone::Autocast fp32(halftone::autocast_device(a.device().type()), {}, false);
    const torch::Tensor scale = log_scale_.to(torch::kFloat).clamp_max(std::log(100.0)).exp();
    const torch::Tensor scores = a.matmul(b.t()) * scale;
    const torch::Tensor own =
        torch::arange(a.size(0), torch::dtype(torch::kLong).device(a.device()));
    namespace F = torch::nn::functional;
    return (F::cross_entropy(scores, own) + F::cross_entropy(scores.t(), own)) / 2;
  }

  // A place as what stands before a caption: (B, kPrefix + 1, dim).
  torch::Tensor prefix_rows(const torch::Tensor& place, const torch::Tensor& languages) {
    const torch::Tensor language = language_(languages).unsqueeze(1);
    const torch::Tensor x = place * std::sqrt(static_cast<double>(options.width));
    const torch::Tensor where = prefix_(x.to(language.scalar_type())).unflatten(1, {kPrefix, -1});
    return torch::cat({where.to(language.scalar_type()), language}, 1);
  }

  // Of the captions of all pictures and all sounds, one after the other.
  torch::Tensor caption_loss(const Batch& batch, const TrioPlaces& at) {
    const std::int64_t said = batch.names.size(1) - 1;
    const auto twice = [](const torch::Tensor& x) { return torch::cat({x, x}); };
    const torch::Tensor rows =
        torch::cat({prefix_rows(torch::cat({at.pictures, at.sounds}), twice(batch.languages)),
                    decoder_->embedded(twice(batch.names.narrow(1, 0, said)))},
                   1);
    const torch::Tensor hidden =
        decoder_->hidden_of_rows(rows).hidden.narrow(1, kPrefix + 1, said).contiguous();
    const torch::Tensor targets = batch.names.narrow(1, 1, said).contiguous();
    const torch::Tensor mask = torch::arange(said, batch.name_lengths.options()).unsqueeze(0) <
                               (batch.name_lengths - 1).unsqueeze(1);
    const auto of = hidden.chunk(2);
    return logged("loss_picture_caption", decoder_->cross_entropy(of[0], targets, mask)) +
           logged("loss_sound_caption", decoder_->cross_entropy(of[1], targets, mask));
  }

  void keep(const Batch& batch) {
    kept_.push_back(places_of(batch));
    kept_groups_.push_back(batch.held_out * std::ssize(kLanguages) + batch.languages);
  }

  // Over all that was kept, not batch by batch: who is nearest depends on who is there. Each
  // language has a gallery of its own.
  void log_recalls(const std::string& prefix) {
    const auto all = [&](torch::Tensor TrioPlaces::*part) {
      std::vector<torch::Tensor> rows;
      for (const TrioPlaces& batch : kept_) rows.push_back(batch.*part);
      return torch::cat(rows);
    };
    const std::array<std::pair<std::string, torch::Tensor>, 3> kinds = {
        {{"picture", all(&TrioPlaces::pictures)},
         {"name", all(&TrioPlaces::names)},
         {"sound", all(&TrioPlaces::sounds)}}};
    const torch::Tensor groups = torch::cat(kept_groups_);
    for (std::int64_t group = 0; group < 2 * std::ssize(kLanguages); ++group) {
      const torch::Tensor rows = groups.eq(group).nonzero().squeeze(1);
      if (rows.size(0) == 0) continue;
      const bool by_voice = group / std::ssize(kLanguages) == static_cast<int>(HeldOut::kVoice);
      for (const auto& [from, queries] : kinds)
        for (const auto& [to, gallery] : kinds) {
          // Only a sound is new in what is held out by its voice.
          if (from == to || (by_voice && from != "sound" && to != "sound")) continue;
          for (const std::int64_t k : {1, 10})
            log(prefix + (by_voice ? "voice_" : "emoji_") + from + "_to_" + to + "_at_" +
                    std::to_string(k),
                recall_at(k, queries.index_select(0, rows), gallery.index_select(0, rows)),
                static_cast<double>(rows.size(0)));
        }
    }
    kept_.clear();
    kept_groups_.clear();
  }

  halftone::Linear patches_;
  halftone::Embedding tokens_;
  halftone::Linear bands_;
  TrioEncoder picture_;
  TrioEncoder name_;
  TrioEncoder sound_;
  torch::Tensor log_scale_;
  halftone::Linear prefix_;
  halftone::Embedding language_;
  halftone::CausalLM decoder_;
  std::vector<TrioPlaces> kept_;  // of the validation or test that is under way
  std::vector<torch::Tensor> kept_groups_;
};
