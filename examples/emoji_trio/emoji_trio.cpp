// SPDX-License-Identifier: Apache-2.0
// Pictures, names and spoken names of emoji in one space, and captions of what is in it.
//
//   emoji_trio train --precision bf16-mixed --out runs/trio
//   emoji_trio test runs/trio
//   emoji_trio caption runs/trio 🐙 cat.png hello.wav
//   emoji_trio plan --budget 2GiB
//   emoji_trio compare runs/trio --precision bf16-mixed
#include <halftone/halftone.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "examples/training_commands.h"
#include "trio_module.h"

namespace {

std::string& speech_option(Command& command) {
  return command.text("--speech", "", "Folder of spoken-names, if not the usual one");
}

void train(Command& command) {
  TrainOptions& options = train_options(command, "runs/trio");
  TrioOptions& model = command.fields(TrioOptions());
  command.bound("--lr", model.lr, "Learning rate at its highest");
  const std::int64_t& batch_size = command.count("--batch-size", 64, "Emoji in a step");
  const std::int64_t& epochs = command.count("--epochs", 30, "Of about 1,670 emoji");
  const std::int64_t& only_steps = command.count(
      "--steps", 0, "Instead of epochs, only to see what one takes: no validation, no test");
  const std::int64_t& limit = command.count("--limit", 0, "Emoji to train on, at most; 0: all");
  const std::string& speech = speech_option(command);
  command.read();

  const auto trio = std::make_shared<const Trio>(speech);
  model.tokenizer = learn_caption_tokens(trio->emoji()).json();
  const CollateTrio collate{caption_tokens(model.tokenizer)};
  TrioLoader loader = training_batches(trio, limit, batch_size, options.seed, collate);
  HeldOutLoader validation = held_out_batches(trio, /*every=*/10, collate);
  const std::int64_t steps = only_steps > 0 ? only_steps : epochs * loader.batches_per_epoch();
  model.warmup = steps / 20;
  torch::manual_seed(options.seed);
  TrioModule module(model);
  const auto cost = std::make_shared<halftone::TrainingCost>();
  options.max_steps = steps;
  options.callbacks = {cost};
  options.val_check_interval = std::max<std::int64_t>(1, steps / 4);
  options.val_at_end = true;
  if (only_steps > 0) options.limit_val_batches = std::int64_t{0};
  halftone::Trainer trainer(options);
  trainer.fit(module, loader, validation, {.resume = options.resume});
  throw_if_stopped(trainer);
  print_metrics(trainer.logged_metrics());
  print_cost(*cost, loader.batches_per_epoch());
  if (only_steps > 0) return;
  HeldOutLoader all = held_out_batches(trio, /*every=*/1, collate);
  print_metrics(trainer.test(module, all));
}

using LoadedTrio = halftone::LoadedModel<TrioModule>;

/// Rows of a held-out emoji, and the pictures of held-out emoji that are nearest to its spoken
/// name.
torch::Tensor nearest_to_sounds(const LoadedTrio& loaded, const Trio& trio) {
  constexpr std::int64_t kRows = 8;
  constexpr std::int64_t kNearest = 7;
  const std::vector<std::int64_t> own = evenly_spaced(trio.held_out(), kRows);
  const torch::Tensor pictures = trio.emoji().pictures(trio.held_out(), {.side = kSide});
  const torch::Tensor near = halftone::nearest_rows(
      kNearest, loaded.module->place_of_sounds(loaded.trainer.placed(trio.sounds(own))),
      loaded.module->place_of_pictures(loaded.trainer.placed(as_input(pictures))));
  const torch::Tensor said = trio.emoji().pictures(own, {.side = kSide});
  return torch::cat({said.unsqueeze(1), pictures.index({near.cpu()})}, 1).flatten(0, 1);
}

void test(Command& command) {
  const std::string& run = command.run();
  const std::string& picture =
      command.text("--picture", "", "Also write what is nearest to some sounds: FILE.png");
  const std::string& speech = speech_option(command);
  command.read();
  LoadedTrio loaded(run);
  const auto trio = std::make_shared<const Trio>(speech);
  HeldOutLoader loader = held_out_batches(trio, /*every=*/1, {loaded.module->tokenizer});
  print_metrics(loaded.trainer.test(loaded.module, loader));
  if (picture.empty()) return;
  const torch::NoGradGuard no_grad;
  const auto region = loaded.trainer.forward_context();
  halftone::write_png_grid(picture, nearest_to_sounds(loaded, *trio), /*columns=*/8);
}

/// Where a picture, a sound or an emoji is: fp32 (1, width).
torch::Tensor place_of(const LoadedTrio& loaded, const halftone::EmojiSet& set,
                       const std::string& what) {
  if (what.ends_with(".wav")) {
    const Sounds sound = sound_of(halftone::read_wav(what).samples);
    return loaded.module->place_of_sounds(loaded.trainer.placed(sound));
  }
  const torch::Tensor picture = picture_of(set, what).unsqueeze(0);
  return loaded.module->place_of_pictures(loaded.trainer.placed(picture));
}

void caption(Command& command) {
  const std::string& run = command.run();
  const auto& inputs = command.arguments("INPUT", "Emoji, FILE.png or FILE.wav");
  command.read();
  LoadedTrio loaded(run);
  TrioModule& module = *loaded.module;
  const torch::NoGradGuard no_grad;
  const auto region = loaded.trainer.forward_context();
  const halftone::EmojiSet set(halftone::fetch_dataset("emoji").folder);
  const std::vector<std::int64_t> known = set.without_skin_tones();
  const torch::Tensor places = module.place_of_names(loaded.trainer.placed(
      encode_captions(module.tokenizer, english_names(set, known), kLongestName)));
  for (const std::string& what : inputs) {
    const torch::Tensor place = place_of(loaded, set, what);
    std::string line = what + "  " + module.say(place, 0) + "  " + module.say(place, 1) + "  ";
    const torch::Tensor near = halftone::nearest_rows(5, place, places)[0];
    for (std::int64_t i = 0; i < near.size(0); ++i)
      line += set[known[static_cast<std::size_t>(near[i].item<std::int64_t>())]].text;
    std::printf("%s\n", line.c_str());
  }
}

void plan(Command& command) {
  TrioOptions& model = command.fields(TrioOptions());
  const PlanOptions& options = plan_options(command, /*usual_batch_size=*/64);
  const std::string& speech = speech_option(command);
  command.read();
  const Trio trio(speech);  // is in memory, as in a training
  model.tokenizer = learn_caption_tokens(trio.emoji()).json();
  const auto training = halftone::planned_training(
      [model] { return std::make_shared<TrioModule>(model); }, TrioBatch::largest);
  print_plan(options, training, std::ssize(trio.trained()));
}

void compare(Command& command) {
  const std::string& speech = speech_option(command);
  compare_step<TrioModule>(command, 64, [&](const TrioModule& module, std::int64_t batch_size) {
    const auto trio = std::make_shared<const Trio>(speech);
    return TrioLoader({trio, trio->trained()}, {.batch_size = batch_size}, {module.tokenizer})
        .batch_at(0);
  });
}

}  // namespace

int main(int argc, char** argv) {
  return run_program({"emoji_trio",
                      "Pictures, names and spoken names of emoji in one space.",
                      {{"train", "Train, and test", train},
                       {"test", "The recalls of a run", test},
                       {"caption", "Say what it is, and which emoji are nearest", caption},
                       {"plan", "Memory and time of a step, before any training", plan},
                       {"compare", "A step in a precision and in 32-true", compare}},
                      /*threads=*/1},
                     argc, argv);
}
