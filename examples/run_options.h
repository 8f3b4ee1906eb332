// SPDX-License-Identifier: Apache-2.0
// What programs that use a Trainer share: their command line, and two callbacks.
//
//   PROGRAM [--precision P] [--out RUN] [--epochs N | --steps N] [--limit N] [--stop-at STEP]
//   [--resume]
#pragma once

#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/train/trainer.h>
#include <torch/utils.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>

struct RunOptions {
  std::string precision = "bf16-mixed";
  std::string out;
  std::optional<std::int64_t> epochs;
  std::optional<std::int64_t> steps;                              // optimizer steps
  std::int64_t limit = std::numeric_limits<std::int64_t>::max();  // samples to train on
  std::int64_t stop_at = 0;                                       // step; 0: at the end
  bool resume = false;
};

/// `defaults` are what the program does without any flag.
inline RunOptions parse_run_options(int argc, char** argv, RunOptions defaults) {
  RunOptions options = std::move(defaults);
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--resume")
      options.resume = true;
    else if (flag == "--precision" && ++i < argc)
      options.precision = value;
    else if (flag == "--out" && ++i < argc)
      options.out = value;
    else if (flag == "--epochs" && ++i < argc)
      options.epochs = std::stoll(value);
    else if (flag == "--steps" && ++i < argc)
      options.steps = std::stoll(value);
    else if (flag == "--limit" && ++i < argc)
      options.limit = std::stoll(value);
    else if (flag == "--stop-at" && ++i < argc)
      options.stop_at = std::stoll(value);
    else
      throw halftone::UserError(
          "expected --precision, --out, --epochs, --steps, --limit, --stop-at or --resume, got " +
          flag);
  }
  if (options.steps) options.epochs.reset();
  return options;
}

/// Ends the run after a step, as Ctrl-C does: with a checkpoint.
struct StopAt : halftone::Callback {
  explicit StopAt(std::int64_t the_step) : step(the_step) {}
  void on_step_end(halftone::Trainer& trainer, const halftone::StepMetrics& metrics) override {
    if (metrics.step == step) trainer.stop();
  }
  std::int64_t step;
};

/// A line for each validation: "step   40  val_accuracy 0.6953  val_loss 0.8123".
struct PrintValidation : halftone::Callback {
  void on_validation_end(halftone::Trainer& trainer,
                         const std::map<std::string, double>& logged) override {
    if (trainer.sanity_checking()) return;  // the batches that fit() tries out before it trains
    std::printf("step %5ld", trainer.loop().counters().step);
    for (const auto& [name, value] : logged) std::printf("  %s %.4f", name.c_str(), value);
    std::printf("\n");
  }
};

/// main() of a program: errors are one line on stderr, and the exit code 1.
template <class Program>
int run_program(const Program& program) {
  torch::set_num_threads(1);  // models this small only wait for a second thread
  try {
    program();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return 1;
  }
  return 0;
}
