// SPDX-License-Identifier: Apache-2.0
// Paints emoji from words: trains the diffusion transformer of painter_module.h on the emoji of the
// system's font, paints what one asks for, and measures what each precision costs.
//
//   emoji_painter train --out runs/painter
//   emoji_painter paint runs/painter "blue heart" "cat with sunglasses" --out hearts.png
//   emoji_painter measure runs/painter --precisions 32-true,bf16-mixed,int8-mixed
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/core/text.h>
#include <halftone/data/datasets.h>
#include <halftone/diagnostics/compare/compare.h>
#include <halftone/diagnostics/compare/compare_summary.h>
#include <halftone/media/picture_quality.h>
#include <halftone/media/png_file.h>
#include <halftone/plan/module_plan.h>
#include <halftone/system/memory.h>
#include <halftone/train/model_checkpoint.h>
#include <halftone/train/picture_log.h>
#include <halftone/train/trainer.h>
#include <halftone/train/weight_averaging.h>
#include <torch/nn/functional/upsampling.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <span>
#include <string>

#include "painter_module.h"
#include "picture_scores.h"

namespace {

using halftone::EmojiSet;
using torch::Tensor;

struct Arguments {
  PainterOptions model;
  PaintOptions paint;
  std::string run = "runs/painter";
  std::string precision = "bf16-mixed";
  std::int64_t steps = 6500;
  std::int64_t batch_size = 32;
  std::int64_t limit = 0;  // 0: all
  std::string from;
  bool resume = false;
  std::vector<std::string> texts;
  std::string out = "painted.png";
  std::vector<std::string> precisions{"32-true", "bf16-mixed", "int8-mixed"};
  std::vector<std::string> keep_fp32;
  std::int64_t pictures = 32;
  std::int64_t rounds = 5;
  std::string budget;
};

std::shared_ptr<const EmojiSet> read_emoji() {
  return std::make_shared<const EmojiSet>(halftone::fetch_dataset("emoji").folder);
}

/// `count` of `indices`, at equal distances.
std::vector<std::int64_t> some(const std::vector<std::int64_t>& indices, std::int64_t count) {
  std::vector<std::int64_t> chosen;
  count = std::min(count, std::ssize(indices));
  for (std::int64_t i = 0; i < count; ++i)
    chosen.push_back(indices[static_cast<std::size_t>(i * std::ssize(indices) / count)]);
  return chosen;
}

std::vector<std::string> names(const EmojiSet& set, const std::vector<std::int64_t>& indices) {
  std::vector<std::string> texts;
  texts.reserve(indices.size());
  for (const std::int64_t i : indices) texts.push_back(set[i].english.name);
  return texts;
}

std::vector<std::int64_t> trained_on(const EmojiSet& set, std::int64_t limit) {
  const std::vector<std::int64_t> all = emoji_part(set, /*held_out=*/false);
  return limit > 0 ? some(all, limit) : all;
}

std::shared_ptr<Painter> painter_of(const halftone::SavedModel& saved) {
  return std::make_shared<Painter>(
      PainterOptions{.side = saved.hyper_parameter<std::int64_t>("side"),
                     .patch = saved.hyper_parameter<std::int64_t>("patch"),
                     .width = saved.hyper_parameter<std::int64_t>("width"),
                     .depth = saved.hyper_parameter<std::int64_t>("depth"),
                     .tokenizer = saved.hyper_parameter<std::string>("tokenizer")});
}

/// A painter of small pictures as one of large ones, in as many patches: a large patch goes in as
/// the mean of its squares, and comes out as the small one, smoothed.
void begin_from(Painter& painter, const std::string& run) {
  halftone::SavedModel saved = halftone::load_saved_model(run);
  const auto patch = saved.hyper_parameter<std::int64_t>("patch");
  const double times = static_cast<double>(painter.options.patch) / static_cast<double>(patch);
  const auto enlarged = [&](const Tensor& weight) {  // (N, 3 patch patch)
    namespace F = torch::nn::functional;
    return F::interpolate(weight.view({-1, 3, patch, patch}),
                          F::InterpolateFuncOptions()
                              .size(std::vector<std::int64_t>(2, painter.options.patch))
                              .mode(torch::kBilinear)
                              .align_corners(false))
        .flatten(1);
  };
  halftone::StateDict& weights = saved.weights;
  weights.read_all();
  auto& tensors = weights.tensors;
  tensors["patches.weight"] = enlarged(tensors["patches.weight"]) / times;
  tensors["pixels.weight"] = enlarged(tensors["pixels.weight"].t().contiguous()).t().contiguous();
  tensors["pixels.bias"] = enlarged(tensors["pixels.bias"].unsqueeze(0)).flatten();
  halftone::load_weights(painter, saved);
}

void train(Arguments arguments) {
  if (arguments.model.side % arguments.model.patch != 0)
    throw halftone::UserError("expected a --side that is a multiple of --patch, got " +
                              std::to_string(arguments.model.side) + " and " +
                              std::to_string(arguments.model.patch));
  const auto set = read_emoji();
  const std::vector<std::int64_t> seen = trained_on(*set, arguments.limit);
  const std::vector<std::int64_t> held_out = emoji_part(*set, /*held_out=*/true);
  arguments.model.tokenizer = learn_caption_tokens(*set).json();
  arguments.model.warmup = std::min<std::int64_t>(200, arguments.steps / 10);
  torch::manual_seed(1);
  Painter painter(arguments.model);
  if (!arguments.from.empty()) begin_from(painter, arguments.from);
  const std::int64_t side = arguments.model.side;
  PainterLoader loader({set, seen, side, false}, {.batch_size = arguments.batch_size, .seed = 1},
                       {painter.tokenizer});
  PainterLoader validation({set, some(held_out, 128), side, true},
                           {.batch_size = 64, .shuffle = false}, {painter.tokenizer});

  const auto log_of = [&](const char* name, const std::vector<std::string>& texts) {
    const PainterBatch wish = wishes(painter.tokenizer, texts, texts.size()).front();
    return std::make_shared<halftone::PictureLog>(
        [&painter, wish](halftone::Trainer&) { return painter.paint(wish.ids, wish.lengths); },
        halftone::PictureLogOptions{.name = name, .columns = 8});
  };
  const std::int64_t tenth = std::max<std::int64_t>(1, arguments.steps / 10);
  halftone::Trainer trainer(
      {.max_steps = arguments.steps,
       .precision = arguments.precision,
       .gradient_clip_val = 1.0,
       .callbacks = {log_of("names_it_has_seen", names(*set, some(seen, 16))),
                     log_of("names_held_out", names(*set, some(held_out, 16))),
                     std::make_shared<halftone::Ema>(
                         halftone::EmaOptions{.decay = 0.999, .warmup = true}),
                     // An epoch may be a few steps.
                     std::make_shared<halftone::ModelCheckpoint>(halftone::ModelCheckpointOptions{
                         .every_n_steps = tenth, .every_n_epochs = 0})},
       .enable_progress_bar = true,
       .default_root_dir = arguments.run,
       .val_check_interval = tenth,
       .num_sanity_val_steps = 0});
  trainer.fit(painter, loader, validation, {.resume = arguments.resume});
  std::printf("at most %s in memory\n",
              halftone::format_bytes(halftone::peak_resident_bytes()).c_str());
}

/// A trained painter in a precision.
struct Ready {
  explicit Ready(const Arguments& arguments, const std::string& precision)
      : painter(painter_of(halftone::load_saved_model(arguments.run))),
        trainer({.precision = precision, .enable_progress_bar = false}) {
    trainer.load(arguments.run, painter);
    painter->how = arguments.paint;
  }
  Tensor paint(const std::vector<std::string>& texts) {
    return torch::cat(trainer.predict(painter, wishes(painter->tokenizer, texts, 8)));
  }
  std::shared_ptr<Painter> painter;
  halftone::Trainer trainer;
  std::vector<double> seconds;  // of a picture
};

void paint(const Arguments& arguments) {
  halftone::write_png_grid(arguments.out,
                           Ready(arguments, arguments.precision).paint(arguments.texts));
  std::printf("%s\n", arguments.out.c_str());
}

/// A table of what each precision costs and changes: seconds of one picture, taken in turn, and how
/// far pictures of the same seeds are from those of the first precision.
void measure(const Arguments& arguments) {
  const auto set = read_emoji();
  const std::vector<std::int64_t> all = trained_on(*set, arguments.limit);
  const std::vector<std::int64_t> seen = some(all, arguments.pictures);
  const std::vector<std::int64_t> held_out =
      some(emoji_part(*set, /*held_out=*/true), arguments.pictures);
  std::vector<Ready> ready;
  for (const std::string& precision : arguments.precisions)
    ready.emplace_back(arguments, precision);
  const std::vector<std::string> one = names(*set, {seen.front()});
  for (std::int64_t round = -1; round < arguments.rounds; ++round)
    for (Ready& each : ready) {  // the first round warms up
      const auto start = std::chrono::steady_clock::now();
      each.paint(one);
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (round >= 0) each.seconds.push_back(passed.count());
    }
  std::printf(
      "| precision | seconds | times faster | PSNR | SSIM | own emoji | a word | chance |\n"
      "|---|---|---|---|---|---|---|---|\n");
  Tensor reference;
  for (std::size_t i = 0; i < ready.size(); ++i) {
    const auto median = [&](std::vector<double> values) {
      std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
      return values[values.size() / 2];
    };
    const Tensor known = ready[i].paint(names(*set, seen));
    const Tensor unknown = ready[i].paint(names(*set, held_out));
    const Tensor both = torch::cat({known, unknown});
    if (i == 0) reference = both;
    const SharedWord shared = shared_word(unknown, *set, held_out, all);
    std::printf("| %s | %.3f | %.2f | %.1f | %.4f | %.2f | %.2f | %.2f |\n",
                arguments.precisions[i].c_str(), median(ready[i].seconds),
                median(ready[0].seconds) / median(ready[i].seconds),
                halftone::peak_signal_to_noise(both, reference).mean().item<double>(),
                halftone::structural_similarity(both, reference).mean().item<double>(),
                own_family_share(known, *set, seen, all), shared.nearest, shared.chance);
    std::fflush(stdout);
  }
}

/// Which tensors of a training step a precision gets wrong.
void compare(const Arguments& arguments) {
  const auto set = read_emoji();
  const auto painter = painter_of(halftone::load_saved_model(arguments.run));
  halftone::load_weights(*painter, halftone::load_saved_model(arguments.run));
  const PainterLoader loader({set, trained_on(*set, arguments.limit), painter->options.side, false},
                             {.batch_size = 8, .seed = 2}, {painter->tokenizer});
  const PainterBatch batch = loader.batch_at(0);
  const auto found = halftone::compare_precisions(
      halftone::training_step_on(*painter, batch),
      {.precision = arguments.precision, .keep_fp32 = arguments.keep_fp32});
  std::printf("%s\n", halftone::verdict_sentence(found).c_str());
  for (const std::string& module : found.judgement.keep_fp32)
    std::printf("in fp32: %s\n", module.c_str());
  const auto worst = halftone::worst_first(found);
  for (const auto* tensor :
       std::span(worst).first(std::min(worst.size(), static_cast<std::size_t>(arguments.pictures))))
    std::printf("%-60s %-12s error %s, %s of what rounding makes\n", tensor->name.c_str(),
                halftone::to_string(tensor->verdict), halftone::shown_error(*tensor).c_str(),
                halftone::shown_ratio(*tensor).c_str());
}

/// Memory and seconds of a training in each precision, and the largest batch that a budget holds.
void plan(Arguments arguments) {
  const auto set = read_emoji();
  arguments.model.tokenizer = learn_caption_tokens(*set).json();
  const PainterOptions& model = arguments.model;
  const CaptionedEmoji samples(set, trained_on(*set, arguments.limit), model.side, false);
  const auto training = halftone::planned_training(
      [model] { return std::make_shared<Painter>(model); },
      [side = model.side](std::int64_t count) {
        constexpr std::int64_t kTokens = 24;  // of the longest caption of most batches
        return PainterBatch{torch::zeros({count, kTokens}, torch::kLong),
                            torch::full({count}, kTokens, torch::kLong),
                            torch::zeros({count, 3, side, side}, torch::kUInt8)};
      });
  halftone::measure_machine_speed();  // so that the process has what any that computes has
  const std::uint64_t average = halftone::plan_module(training, {}, 1, 0).bytes.weights;  // Ema's
  const std::uint64_t process = halftone::process_bytes() + average;
  std::vector<halftone::ModulePlan> plans =
      halftone::plan_precisions(training, arguments.precisions, {}, arguments.batch_size, process);
  for (const std::string& precision : arguments.precisions)
    if (!arguments.budget.empty())
      if (const auto largest =
              halftone::largest_batch(training, {.precision = precision},
                                      {halftone::budget_bytes(arguments.budget)}, process))
        plans.push_back(*largest);
  std::printf("%s", halftone::module_plans_text(plans, samples.size(),
                                                halftone::measure_machine_speed(plans))
                        .c_str());
}

/// The text of an error and the exit code that goes with it.
int tell(const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
  return dynamic_cast<const halftone::UserError*>(&error) != nullptr ? 2 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  halftone::keep_freed_memory();
  Arguments arguments;
  CLI::App app("Paints emoji from words.");
  app.require_subcommand(1);
  std::int64_t threads = 0;
  app.add_option("--threads", threads, "nothing: as many as LibTorch takes")
      ->check(CLI::PositiveNumber);
  const auto number = [](CLI::App& command, const char* name, auto& value, const char* what) {
    return command.add_option(name, value, what)->capture_default_str()->check(CLI::PositiveNumber);
  };
  const auto run_of = [&](CLI::App& command) {
    command.add_option("RUN", arguments.run, "what train wrote")->required();
  };
  const auto precisions_of = [&](CLI::App& command) {
    command.add_option("--precisions", arguments.precisions, "the first is the reference")
        ->delimiter(',')
        ->capture_default_str();
  };
  const auto precision_of = [&](CLI::App& command) {
    command.add_option("--precision", arguments.precision)->capture_default_str();
  };
  const auto limit_of = [&](CLI::App& command, const char* what) {
    command.add_option("--limit", arguments.limit, what)
        ->capture_default_str()
        ->check(CLI::NonNegativeNumber);
  };
  const auto paint_of = [&](CLI::App& command) {
    command.add_option("--steps", arguments.paint.steps, "from noise to picture")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    command
        .add_option("--guidance", arguments.paint.guidance,
                    "how much the words weigh; 1: as they were learnt")
        ->capture_default_str();
    command.add_option("--seed", arguments.paint.seed)->capture_default_str();
  };

  const auto model_of = [&](CLI::App& command) {
    number(command, "--batch-size", arguments.batch_size, "pictures of a step");
    number(command, "--side", arguments.model.side, "pixels of a picture's side")
        ->check(CLI::Range(16, 1024));
    number(command, "--patch", arguments.model.patch, "pixels of a token's side");
    number(command, "--width", arguments.model.width, "numbers of a token");
    number(command, "--depth", arguments.model.depth, "blocks");
    limit_of(command, "emoji to learn from; 0: all");
  };

  CLI::App& train_command = *app.add_subcommand("train", "learns to paint");
  precision_of(train_command);
  train_command.add_option("--out", arguments.run, "folder of the run")->capture_default_str();
  number(train_command, "--steps", arguments.steps, "optimizer steps");
  number(train_command, "--lr", arguments.model.lr, "learning rate");
  model_of(train_command);
  train_command.add_option("--from", arguments.from,
                           "begins with this run's weights, whose pictures may be smaller");
  train_command.add_flag("--resume", arguments.resume, "goes on with the run");
  train_command.callback([&] { train(arguments); });

  CLI::App& paint_command = *app.add_subcommand("paint", "paints what one says");
  run_of(paint_command);
  paint_command.add_option("TEXT", arguments.texts, "\"blue heart\"")->required();
  paint_command.add_option("--out", arguments.out, "PNG, a grid")->capture_default_str();
  precision_of(paint_command);
  paint_of(paint_command);
  paint_command.callback([&] { paint(arguments); });

  CLI::App& measure_command = *app.add_subcommand("measure", "what each precision costs");
  run_of(measure_command);
  precisions_of(measure_command);
  number(measure_command, "--pictures", arguments.pictures, "of names seen, and of names held out");
  number(measure_command, "--rounds", arguments.rounds, "that a picture's time is the median of");
  limit_of(measure_command, "emoji that the run has learnt from; 0: all");
  paint_of(measure_command);
  measure_command.callback([&] { measure(arguments); });

  CLI::App& plan_command = *app.add_subcommand("plan", "memory and seconds of a training");
  model_of(plan_command);
  precisions_of(plan_command);
  plan_command.add_option("--budget", arguments.budget,
                          "also the largest batch that such memory holds: 2GiB, available");
  plan_command.callback([&] { plan(arguments); });

  CLI::App& compare_command = *app.add_subcommand("compare", "what a precision gets wrong");
  run_of(compare_command);
  precision_of(compare_command);
  compare_command.add_option("--keep-fp32", arguments.keep_fp32, "modules that stay in fp32");
  number(compare_command, "--tensors", arguments.pictures, "lines, the worst first");
  compare_command.callback([&] { compare(arguments); });

  app.parse_complete_callback([&] {
    if (threads > 0) torch::set_num_threads(static_cast<int>(threads));
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    return tell(error);
  }
  return 0;
}
