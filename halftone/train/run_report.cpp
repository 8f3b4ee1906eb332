// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/run_report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <ctime>
#include <filesystem>
#include <system_error>
#include <utility>

#include "halftone/core/log.h"
#include "halftone/core/message.h"
#include "halftone/core/text.h"
#include "halftone/machine/machine.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"
#include "halftone/system/processor.h"
#include "halftone/train/picture_log.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMostConfigBytes = std::uint64_t{1} << 20U;

std::string device_fact(const Trainer& trainer) {
  if (!trainer.device().is_cpu()) return trainer.device().str();
  const std::string processor = this_processor().name;
  const int threads = torch::get_num_threads();
  return fmt::format("cpu, {} {}{}{}", threads, threads == 1 ? "thread" : "threads",
                     processor.empty() ? "" : ", ", processor);
}

std::string parameter_count_of(const FitLoop& loop) {
  std::int64_t count = 0;
  for (const OptimizerSetup& setup : loop.optimizers())
    for (const auto& group : setup.optimizer->param_groups())
      for (const torch::Tensor& parameter : group.params()) count += parameter.numel();
  return short_count(static_cast<double>(count));
}

std::vector<RunDescription::Fact> facts_of(const Trainer& trainer) {
  return {{"precision", trainer.policy().name},
          {"memory recipe", trainer.options().memory.memory},
          {"device", device_fact(trainer)}};
}

std::string name_of(const fs::path& run) {
  const fs::path whole = fs::absolute(run).lexically_normal();
  return whole.has_filename() ? whole.filename().string() : whole.parent_path().filename().string();
}

/// Names the log and no step: once for all that it draws.
void warn_left_out(const LoggedPicture& picture, const std::string& limit) {
  log_warning_once(fmt::format("report.html leaves out pictures of {}, for it takes {}",
                               picture.path.parent_path().string(), limit));
}

/// Those that make a page no larger than a page should be.
std::vector<RunDescription::Picture> pictures_of(const RunPaths& run) {
  constexpr std::size_t kOfEach = 4, kMost = 24;
  constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 20U;
  std::vector<RunDescription::Picture> pictures;
  for (const LoggedPicture& picture : newest_pictures(run, kOfEach)) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(picture.path, error);
    if (error) continue;
    if (size > kMostBytes)
      warn_left_out(picture, "files of at most 1 MiB");
    else if (pictures.size() >= kMost)
      warn_left_out(picture, fmt::format("at most {} pictures", kMost));
    else
      pictures.push_back({picture.name, picture.step, read_file(picture.path, kMostBytes)});
  }
  return pictures;
}

std::string now() { return fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::time(nullptr))); }

}  // namespace

void RunReport::on_fit_start(Trainer& trainer) {
  const RunDirectory* const run = trainer.run_directory();
  reader_.reset();
  if (run != nullptr && trainer.is_global_zero()) reader_.emplace(run->paths().metrics());
}

void RunReport::on_checkpoint_saved(Trainer& trainer, const fs::path& /*folder*/) {
  write(trainer, "training, as of");
}

void RunReport::on_fit_end(Trainer& trainer) {
  write(trainer, trainer.stopped() ? "stopped at" : "finished at");
}

void RunReport::on_exception(Trainer& trainer, const std::exception& error) {
  write(trainer, fmt::format("ended by an error ({}) at", error_text(error)));
}

void RunReport::write(const Trainer& trainer, const std::string& state) {
  if (!reader_) return;
  const RunPaths& run = trainer.run_directory()->paths();
  try {
    reader_->read_on();
    RunDescription description{
        .name = name_of(run.root),
        .state = fmt::format("{} step {}, {}", state, trainer.loop().counters().step, now()),
        .facts = facts_,
        .config = read_file(run.config(), kMostConfigBytes),
        .pictures = pictures_of(run)};
    if (facts_.empty())
      description.facts.push_back({"parameters", parameter_count_of(trainer.loop())});
    for (RunDescription::Fact& fact : facts_of(trainer))
      description.facts.push_back(std::move(fact));
    write_file_atomically(run.report(),
                          report_page(reader_->history(), description, reader_->ends_torn()));
  } catch (const std::exception& error) {
    log_warning_once(fmt::format("the run goes on without its report {}: {}", run.report().string(),
                                 error_text(error)));
  }
}

}  // namespace halftone
