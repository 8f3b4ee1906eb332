// SPDX-License-Identifier: Apache-2.0
// Pictures, names and spoken names of emoji in one space, and captions of what is in it.
//
//   emoji_trio train --precision bf16-mixed --out runs/trio
//   emoji_trio test runs/trio
//   emoji_trio caption runs/trio 🐙 cat.png hello.wav
//   emoji_trio plan --budget 2GiB
//   emoji_trio compare --precision bf16-mixed
#include <halftone/halftone.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "examples/example_program.h"
#include "trio_module.h"

namespace {

using Values = std::map<std::string, double>;

/// A line for each validation; and the losses of the last step.
struct Progress : halftone::Callback {
  void on_step_end(halftone::Trainer& /*trainer*/, const halftone::StepMetrics& metrics) override {
    last = metrics.logged;
  }
  void on_validation_end(halftone::Trainer& trainer, const Values& values) override {
    std::printf("step %5ld  picture to name %4.1f %%, sound to picture %4.1f %% at 10\n",
                trainer.loop().counters().step, 100 * values.at("val_emoji_picture_to_name_at_10"),
                100 * values.at("val_emoji_sound_to_picture_at_10"));
    std::fflush(stdout);
  }
  Values last;
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

HeldOutLoader held_out_loader(const std::shared_ptr<const Trio>& trio, std::int64_t every,
                              const CollateTrio& collate) {
  return HeldOutLoader({trio, every}, {.batch_size = 128, .shuffle = false}, collate);
}

void train(Command& command) {
  TrioOptions& model = command.fields(TrioOptions());
  command.bound("--lr", model.lr, "Learning rate at its highest");
  const std::int64_t& batch_size = command.count("--batch-size", 64, "Emoji in a step");
  const std::int64_t& epochs = command.count("--epochs", 30, "Of about 1,670 emoji");
  const std::int64_t& only_steps = command.count(
      "--steps", 0, "Instead of epochs, only to see what one takes: no validation, no test");
  const std::int64_t& limit = command.count("--limit", 0, "Emoji to train on, at most; 0: all");
  const std::string& out = command.text("--out", "runs/trio", "Folder of the run");
  const std::string& precision = command.precision();
  const std::vector<std::string>& keep_fp32 = command.keep_fp32();
  const std::string& memory = command.text("--memory", "standard", "standard, lean or leanest");
  const std::uint64_t& seed = command.seed();
  const bool& overwrite = command.flag("--overwrite", "Whatever run is in --out");
  const bool& resume = command.flag("--resume", "Go on with the run in --out");
  const std::string& speech = speech_option(command);
  command.read(/*usual_threads=*/1);

  const auto trio = std::make_shared<const Trio>(speech);
  model.tokenizer = learn_caption_tokens(trio->emoji()).json();
  std::vector<std::int64_t> emoji = trio->trained();
  if (limit > 0) emoji.resize(std::min(emoji.size(), static_cast<std::size_t>(limit)));
  const CollateTrio collate{caption_tokens(model.tokenizer)};
  TrioLoader loader({trio, emoji}, {.batch_size = batch_size, .seed = seed, .drop_last = true},
                    collate);
  HeldOutLoader validation = held_out_loader(trio, /*every=*/10, collate);
  const std::int64_t steps = only_steps > 0 ? only_steps : epochs * loader.batches_per_epoch();
  model.warmup = steps / 20;
  torch::manual_seed(seed);
  TrioModule module(model);
  const auto progress = std::make_shared<Progress>();
  const auto cost = std::make_shared<halftone::TrainingCost>();
  halftone::Trainer trainer({.max_steps = steps,
                             .precision = precision,
                             .gradient_clip_val = 1.0,
                             .callbacks = {progress, cost},
                             .default_root_dir = out,
                             .overwrite = overwrite,
                             .val_check_interval = std::max<std::int64_t>(1, steps / 4),
                             .val_at_end = true,
                             .num_sanity_val_steps = 0,
                             .memory = {.memory = memory},
                             .keep_fp32 = keep_fp32,
                             .seed = seed});
  if (only_steps > 0)
    trainer.fit(module, loader, {.resume = resume});
  else
    trainer.fit(module, loader, validation, {.resume = resume});
  throw_if_stopped(trainer);
  const auto steps_of_epoch = static_cast<double>(loader.batches_per_epoch());
  std::printf("%ld steps: an epoch takes %.1f s, %.1f s of CPU time; at most %s in memory\n",
              cost->steps(), cost->step_seconds() * steps_of_epoch,
              cost->step_cpu_seconds() * steps_of_epoch,
              halftone::format_bytes(cost->peak_bytes()).c_str());
  for (const auto& [name, value] : progress->last) std::printf("%s %.3f  ", name.c_str(), value);
  std::printf("\n");
  if (only_steps > 0) return;
  HeldOutLoader all = held_out_loader(trio, /*every=*/1, collate);
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
  command.read(/*usual_threads=*/1);
  LoadedTrio loaded(run);
  const auto trio = std::make_shared<const Trio>(speech);
  HeldOutLoader loader = held_out_loader(trio, /*every=*/1, {loaded.module->tokenizer});
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
  speech_option(command);
  command.read(/*usual_threads=*/1);
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

/// The largest batch that fits, or one of a size, by recipe: memory and time before any training.
void plan(Command& command) {
  TrioOptions& model = command.fields(TrioOptions());
  const std::string& budget = command.budget("2GiB", "Memory that the largest batch may take");
  const std::int64_t& batch_size =
      command.count("--batch-size", 0, "Instead: of this batch, if not 0");
  const std::string& speech = speech_option(command);
  command.read(/*usual_threads=*/1);
  const Trio trio(speech);  // is in memory, as in a training
  model.tokenizer = learn_caption_tokens(trio.emoji()).json();
  halftone::RecipePlanOptions options{
      .recipes = halftone::recipes_of({"32-true", "bf16-mixed", "int8-mixed", "bf16-true"},
                                      {"standard", "lean"}),
      .batch_size = batch_size,
      .samples = std::ssize(trio.trained())};
  if (batch_size == 0) options.budget = halftone::budget_bytes(budget);
  const auto training = halftone::planned_training(
      [model] { return std::make_shared<TrioModule>(model); }, TrioBatch::largest);
  std::printf("%s", halftone::recipe_plans_text(training, options).c_str());
}

/// The first batch in two precisions, tensor by tensor.
void compare(Command& command) {
  TrioOptions& model = command.fields(TrioOptions());
  const std::int64_t& batch_size = command.count("--batch-size", 64, "Emoji in a step");
  const std::string& precision = command.precision();
  const std::vector<std::string>& keep_fp32 = command.keep_fp32();
  const std::uint64_t& seed = command.seed();
  const std::int64_t& rows = command.count("--rows", 8, "Tensors to show, the worst first");
  const std::string& run = command.text("--run", "", "With the weights of this run");
  const std::string& speech = speech_option(command);
  command.read(/*usual_threads=*/1);
  const auto trio = std::make_shared<const Trio>(speech);
  model.tokenizer = learn_caption_tokens(trio->emoji()).json();
  torch::manual_seed(seed);
  const auto module =
      run.empty() ? std::make_shared<TrioModule>(model) : LoadedTrio(run, {}).module;
  module->train();
  const TrioLoader loader({trio, trio->trained()}, {.batch_size = batch_size}, {module->tokenizer});
  const halftone::Comparison comparison =
      halftone::compare_precisions(halftone::training_step_on(*module, loader.batch_at(0)),
                                   {.precision = precision, .keep_fp32 = keep_fp32});
  const halftone::ComparisonTextOptions options{.rows = static_cast<std::size_t>(rows)};
  std::printf("%s", halftone::comparison_text(comparison, options).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return run_program({"emoji_trio",
                      "Pictures, names and spoken names of emoji in one space.",
                      {{"train", "Train, and test", train},
                       {"test", "The recalls of a run", test},
                       {"caption", "Say what it is, and which emoji are nearest", caption},
                       {"plan", "Memory and time of a step, before any training", plan},
                       {"compare", "A step in a precision and in 32-true", compare}}},
                     argc, argv);
}
