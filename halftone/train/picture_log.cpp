// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/picture_log.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/message.h"
#include "halftone/core/random.h"
#include "halftone/media/png_file.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStep = "step-";
constexpr std::string_view kPng = ".png";

/// In its scope, the default generators give what `seed` makes of them; behind it, what they would
/// have given.
class SeededGenerators {
 public:
  SeededGenerators(torch::Device device, std::uint64_t seed)
      : device_(device), before_(rng_state(device)) {
    torch::manual_seed(seed);
  }
  ~SeededGenerators() { set_rng_state(device_, before_); }
  SeededGenerators(const SeededGenerators&) = delete;
  SeededGenerators& operator=(const SeededGenerators&) = delete;

 private:
  torch::Device device_;
  StateDict before_;
};

bool is_folder_name(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

/// The step of "step-00000100.png"; less than 0 for another name.
std::int64_t step_of(const std::string& name) {
  std::int64_t step = -1;
  if (!name.starts_with(kStep) || !name.ends_with(kPng)) return step;
  const char* const end = name.data() + name.size() - kPng.size();
  const auto read = std::from_chars(name.data() + kStep.size(), end, step);
  return read.ec == std::errc() && read.ptr == end ? step : -1;
}

std::vector<LoggedPicture> pictures_in(const fs::path& folder) {
  std::vector<LoggedPicture> found;
  std::error_code error;
  for (fs::directory_iterator file(folder, error); !error && file != fs::directory_iterator();
       file.increment(error)) {
    const std::int64_t step = step_of(file->path().filename().string());
    if (step >= 0) found.push_back({folder.filename().string(), step, file->path()});
  }
  std::sort(found.begin(), found.end(),
            [](const LoggedPicture& a, const LoggedPicture& b) { return a.step < b.step; });
  return found;
}

}  // namespace

PictureLog::PictureLog(Draw draw, PictureLogOptions options)
    : draw_(std::move(draw)), options_(std::move(options)) {
  if (!is_folder_name(options_.name))
    throw UserError(fmt::format(
        "picture log: expected a name of letters, digits, _ and -, got '{}'", options_.name));
  if (!draw_ || options_.every_n_steps < 0 || options_.columns < 0)
    throw UserError(fmt::format(
        "picture log '{}': expected a function that draws, and every_n_steps and columns from 0",
        options_.name));
}

void PictureLog::on_validation_end(Trainer& trainer,
                                   const std::map<std::string, double>& /*values*/) {
  if (options_.every_n_steps == 0) draw_and_write(trainer);
}

void PictureLog::on_step_end(Trainer& trainer, const StepMetrics& metrics) {
  if (options_.every_n_steps > 0 && metrics.step % options_.every_n_steps == 0)
    draw_and_write(trainer);
}

void PictureLog::draw_and_write(Trainer& trainer) {
  const RunDirectory* const run = trainer.run_directory();
  if (run == nullptr) return;
  torch::Tensor pictures;
  {
    const SeededGenerators same(trainer.device(), options_.seed);
    const EvaluationMode mode(trainer.module());
    const auto region = trainer.forward_context();
    pictures = draw_(trainer);
  }
  if (!trainer.is_global_zero()) return;
  const fs::path folder = run->paths().pictures() / options_.name;
  try {
    fs::create_directories(folder);
    write_png_grid(folder / fmt::format("{}{:08}{}", kStep, trainer.loop().counters().step, kPng),
                   pictures.cpu(), options_.columns);
  } catch (const std::exception& error) {
    log_warning_once(fmt::format("the run goes on without its pictures in {}: {}", folder.string(),
                                 error_text(error)));
  }
}

std::vector<LoggedPicture> newest_pictures(const RunPaths& run, std::size_t most) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator folder(run.pictures(), error);
       !error && folder != fs::directory_iterator(); folder.increment(error))
    folders.push_back(folder->path());
  std::sort(folders.begin(), folders.end());
  std::vector<LoggedPicture> found;
  for (const fs::path& folder : folders) {
    const std::vector<LoggedPicture> all = pictures_in(folder);
    const auto count = static_cast<std::ptrdiff_t>(std::min(most, all.size()));
    found.insert(found.end(), all.end() - count, all.end());
  }
  return found;
}

}  // namespace halftone
