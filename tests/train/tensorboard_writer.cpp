// SPDX-License-Identifier: Apache-2.0
// Writes the events of a run that was killed after step 10 and resumed from step 6, below the
// folder that it is given: what tensorboard_readback_test.py reads.
#include <torch/types.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>

#include "halftone/train/tensorboard_logger.h"

namespace {

namespace fs = std::filesystem;

void log_step(halftone::TensorBoardLogger& logger, std::int64_t step, double loss) {
  logger.log_metrics(step, {{"loss", loss}, {"lr/group 0", 0.5}});
}

void write_first_process(const fs::path& run) {
  halftone::TensorBoardLogger logger;
  logger.open(run, 0);
  halftone::StateDict parameters;
  parameters.values = {{"batch|size", std::int64_t{32}},
                       {"lr", 0.25},
                       {"mixed", true},
                       {"name", std::string("two\nlines \xFF")}};
  logger.log_hyper_parameters(parameters);
  for (std::int64_t step = 1; step <= 10; ++step) {
    log_step(logger, step, step == 4 ? std::nan("") : 1.0 / static_cast<double>(step));
    logger.log_text(step, "note", "at **" + std::to_string(step) + "**");
  }
  const torch::Tensor values = torch::arange(-50, 51).to(torch::kDouble) / 7;
  logger.log_histogram(5, "weights", values);
  logger.log_histogram(5, "constant", torch::full({3, 2}, 2.5));
  const double inf = std::numeric_limits<double>::infinity();
  logger.log_histogram(
      5, "broken", torch::cat({values, torch::tensor({inf, -inf, std::nan("")}, torch::kDouble)}));
  logger.log_histogram(9, "weights", values * 2);
  log_step(logger, 11, 0.0);
  logger.close();
}

// Killed while it wrote its last event.
void tear_last_event(const fs::path& run) {
  for (const fs::directory_entry& entry : fs::directory_iterator(run / "tensorboard"))
    fs::resize_file(entry.path(), entry.file_size() - 5);
}

void write_resumed_process(const fs::path& run) {
  halftone::TensorBoardLogger logger;
  logger.open(run, 6);
  for (std::int64_t step = 7; step <= 8; ++step)
    log_step(logger, step, 100.0 + static_cast<double>(step));
  logger.log_text(7, "note", "again");
  logger.sync();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  const fs::path run = argv[1];
  write_first_process(run);
  tear_last_event(run);
  write_resumed_process(run);
  return 0;
}
