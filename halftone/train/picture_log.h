// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "halftone/run/run_directory.h"
#include "halftone/train/callback.h"

namespace halftone {

struct PictureLogOptions {
  std::string name = "samples";    // of the folder in RUN/pictures: letters, digits, _ and -
  std::int64_t every_n_steps = 0;  // 0: after each validation
  std::int64_t columns = 0;        // of the grid; 0: about as many as lines
  std::uint64_t seed = 0;          // of the random numbers that `draw` takes
};

/// Has pictures drawn while a model trains: what a generator makes, what a decoder gets back. They
/// go to RUN/pictures/NAME/step-00000100.png as one grid, and the newest four of each name stand in
/// the report: up to 24 in all, of at most 1 MiB each. They are drawn in eval mode, without
/// gradients and in the run's precision, with the same random numbers each time, which the training
/// does not miss. In a list of callbacks before Ema or Swa, what is drawn after a validation is
/// drawn with the average. Without a default_root_dir nothing is drawn.
class PictureLog : public Callback {
 public:
  /// A batch of pictures (N, C, H, W), as write_png_grid() takes it (media/png_file.h). Every
  /// process calls it; process 0 writes.
  using Draw = std::function<torch::Tensor(Trainer& trainer)>;

  /// Throws UserError for options out of range.
  explicit PictureLog(Draw draw, PictureLogOptions options = {});

  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override;
  bool reads_weights() const override { return true; }

 private:
  void draw_and_write(Trainer& trainer);

  Draw draw_;
  PictureLogOptions options_;
};

/// A picture that a run has drawn.
struct LoggedPicture {
  std::string name;       // of its log
  std::int64_t step = 0;  // after which it was drawn
  std::filesystem::path path;
};

/// The newest `most` pictures of each log of a run, the oldest of them first. None where there are
/// none.
std::vector<LoggedPicture> newest_pictures(const RunPaths& run, std::size_t most);

}  // namespace halftone
