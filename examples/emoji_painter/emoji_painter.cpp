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
#include <halftone/core/error.h>
#include <halftone/core/log.h>
#include <halftone/core/median.h>
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
#include <memory>
#include <span>
#include <string>
#include <vector>

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

std::vector<std::int64_t> evenly_spaced(const std::vector<std::int64_t>& all, std::int64_t count) {
  std::vector<std::int64_t> chosen;
  count = std::min(count, std::ssize(all));
  for (std::int64_t i = 0; i < count; ++i)
    chosen.push_back(all[static_cast<std::size_t>(i * std::ssize(all) / count)]);
  return chosen;
}

std::vector<std::int64_t> trained_on(const EmojiSet& set, std::int64_t limit) {
  const std::vector<std::int64_t> all = emoji_part(set, /*held_out=*/false);
  return limit > 0 ? evenly_spaced(all, limit) : all;
}

std::vector<std::string> names(const EmojiSet& set, const std::vector<std::int64_t>& indices) {
  std::vector<std::string> texts;
  texts.reserve(indices.size());
  for (const std::int64_t i : indices) texts.push_back(set[i].english.name);
  return texts;
}

void check(const PainterOptions& model) {
  if (model.side % model.patch != 0 || model.width % 64 != 0)
    throw halftone::UserError(
        "expected a --side that is a multiple of --patch and a --width that "
        "is one of 64, got " +
        std::to_string(model.side) + ", " + std::to_string(model.patch) + " and " +
        std::to_string(model.width));
}

std::shared_ptr<Painter> painter_of(const halftone::SavedModel& saved) {
  const auto number = [&](const char* name) { return saved.hyper_parameter<std::int64_t>(name); };
  return std::make_shared<Painter>(
      PainterOptions{.side = number("side"),
                     .patch = number("patch"),
                     .width = number("width"),
                     .depth = number("depth"),
                     .limit = number("limit"),
                     .tokenizer = saved.hyper_parameter<std::string>("tokenizer")});
}

/// A painter of small pictures as one of large ones, in as many patches: a large patch goes in as
/// the mean of its squares, and comes out as the small one, smoothed.
void begin_from(Painter& painter, halftone::SavedModel saved) {
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
  saved.weights.read_all();
  auto& tensors = saved.weights.tensors;
  tensors["patch_embedding.weight"] = enlarged(tensors["patch_embedding.weight"]) / times;
  tensors["to_pixels.weight"] =
      enlarged(tensors["to_pixels.weight"].t().contiguous()).t().contiguous();
  tensors["to_pixels.bias"] = enlarged(tensors["to_pixels.bias"].unsqueeze(0)).flatten();
  halftone::load_weights(painter, saved);
}

std::shared_ptr<halftone::Callback> picture_log(Painter& painter, const std::string& name,
                                                const std::vector<std::string>& texts) {
  const PainterBatch batch =
      caption_batches(painter.tokenizer, texts, painter.options.side, /*seed=*/1).front();
  return std::make_shared<halftone::PictureLog>(
      [&painter, batch](halftone::Trainer& trainer) {
        const auto there = [&](const Tensor& part) { return part.to(trainer.device()); };
        return painter.paint({there(batch.ids), there(batch.lengths), there(batch.noise), {}, {}});
      },
      halftone::PictureLogOptions{.name = name, .columns = 8});
}

