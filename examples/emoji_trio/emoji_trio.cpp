// SPDX-License-Identifier: Apache-2.0
// Pictures, names and spoken names of emoji in one space, and captions of what is in it.
//
//   emoji_trio train --precision bf16-mixed --out runs/trio
//   emoji_trio test runs/trio
//   emoji_trio caption runs/trio 🐙 cat.png hello.wav
//   emoji_trio plan --budget 2GiB
//   emoji_trio compare --precision bf16-mixed
#include <halftone/core/median.h>
#include <halftone/core/message.h>
#include <halftone/core/text.h>
#include <halftone/system/memory.h>
#include <halftone/train/trainer.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "trio_study.h"

namespace {

/// What the steps took, and the recalls by name.
struct Progress : halftone::Callback {
  void on_train_batch_start(halftone::Trainer& /*trainer*/, std::int64_t /*index*/) override {
    begin = std::clock();
  }
  void on_step_end(halftone::Trainer& /*trainer*/, const halftone::StepMetrics& metrics) override {
    step_ms.push_back(metrics.step_ms);
    last = metrics.logged;
    cpu_s.push_back(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  void on_validation_end(halftone::Trainer& trainer,
                         const std::map<std::string, double>& values) override {
    if (trainer.sanity_checking()) return;
    std::printf("step %5ld  picture to name %4.1f %%, sound to picture %4.1f %% at 10\n",
                trainer.loop().counters().step, 100 * values.at("val_emoji_picture_to_name_at_10"),
                100 * values.at("val_emoji_sound_to_picture_at_10"));
    std::fflush(stdout);
  }
  std::vector<double> step_ms;
  std::vector<double> cpu_s;  // of all threads: what a step takes where others use the cores too
  std::clock_t begin = 0;
  std::map<std::string, double> last;  // losses by name
};

/// A line for each pair: "emoji_picture_to_name  at 1  12.3 %  at 10  45.6 %".
void print_recalls(const std::map<std::string, double>& values) {
  constexpr std::string_view kFirst = "_at_1";
  for (const auto& [name, value] : values) {
    if (!name.ends_with(kFirst)) continue;
    const std::string pair = name.substr(0, name.size() - kFirst.size());
    std::printf("%-28s recall@1 %5.1f %%  recall@10 %5.1f %%\n", pair.c_str(), 100 * value,
                100 * values.at(pair + "_at_10"));
  }
}

std::map<std::string, double> test_with(halftone::Trainer& trainer, TrioModule& module,
                                        const std::shared_ptr<const Trio>& trio) {
  HeldOutLoader loader({trio, /*every=*/1}, {.batch_size = 128, .shuffle = false},
                       {module.tokenizer});
  return trainer.test(module, loader);
}

void train(Arguments arguments) {
  const auto trio = std::make_shared<const Trio>(arguments.speech);
  arguments.model.tokenizer = learn_caption_tokens(trio->emoji()).json();
  std::vector<std::int64_t> emoji = trio->trained();
  emoji.resize(std::min(emoji.size(), static_cast<std::size_t>(arguments.limit)));
  const CollateTrio collate{caption_tokens(arguments.model.tokenizer)};
  TrioLoader loader({trio, emoji},
                    {.batch_size = arguments.batch_size, .seed = arguments.seed, .drop_last = true},
                    collate);
  HeldOutLoader validation({trio, /*every=*/10}, {.batch_size = 128, .shuffle = false}, collate);
  const std::int64_t steps =
      arguments.steps > 0 ? arguments.steps : arguments.epochs * loader.batches_per_epoch();
  arguments.model.warmup = steps / 20;
  torch::manual_seed(arguments.seed);
  TrioModule module(arguments.model);
  const auto progress = std::make_shared<Progress>();
  halftone::Trainer trainer({.max_steps = steps,
                             .precision = arguments.precision,
                             .gradient_clip_val = 1.0,
                             .callbacks = {progress},
                             .default_root_dir = arguments.run,
                             .overwrite = arguments.overwrite,
                             .val_check_interval = std::max<std::int64_t>(1, steps / 4),
                             .val_at_end = true,
                             .num_sanity_val_steps = 0,
                             .memory = {.memory = arguments.memory},
                             .keep_fp32 = arguments.keep_fp32,
                             .seed = arguments.seed});
  halftone::reset_peak_resident_bytes();  // what learning the tokens took is none of the training
  if (arguments.steps > 0)
    trainer.fit(module, loader, {.resume = arguments.resume});
  else
    trainer.fit(module, loader, validation, {.resume = arguments.resume});
  const double steps_of_epoch = static_cast<double>(loader.batches_per_epoch());
  std::printf("%zu steps: an epoch takes %.1f s, %.1f s of CPU time; at most %s in memory\n",
              progress->step_ms.size(), halftone::median(progress->step_ms) / 1000 * steps_of_epoch,
              halftone::median(progress->cpu_s) * steps_of_epoch,
              halftone::format_bytes(halftone::peak_resident_bytes()).c_str());
  for (const auto& [name, value] : progress->last) std::printf("%s %.3f  ", name.c_str(), value);
  std::printf("\n");
  if (arguments.steps == 0) print_recalls(test_with(trainer, module, trio));
}

torch::Tensor place_of_sound(TrioModule& module, const torch::Tensor& samples) {
  const torch::Tensor rows = rows_of_sound(spectrogram_of(samples)).unsqueeze(0);
  return module.place_of_sounds(rows, torch::full({1}, rows.size(1), torch::kLong));
}

/// Rows of a held-out emoji, and the pictures of held-out emoji that are nearest to its spoken
/// name.
torch::Tensor nearest_to_sounds(TrioModule& module, const Trio& trio) {
  constexpr std::int64_t kRows = 10;
  constexpr std::int64_t kNearest = 7;
  const std::vector<std::int64_t>& emoji = trio.held_out();
  const torch::Tensor pictures = trio.emoji().pictures(emoji, {.side = kSide});
  const torch::Tensor gallery = module.place_of_pictures(as_input(pictures));
  std::vector<torch::Tensor> shown;
  for (std::int64_t i = 0; i < kRows; ++i) {
    const std::int64_t own = i * std::ssize(emoji) / kRows;
    const std::int64_t said = trio.said(emoji[static_cast<std::size_t>(own)], 0, false).front();
    const torch::Tensor near =
        std::get<1>(gallery.matmul(place_of_sound(module, trio.sound(said))[0]).topk(kNearest));
    shown.push_back(torch::cat({pictures[own].unsqueeze(0), pictures.index_select(0, near)}));
  }
  return torch::cat(shown);
}

void test(const Arguments& arguments) {
  const halftone::SavedModel saved = halftone::load_saved_model(arguments.run);
  const auto module = module_of(saved);
  halftone::Trainer trainer(halftone::options_of(saved));
  trainer.load(arguments.run, module);
  const auto trio = std::make_shared<const Trio>(arguments.speech);
  print_recalls(test_with(trainer, *module, trio));
  if (arguments.picture.empty()) return;
  module->eval();
  const torch::NoGradGuard no_grad;
  const auto region = trainer.forward_context();
  halftone::write_png_grid(arguments.picture, nearest_to_sounds(*module, *trio), /*columns=*/8);
}

/// Where a picture, a sound or an emoji is: fp32 (1, width).
torch::Tensor place_of(TrioModule& module, const halftone::EmojiSet& set, const std::string& what) {
  if (what.ends_with(".wav")) return place_of_sound(module, halftone::read_wav(what).samples);
  if (what.ends_with(".png")) return module.place_of_pictures(picture_of_png(what).unsqueeze(0));
  const std::int64_t index = set.find(what);
  if (index < 0)
    throw halftone::UserError("expected an emoji, a FILE.png or a FILE.wav, got '" + what + "'");
  return module.place_of_pictures(as_input(set.picture(index, {.side = kSide})).unsqueeze(0));
}

void caption(const Arguments& arguments) {
  const halftone::SavedModel saved = halftone::load_saved_model(arguments.run);
  const auto module = module_of(saved);
  halftone::Trainer trainer(halftone::options_of(saved));
  trainer.load(arguments.run, module);
  module->eval();
  const halftone::EmojiSet set(halftone::fetch_dataset("emoji").folder);
  const torch::NoGradGuard no_grad;
  const auto region = trainer.forward_context();
  const std::vector<std::int64_t> known = set.without_skin_tones();
  std::vector<torch::Tensor> places;
  for (const std::int64_t index : known) {
    const Captions name =
        encode_captions(module->tokenizer, {set[index].english.name}, kLongestName);
    places.push_back(module->place_of_names(name.ids, name.lengths));
  }
  for (const std::string& what : arguments.inputs) {
    const torch::Tensor place = place_of(*module, set, what);
    std::printf("%s", what.c_str());
    for (std::int64_t language = 0; language < std::ssize(kLanguages); ++language)
      std::printf("  %s", module->tokenizer.decode(module->say(place, language)).c_str());
    const torch::Tensor near = std::get<1>(torch::cat(places).matmul(place[0]).topk(5));
    std::printf("  ");
    for (std::int64_t i = 0; i < near.size(0); ++i)
      std::printf("%s",
                  set[known[static_cast<std::size_t>(near[i].item<std::int64_t>())]].text.c_str());
    std::printf("\n");
  }
}

int run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Pictures, names and spoken names of emoji in one space.", "emoji_trio");
  app.require_subcommand(1);
  const auto command = [&](const char* name, const char* text, const auto& work) {
    CLI::App* const added = app.add_subcommand(name, text);
    added->add_option("--threads", arguments.threads, "That LibTorch computes with")
        ->check(CLI::Range(1, 1 << 20));
    added->add_option("--speech", arguments.speech, "Folder of spoken-names, if not the usual one");
    added->callback([&arguments, work] {
      torch::set_num_threads(static_cast<int>(arguments.threads));
      work(arguments);
    });
    return added;
  };
  const auto add = [](CLI::App* to, const char* name, auto& value, const char* text) {
    return to->add_option(name, value, text)->capture_default_str();
  };
  const auto add_model = [&](CLI::App* to) {
    add(to, "--width", arguments.model.width, "Of the encoders, a multiple of 32");
    add(to, "--depth", arguments.model.depth, "Layers of each encoder");
    add(to, "--decoder-dim", arguments.model.decoder_dim, "Of MiniMind, a multiple of 64");
    add(to, "--decoder-layers", arguments.model.decoder_layers, "Of MiniMind");
  };
  const auto add_precision = [&](CLI::App* to) {
    add(to, "--batch-size", arguments.batch_size, "Emoji in a step")->check(CLI::Range(1, 1 << 20));
    add(to, "--precision", arguments.precision, "As docs/numerics.md lists them");
    add(to, "--keep-fp32", arguments.keep_fp32, "Patterns of modules");
    add(to, "--seed", arguments.seed, "Of weights, order and all that is random");
  };
  CLI::App* const trained = command("train", "Train, and test", train);
  add_model(trained);
  add_precision(trained);
  add(trained, "--memory", arguments.memory, "standard, lean or leanest");
  add(trained, "--lr", arguments.model.lr, "Learning rate at its highest");
  add(trained, "--epochs", arguments.epochs, "Of about 1,670 emoji")->check(CLI::Range(1, 1 << 20));
  add(trained, "--steps", arguments.steps,
      "Instead of epochs, only to see what one takes: no validation, no test");
  add(trained, "--limit", arguments.limit, "Emoji to train on, at most");
  add(trained, "--out", arguments.run, "Folder of the run");
  trained->add_flag("--overwrite", arguments.overwrite, "Whatever run is in --out");
  trained->add_flag("--resume", arguments.resume, "Go on with the run in --out");
  CLI::App* const tested = command("test", "The recalls of a run", test);
  tested->add_option("run", arguments.run, "Folder of the run")->required();
  add(tested, "--picture", arguments.picture,
      "Also write what is nearest to some sounds: FILE.png");
  CLI::App* const said = command(
      "caption", "Say in English and Chinese what it is, and which emoji are nearest", caption);
  said->add_option("run", arguments.run, "Folder of the run")->required();
  said->add_option("inputs", arguments.inputs, "Emoji, FILE.png or FILE.wav")->required();
  CLI::App* const planned = command("plan", "Memory and time of a step, before any training", plan);
  add_model(planned);
  add(planned, "--budget", arguments.budget, "Memory that the largest batch may take")
      ->check([](const std::string& text) {
        const bool known = text == "available" || text == "unlimited";
        return known || halftone::parse_bytes(text) ? std::string()
                                                    : "expected 2GiB or available, got " + text;
      });
  add(planned, "--batch-size", arguments.planned_batch, "Instead: of this batch, if not 0");
  CLI::App* const compared = command("compare", "A step in a precision and in 32-true", compare);
  add_model(compared);
  add_precision(compared);
  add(compared, "--rows", arguments.rows, "Tensors to show, the worst first");
  compared->add_option("--run", arguments.from, "With the weights of this run");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // --help
    return app.exit(wish);
  } catch (const CLI::ParseError& error) {
    throw halftone::UserError(std::string(error.what()) + "; see emoji_trio --help");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  halftone::keep_freed_memory();
  try {
    return run(argc, argv);
  } catch (const halftone::UserError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return 1;
  }
}
