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

using Values = std::map<std::string, double>;

/// What the last step logged, its losses among it.
struct LastStep : halftone::Callback {
  void on_step_end(halftone::Trainer& /*trainer*/, const halftone::StepMetrics& metrics) override {
    logged = metrics.logged;
  }
  Values logged;
};

/// A line for each pair: "emoji_picture_to_name  at 1  12.3 %  at 10  45.6 %".
void print_recalls(const Values& values) {
  constexpr std::string_view kFirst = "_at_1";
  for (const auto& [name, value] : values) {
    if (!name.ends_with(kFirst)) continue;
    const std::string pair = name.substr(0, name.size() - kFirst.size());
    std::printf("%-28s recall@1 %5.1f %%  recall@10 %5.1f %%\n", pair.c_str(), 100 * value,
                100 * values.at(pair + "_at_10"));
  }
}

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
  const auto last = std::make_shared<LastStep>();
  const auto cost = std::make_shared<halftone::TrainingCost>();
  options.max_steps = steps;
  options.callbacks = {last, cost};
  options.val_check_interval = std::max<std::int64_t>(1, steps / 4);
  options.val_at_end = true;
  halftone::Trainer trainer(options);
  if (only_steps > 0)
    trainer.fit(module, loader, {.resume = options.resume});
  else
    trainer.fit(module, loader, validation, {.resume = options.resume});
  throw_if_stopped(trainer);
  print_cost(*cost, loader.batches_per_epoch());
  for (const auto& [name, value] : last->logged) std::printf("%s %.3f  ", name.c_str(), value);
  std::printf("\n");
  if (only_steps > 0) return;
  HeldOutLoader all = held_out_batches(trio, /*every=*/1, collate);
  print_recalls(trainer.test(module, all));
}

using LoadedTrio = halftone::LoadedModel<TrioModule>;

/// Rows of a held-out emoji, and the pictures of held-out emoji that are nearest to its spoken
/// name.
torch::Tensor nearest_to_sounds(TrioModule& module, const Trio& trio) {
  constexpr std::int64_t kRows = 8;
  constexpr std::int64_t kNearest = 7;
  const std::vector<std::int64_t>& emoji = trio.held_out();
  const torch::Tensor pictures = trio.emoji().pictures(emoji, {.side = kSide});
  const torch::Tensor gallery = module.place_of_pictures(as_input(pictures));
  std::vector<torch::Tensor> shown;
  for (std::int64_t i = 0; i < kRows; ++i) {
    const std::int64_t own = i * std::ssize(emoji) / kRows;
    const std::int64_t said = trio.said(emoji[static_cast<std::size_t>(own)], 0, false).front();
    const torch::Tensor place = module.place_of_sound(trio.sound(said));
    const torch::Tensor near = halftone::nearest_rows(kNearest, place, gallery)[0];
    shown.push_back(torch::cat({pictures[own].unsqueeze(0), pictures.index_select(0, near)}));
  }
  return torch::cat(shown);
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
  print_recalls(loaded.trainer.test(loaded.module, loader));
  if (picture.empty()) return;
  const torch::NoGradGuard no_grad;
  const auto region = loaded.trainer.forward_context();
  halftone::write_png_grid(picture, nearest_to_sounds(*loaded.module, *trio), /*columns=*/8);
}

/// Where a picture, a sound or an emoji is: fp32 (1, width).
torch::Tensor place_of(TrioModule& module, const halftone::EmojiSet& set, const std::string& what) {
  if (what.ends_with(".wav")) return module.place_of_sound(halftone::read_wav(what).samples);
  if (what.ends_with(".png")) return module.place_of_pictures(picture_of_png(what).unsqueeze(0));
  const std::int64_t index = set.find(what);
  if (index < 0)
    throw halftone::UserError("expected an emoji, a FILE.png or a FILE.wav, got '" + what + "'");
  return module.place_of_pictures(as_input(set.picture(index, {.side = kSide})).unsqueeze(0));
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
  std::vector<torch::Tensor> places;
  for (const std::int64_t index : known)
    places.push_back(module.place_of_name(set[index].english.name));
  for (const std::string& what : inputs) {
    const torch::Tensor place = place_of(module, set, what);
    std::printf("%s", what.c_str());
    for (std::int64_t language = 0; language < std::ssize(kLanguages); ++language)
      std::printf("  %s", module.say(place, language).c_str());
    std::printf("  ");
    const torch::Tensor near = halftone::nearest_rows(5, place, torch::cat(places))[0];
    for (std::int64_t i = 0; i < near.size(0); ++i) {
      const auto index = static_cast<std::size_t>(near[i].item<std::int64_t>());
      std::printf("%s", set[known[index]].text.c_str());
    }
    std::printf("\n");
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
