// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_command.h"
#include "cli/compare_command.h"
#include "cli/data_command.h"
#include "cli/doctor_command.h"
#include "cli/eval_command.h"
#include "cli/export_command.h"
#include "cli/generate_command.h"
#include "cli/help.h"
#include "cli/launch_command.h"
#include "cli/plan_command.h"
#include "cli/profile_command.h"
#include "cli/program.h"
#include "cli/tokenizer_command.h"
#include "cli/train_command.h"
#include "cli/tune_command.h"
#include "halftone/system/memory.h"

/// main(), called by launcher.cpp.
extern "C" int halftone_main(int argc, char** argv) {
  halftone::keep_freed_memory();
  CLI::App app(
      "Mixed-precision training for C++ on LibTorch: you name a precision, halftone trains in it.",
      "halftone");
  app.set_version_flag("--version",
                       fmt::format("halftone {} (LibTorch {})", HALFTONE_VERSION, TORCH_VERSION));
  app.formatter(std::make_shared<halftone::cli::HelpFormatter>());  // commands take it over
  app.require_subcommand(1);
  halftone::cli::add_train_command(app);
  halftone::cli::add_generate_command(app);
  halftone::cli::add_eval_command(app);
  halftone::cli::add_export_command(app);
  std::vector<std::string> args(argv + 1, argv + argc);
  halftone::cli::add_launch_command(app, halftone::cli::take_launched_words(args));
  halftone::cli::add_bench_command(app);
  halftone::cli::add_doctor_command(app);
  halftone::cli::add_plan_command(app);
  halftone::cli::add_compare_command(app);
  halftone::cli::add_profile_command(app);
  halftone::cli::add_tune_command(app);
  halftone::add_data_command(app);
  halftone::add_tokenizer_command(app);
  app.footer(
      "Examples:\n"
      "  halftone train --preset tiny --data poems.txt --max-time 3m --out runs/poems\n"
      "  halftone train --resume runs/poems\n"
      "  halftone generate runs/poems --prompt 春\n"
      "  halftone eval runs/poems --data more-poems.txt\n"
      "  halftone export runs/poems --format gguf --dtype int8\n"
      "\n"
      "'halftone COMMAND --help' says more about a command.");
  return halftone::cli::run_program(app, std::move(args));
}
