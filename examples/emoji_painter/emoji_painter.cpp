// SPDX-License-Identifier: Apache-2.0
// Paints emoji from words: trains the diffusion transformer of painter_module.h on the emoji of a
// Debian package, paints what one asks for, and says what each precision costs. README.md has
// pictures and times.
//
//   emoji_painter train --out runs/painter --limit 600       an hour; --resume goes on
//   emoji_painter paint runs/painter "red heart" "cat face" --out painted.png
//   emoji_painter measure runs/painter                       seconds and fidelity by precision
//   emoji_painter compare runs/painter                       which tensors a precision gets wrong
//   emoji_painter plan --budget 2GiB                         memory and seconds of a training
#include <halftone/halftone.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "examples/training_commands.h"
#include "painter_module.h"

namespace {

using torch::Tensor;

/// A painter of small pictures as one of large ones, in as many patches: a large patch goes in as
/// the mean of its squares, and comes out as the small one, smoothed.
void begin_from(Painter& painter, halftone::SavedModel& saved) {
  const auto patch = saved.hyper_parameter<std::int64_t>("patch");
  const auto enlarged = [&](const Tensor& weights) {
    return halftone::resized_patch_weights(weights, patch, painter.options.patch);
  };
  const double times = static_cast<double>(painter.options.patch) / static_cast<double>(patch);
  saved.weights.read_all();
  auto& tensors = saved.weights.tensors;
  tensors["patch_embedding.weight"] = enlarged(tensors["patch_embedding.weight"]) / times;
  tensors["to_pixels.weight"] = enlarged(tensors["to_pixels.weight"].t()).t();
  tensors["to_pixels.bias"] = enlarged(tensors["to_pixels.bias"].unsqueeze(0)).flatten();
  halftone::load_weights(painter, saved);
}

void train(Command& command) {
  TrainOptions& options = train_options(command, "runs/painter");
  const std::int64_t& steps = command.count("--steps", 6500, "Optimizer steps");
  const std::int64_t& batch_size = command.count("--batch-size", 32, "Pictures of a step");
  PainterOptions& model = command.fields(PainterOptions());
  command.bound("--lr", model.lr, "Learning rate at its highest");
  const std::string& from = command.text("--from", "", "Run to begin with, as large or smaller");
  command.read();

  const PainterEmoji emoji(model.limit);
  halftone::SavedModel saved;
  if (!from.empty()) saved = halftone::load_saved_model(from);
  model.tokenizer = from.empty() ? learn_caption_tokens(*emoji.set).json()
                                 : saved.hyper_parameter<std::string>("tokenizer");
  model.warmup = std::min<std::int64_t>(200, steps / 10);
  torch::manual_seed(options.seed);
  Painter painter(model);
  if (!from.empty()) begin_from(painter, saved);

  PainterLoader loader =
      emoji.training_batches(painter.tokenizer, model.side, batch_size, options.seed);
  PainterLoader validation = emoji.validation_batches(painter.tokenizer, model.side);
  const auto drawn = [&](const std::string& name, const std::vector<std::int64_t>& indices) {
    const std::vector<std::string> texts = emoji.names(evenly_spaced(indices, 16));
    const auto batch = caption_batches(painter.tokenizer, texts, model.side, /*seed=*/1).front();
    const auto draw = [&painter, batch](halftone::Trainer& trainer) {
      return painter.predict_step(trainer.placed(batch), 0);
    };
    return std::make_shared<halftone::PictureLog>(
        draw, halftone::PictureLogOptions{.name = name, .columns = 8});
  };
  const auto cost = std::make_shared<halftone::TrainingCost>();
  const std::int64_t tenth = std::max<std::int64_t>(1, steps / 10);
  options.max_steps = steps;
  options.val_check_interval = tenth;
  options.callbacks = {
      cost, drawn("names_it_has_seen", emoji.seen), drawn("names_held_out", emoji.held_out),
      std::make_shared<halftone::Ema>(halftone::EmaOptions{.decay = 0.999, .warmup = true}),
      // An epoch may be a few steps.
      std::make_shared<halftone::ModelCheckpoint>(
          halftone::ModelCheckpointOptions{.every_n_steps = tenth, .every_n_epochs = 0})};
  halftone::Trainer trainer(options);
  trainer.fit(painter, loader, validation, {.resume = options.resume});
  throw_if_stopped(trainer);
  print_cost(*cost, loader.batches_per_epoch());
}

/// A trained painter in a precision.
struct LoadedPainter : halftone::LoadedModel<Painter> {
  LoadedPainter(const std::string& run, const std::string& precision, const PaintOptions& options)
      : LoadedModel(run, {.precision = precision, .enable_progress_bar = false}) {
    module->paint_options = options;
  }
  Tensor paint(const std::vector<std::string>& texts) {
    return torch::cat(
        trainer.predict(module, caption_batches(module->tokenizer, texts, module->options.side,
                                                module->paint_options.seed)));
  }
  std::vector<double> seconds;  // of one picture
};

void paint(Command& command) {
  const std::string& run = command.run();
  const std::vector<std::string>& texts = command.arguments("TEXT", "\"blue heart\"");
  const std::string& out = command.text("--out", "painted.png", "PNG, a grid");
  const std::string& precision = command.precision();
  const PaintOptions& options = command.fields(PaintOptions());
  command.read();
  LoadedPainter loaded(run, precision, options);
  halftone::write_png_grid(out, loaded.paint(texts));
  std::printf("%s\n", out.c_str());
}

/// A table of what each precision costs and changes: seconds of one picture, taken in turn, and how
/// far pictures of the same noise are from those of the first precision.
void measure(Command& command) {
  const std::string& run = command.run();
  const auto& precisions = command.list("--precisions", {"32-true", "bf16-mixed", "int8-mixed"},
                                        "The first is the reference");
  const std::int64_t& pictures = command.count("--pictures", 32, "Of names seen, and held out");
  const std::int64_t& rounds = command.count("--rounds", 5, "That each time is the median of");
  const std::string& text = command.text("--text", "red heart", "Of the picture that is timed");
  const PaintOptions& options = command.fields(PaintOptions());
  command.read();

  std::vector<LoadedPainter> painters;
  for (const std::string& precision : precisions) painters.emplace_back(run, precision, options);
  const PainterEmoji emoji(painters.front().module->options.limit);
  const std::vector<std::int64_t> seen = evenly_spaced(emoji.seen, pictures);
  const std::vector<std::int64_t> held_out = evenly_spaced(emoji.held_out, pictures);
  for (std::int64_t round = -1; round < rounds; ++round)
    for (LoadedPainter& each : painters) {  // the first round warms up
      const double seconds = halftone::seconds_of_call([&] { each.paint({text}); });
      if (round >= 0) each.seconds.push_back(seconds);
    }
  std::printf(
      "| precision | seconds | times faster | PSNR | SSIM | own emoji | a word | chance |\n"
      "|---|---|---|---|---|---|---|---|\n");
  const halftone::EmojiLikeness likeness(emoji.set, emoji.seen);
  Tensor reference;
  for (LoadedPainter& each : painters) {
    const Tensor known = each.paint(emoji.names(seen));
    const Tensor unknown = each.paint(emoji.names(held_out));
    const Tensor both = torch::cat({known, unknown});
    if (!reference.defined()) reference = both;
    const auto shared = likeness.shared_word(unknown, held_out);
    // Of the mean squared error over all: one picture that is equal would make a mean infinite.
    const double psnr =
        -10 * (both - reference).to(torch::kDouble).square().mean().log10().item<double>();
    const double seconds = halftone::median(each.seconds);
    std::printf("| %s | %.3f | %.2f | %.1f | %.4f | %.2f | %.2f | %.2f |\n",
                each.trainer.options().precision.c_str(), seconds,
                halftone::median(painters.front().seconds) / seconds, psnr,
                halftone::structural_similarity(both, reference).mean().item<double>(),
                likeness.own_family(known, seen), shared.nearest, shared.chance);
    std::fflush(stdout);
  }
}

void compare(Command& command) {
  compare_step<Painter>(command, 8, [](const Painter& painter, std::int64_t batch_size) {
    const PainterEmoji emoji(painter.options.limit);
    return emoji.training_batches(painter.tokenizer, painter.options.side, batch_size, 2)
        .batch_at(0);
  });
}

void plan(Command& command) {
  PainterOptions& model = command.fields(PainterOptions());
  const PlanOptions& options = plan_options(command, /*usual_batch_size=*/32);
  command.read();
  const PainterEmoji emoji(model.limit);
  model.tokenizer = learn_caption_tokens(*emoji.set).json();
  // Drawn as in a run, so that they are counted.
  const CaptionedEmoji samples(emoji.set, emoji.seen, model.side, false);
  const auto training = halftone::planned_training(
      [model] { return std::make_shared<Painter>(model); },
      [model](std::int64_t count) { return PainterBatch::planned(count, model.side); });
  print_plan(options, training, samples.size(), /*weight_copies=*/1 /* Ema's */);
}

}  // namespace

int main(int argc, char** argv) {
  return run_program({"emoji_painter",
                      "Paints emoji from words.",
                      {{"train", "Learn to paint", train},
                       {"paint", "Paint what one says", paint},
                       {"measure", "What each precision costs", measure},
                       {"compare", "Which tensors a precision gets wrong", compare},
                       {"plan", "Memory and seconds of a training", plan}}},
                     argc, argv);
}