void train(Arguments arguments) {
  check(arguments.model);
  const auto set = read_emoji();
  const std::vector<std::int64_t> seen = trained_on(*set, arguments.model.limit);
  const std::vector<std::int64_t> held_out = emoji_part(*set, /*held_out=*/true);
  arguments.model.tokenizer = learn_caption_tokens(*set).json();
  arguments.model.warmup = std::min<std::int64_t>(200, arguments.steps / 10);
  halftone::SavedModel from;
  if (!arguments.from.empty()) {
    from = halftone::load_saved_model(arguments.from);
    arguments.model.tokenizer = from.hyper_parameter<std::string>("tokenizer");
  }
  torch::manual_seed(1);
  Painter painter(arguments.model);
  if (!arguments.from.empty()) begin_from(painter, std::move(from));

  const std::int64_t side = arguments.model.side;
  PainterLoader loader({set, seen, side, false}, {.batch_size = arguments.batch_size, .seed = 1},
                       {painter.tokenizer});
  PainterLoader validation({set, evenly_spaced(held_out, 128), side, true},
                           {.batch_size = 64, .shuffle = false},
                           {painter.tokenizer, /*even_times=*/true});
  const std::int64_t tenth = std::max<std::int64_t>(1, arguments.steps / 10);
  halftone::Trainer trainer(
      {.max_steps = arguments.steps,
       .precision = arguments.precision,
       .gradient_clip_val = 1.0,
       .callbacks =
           {picture_log(painter, "names_it_has_seen", names(*set, evenly_spaced(seen, 16))),
            picture_log(painter, "names_held_out", names(*set, evenly_spaced(held_out, 16))),
            std::make_shared<halftone::Ema>(halftone::EmaOptions{.decay = 0.999, .warmup = true}),
            // An epoch may be a few steps.
            std::make_shared<halftone::ModelCheckpoint>(
                halftone::ModelCheckpointOptions{.every_n_steps = tenth, .every_n_epochs = 0})},
       .enable_progress_bar = true,
       .default_root_dir = arguments.run,
       .val_check_interval = tenth,
       .num_sanity_val_steps = 0});
  halftone::reset_peak_resident_bytes();  // what learning the tokens took is none of the training
  trainer.fit(painter, loader, validation, {.resume = arguments.resume});
  std::printf("at most %s in memory\n",
              halftone::format_bytes(halftone::peak_resident_bytes()).c_str());
}

/// A trained painter in a precision.
struct LoadedPainter {
  LoadedPainter(const Arguments& arguments, const std::string& precision)
      : painter(painter_of(halftone::load_saved_model(arguments.run))),
        trainer({.precision = precision, .enable_progress_bar = false}),
        seed(arguments.paint.seed) {
    trainer.load(arguments.run, painter);
    painter->paint_options = arguments.paint;
  }
  Tensor paint(const std::vector<std::string>& texts) {
    return torch::cat(trainer.predict(
        painter, caption_batches(painter->tokenizer, texts, painter->options.side, seed)));
  }
  std::shared_ptr<Painter> painter;
  halftone::Trainer trainer;
  std::uint64_t seed;
  std::vector<double> seconds;  // of one picture
};

void paint(const Arguments& arguments) {
  LoadedPainter loaded(arguments, arguments.precision);
  for (const std::string& text : arguments.texts)
    if (std::ssize(loaded.painter->tokenizer.encode(text)) > kLongestCaption - 2)
      halftone::log_warning("only the first words are read: '" + text + "' is too long");
  halftone::write_png_grid(arguments.out, loaded.paint(arguments.texts));
  std::printf("%s\n", arguments.out.c_str());
}

/// A table of what each precision costs and changes: seconds of one picture, taken in turn, and how
/// far pictures of the same noise are from those of the first precision.
void measure(const Arguments& arguments) {
  const auto set = read_emoji();
  std::vector<LoadedPainter> painters;
  for (const std::string& precision : arguments.precisions)
    painters.emplace_back(arguments, precision);
  const std::vector<std::int64_t> all = trained_on(*set, painters.front().painter->options.limit);
  const std::vector<std::int64_t> seen = evenly_spaced(all, arguments.pictures);
  const std::vector<std::int64_t> held_out =
      evenly_spaced(emoji_part(*set, /*held_out=*/true), arguments.pictures);
  const std::vector<std::string> one =
      arguments.texts.empty() ? names(*set, {seen.front()}) : arguments.texts;
  for (std::int64_t round = -1; round < arguments.rounds; ++round)
    for (LoadedPainter& each : painters) {  // the first round warms up
      const auto start = std::chrono::steady_clock::now();
      each.paint(one);
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (round >= 0) each.seconds.push_back(passed.count());
    }
  std::printf(
      "| precision | seconds | times faster | PSNR | SSIM | own emoji | a word | chance |\n"
      "|---|---|---|---|---|---|---|---|\n");
  const NearestEmoji nearest(set, all);
  Tensor reference;
  for (std::size_t i = 0; i < painters.size(); ++i) {
    const Tensor known = painters[i].paint(names(*set, seen));
    const Tensor unknown = painters[i].paint(names(*set, held_out));
    const Tensor both = torch::cat({known, unknown});
    if (i == 0) reference = both;
    const auto shared = nearest.shared_word(unknown, held_out);
    // Of the mean squared error over all: one picture that is equal would make a mean infinite.
    const double psnr =
        -10 * (both - reference).to(torch::kDouble).square().mean().log10().item<double>();
    std::printf("| %s | %.3f | %.2f | %.1f | %.4f | %.2f | %.2f | %.2f |\n",
                arguments.precisions[i].c_str(), halftone::median(painters[i].seconds),
                halftone::median(painters[0].seconds) / halftone::median(painters[i].seconds), psnr,
                halftone::structural_similarity(both, reference).mean().item<double>(),
                nearest.own_family(known, seen), shared.nearest, shared.chance);
    std::fflush(stdout);
  }
}

/// Which tensors of a training step a precision gets wrong.
void compare(const Arguments& arguments) {
  const auto set = read_emoji();
  const halftone::SavedModel saved = halftone::load_saved_model(arguments.run);
  const auto painter = painter_of(saved);
  halftone::load_weights(*painter, saved);
  const PainterOptions& options = painter->options;
  const PainterLoader loader({set, trained_on(*set, options.limit), options.side, false},
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
  check(arguments.model);
  const auto set = read_emoji();
  arguments.model.tokenizer = learn_caption_tokens(*set).json();
  const PainterOptions& model = arguments.model;
  // Drawn as in a run, so that process_bytes() counts them.
  const CaptionedEmoji samples(set, trained_on(*set, model.limit), model.side, false);
  const auto training = halftone::planned_training(
      [model] { return std::make_shared<Painter>(model); },
      [side = model.side](std::int64_t count) {
        constexpr std::int64_t kTokens = 24;  // of the longest caption of most batches
        return PainterBatch{torch::zeros({count, kTokens}, torch::kLong),
                            torch::full({count}, kTokens, torch::kLong),
                            torch::zeros({count, 3, side, side}),
                            torch::zeros({count, 3, side, side}, torch::kUInt8),
                            torch::zeros({count}, torch::kLong)};
      });
  halftone::measure_machine_speed();  // so that the process has what any that computes has
  const std::uint64_t average = halftone::plan_module(training, {}, 1, 0).bytes.weights;  // Ema's
  const std::uint64_t process = halftone::process_bytes() + average;
  std::vector<halftone::ModulePlan> plans =
      halftone::plan_precisions(training, arguments.precisions, {}, arguments.batch_size, process);
  if (!arguments.budget.empty()) {
    const std::uint64_t budget = halftone::budget_bytes(arguments.budget);
    for (const std::string& precision : arguments.precisions)
      if (const auto largest =
              halftone::largest_batch(training, {.precision = precision}, {budget}, process))
        plans.push_back(*largest);
      else
        std::printf("%s: not even one picture fits into %s\n", precision.c_str(),
                    halftone::format_bytes(budget).c_str());
  }
  std::printf("%s", halftone::module_plans_text(plans, samples.size(),
                                                halftone::measure_machine_speed(plans))
                        .c_str());
}

/// The flags of all commands, each an option of the commands that have it.
class CommandLine {
 public:
  explicit CommandLine(Arguments& arguments) : to_(arguments) {
    app.require_subcommand(1);
    add_train();
    add_paint();
    add_measure();
    add_compare();
    add_plan();
  }

  CLI::App app{"Paints emoji from words."};

 private:
  template <class Work>
  CLI::App& command(const char* name, const char* what, Work work) {
    CLI::App& added = *app.add_subcommand(name, what);
    added.add_option("--threads", threads_, "that LibTorch computes with")
        ->check(CLI::PositiveNumber);
    added.callback([this, work] {
      if (threads_ > 0) torch::set_num_threads(threads_);
      work(to_);
    });
    return added;
  }
  template <class Value>
  static CLI::Option* number(CLI::App& command, const char* name, Value& value, const char* what) {
    return command.add_option(name, value, what)->capture_default_str()->check(CLI::PositiveNumber);
  }
  void add_run(CLI::App& command) {
    command.add_option("RUN", to_.run, "what train wrote")->required();
  }
  void add_precision(CLI::App& command) {
    command.add_option("--precision", to_.precision)->capture_default_str();
  }
  void add_precisions(CLI::App& command) {
    command.add_option("--precisions", to_.precisions, "the first is the reference")
        ->delimiter(',')
        ->capture_default_str();
  }
  void add_sampling(CLI::App& command) {
    number(command, "--steps", to_.paint.steps, "from noise to picture");
    command
        .add_option("--guidance", to_.paint.guidance,
                    "how much the words weigh; 1: as they were learned")
        ->capture_default_str();
    command.add_option("--seed", to_.paint.seed, "of the noise")->capture_default_str();
  }
  void add_model(CLI::App& command) {
    number(command, "--batch-size", to_.batch_size, "pictures of a step");
    number(command, "--side", to_.model.side, "pixels of a picture's side")
        ->check(CLI::Range(16, 1024));
    number(command, "--patch", to_.model.patch, "pixels of a patch's side");
    number(command, "--width", to_.model.width, "of the transformer, a multiple of 64");
    number(command, "--depth", to_.model.depth, "blocks of the painter");
    command.add_option("--limit", to_.model.limit, "emoji to learn from; 0: all")
        ->capture_default_str()
        ->check(CLI::NonNegativeNumber);
  }

  void add_train() {
    CLI::App& added = command("train", "learns to paint", train);
    added.add_option("--out", to_.run, "folder of the run")->capture_default_str();
    add_precision(added);
    number(added, "--steps", to_.steps, "optimizer steps");
    number(added, "--lr", to_.model.lr, "learning rate");
    add_model(added);
    added.add_option("--from", to_.from,
                     "begins with this run's weights, whose pictures may be smaller");
    added.add_flag("--resume", to_.resume, "goes on with the run");
  }
  void add_paint() {
    CLI::App& added = command("paint", "paints what one says", paint);
    add_run(added);
    added.add_option("TEXT", to_.texts, "\"blue heart\"")->required();
    added.add_option("--out", to_.out, "PNG, a grid")->capture_default_str();
    add_precision(added);
    add_sampling(added);
  }
  void add_measure() {
    CLI::App& added = command("measure", "what each precision costs", measure);
    add_run(added);
    add_precisions(added);
    number(added, "--pictures", to_.pictures, "of names it has seen, and of names held out");
    number(added, "--rounds", to_.rounds, "that a picture's time is the median of");
    added.add_option("--text", to_.texts, "of the picture that is timed; the first name otherwise")
        ->expected(1);
    add_sampling(added);
  }
  void add_compare() {
    CLI::App& added = command("compare", "which tensors a precision gets wrong", compare);
    add_run(added);
    add_precision(added);
    added.add_option("--keep-fp32", to_.keep_fp32, "modules that stay in fp32");
    number(added, "--tensors", to_.pictures, "lines, the worst first");
  }
  void add_plan() {
    CLI::App& added = command("plan", "memory and seconds of a training", plan);
    add_model(added);
    add_precisions(added);
    added
        .add_option("--budget", to_.budget,
                    "also the largest batch that such memory holds: 2GiB, available")
        ->check([](const std::string& text) {
          const bool known = text == "available" || text == "unlimited";
          return known || halftone::parse_bytes(text) ? std::string()
                                                      : "expected 2GiB or available, got " + text;
        });
  }

  Arguments& to_;
  int threads_ = 0;  // 0: as many as LibTorch takes
};

}  // namespace

int main(int argc, char** argv) {
  halftone::keep_freed_memory();
  Arguments arguments;
  CommandLine line(arguments);
  try {
    line.app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return line.app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return dynamic_cast<const halftone::UserError*>(&error) != nullptr ? 2 : 1;
  }
  return 0;
}
