// SPDX-License-Identifier: Apache-2.0
#include "halftone/probe/probe.h"

#include <pthread.h>
#include <torch/nn/module.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/message.h"
#include "halftone/probe/backward_watch_impl.h"
#include "halftone/probe/probe_reader_impl.h"
#include "halftone/probe/probe_steps_impl.h"
#include "halftone/probe/python_modules_impl.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;

ProbeSteps steps_for(const ProbeOptions& options) {
  const bool samples = options.census || options.underflow || options.compare;
  return {options.first_nonfinite ? StepSampler(options.every.value_or(1)) : StepSampler(),
          samples ? StepSampler(options.every.value_or(0)) : StepSampler()};
}

std::string program_name() {
  try {
    std::string line = read_file("/proc/self/cmdline", 4096);
    for (char& letter : line)
      if (letter == '\0') letter = ' ';
    while (line.ends_with(' ')) line.pop_back();
    return line;
  } catch (const std::exception&) {
    return "";
  }
}

/// The one of this process.
class Probe : public BackwardListener, public std::enable_shared_from_this<Probe> {
 public:
  explicit Probe(ProbeOptions options)
      : options_(std::move(options)), steps_(steps_for(options_)), program_(program_name()) {}

  void start();
  /// Ends the watch.
  ProbeReport stop();
  /// And writes the report.
  ProbeReport finish();
  void at_exit();
  void become_child() { is_child_ = true; }
  ProbeReader& reader() { return *reader_; }

  void backward_begins() override;
  void operations_passed(std::int64_t count) override;

 private:
  void observe(bool observes);
  void found();
  void say_found(const ProbeReport::Find& find);
  void step_ends();
  ProbeReport run() const;
  ProbeReport report() const;
  void write(const ProbeReport& report) const;
  void write_quietly(const ProbeReport& report) const;
  void say(const std::string& text) const {
    std::fprintf(stderr, "halftone probe: %s\n", text.c_str());
  }

  const ProbeOptions options_;
  ProbeSteps steps_;
  const std::string program_;
  std::shared_ptr<ProbeReader> reader_;
  std::mutex observation_mutex_;
  std::optional<Observation> observation_;
  std::optional<BackwardWatch> backward_watch_;
  std::atomic<bool> is_child_ = false;
  bool has_said_ = false;
  Clock::time_point written_ = Clock::now();
};

/// Threads may use it until the process ends.
std::atomic<std::shared_ptr<Probe>>& current_probe() {
  static auto* const probe = new std::atomic<std::shared_ptr<Probe>>;
  return *probe;
}

void before_fork() {
  if (const auto probe = current_probe().load()) probe->reader().before_fork();
}
void after_fork_in_parent() {
  if (const auto probe = current_probe().load()) probe->reader().after_fork(/*is_child=*/false);
}
void after_fork_in_child() {
  const auto probe = current_probe().load();
  if (!probe) return;
  probe->become_child();
  probe->reader().after_fork(/*is_child=*/true);
}

void write_at_exit() {
  if (const auto probe = current_probe().load()) probe->at_exit();
}

void create_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw_file_error("create", folder, error.value());
  if (::access(folder.c_str(), W_OK) != 0) throw_file_error("write to", folder, errno);
}

void Probe::start() {
  create_folder(options_.folder);
  ProbeReader::Events events{
      .found = [this] { found(); },
      .stop = [this] { observe(false); },
      .step_ends = [this] { step_ends(); },
      .failed = [this](const char* what) { say(std::string("stops: ") + what); }};
  reader_ =
      options_.module == nullptr
          ? std::make_shared<ProbeReader>(options_, steps_, std::move(events))
          : std::make_shared<ProbeReader>(*options_.module, options_, steps_, std::move(events));
  PythonModules::follow();
  backward_watch_.emplace(shared_from_this());
  observe(steps_.step().is_watched());
}

void Probe::observe(bool observes) {
  const std::lock_guard lock(observation_mutex_);
  if (observes && !observation_)
    observation_.emplace(reader_);
  else if (!observes)
    observation_.reset();
  if (backward_watch_) backward_watch_->count_operations(!observes && !steps_.has_backward());
}

void Probe::backward_begins() {
  if (is_child_) return;
  reader_->backward_begins();
  const bool had_backward = steps_.has_backward();
  if (steps_.backward_begins())
    observe(true);
  else if (!had_backward)
    backward_watch_->count_operations(false);
}

void Probe::operations_passed(std::int64_t count) {
  if (!is_child_ && steps_.operations_passed(count)) observe(true);
}

void Probe::found() {
  if (has_said_) return;
  ProbeReport report = run();
  reader_->write_to_locked(report);
  write_quietly(report);
  say_found(*report.first_nonfinite);
}

void Probe::say_found(const ProbeReport::Find& find) {
  if (std::exchange(has_said_, true)) return;
  std::string where = find.module.empty() ? "" : " in " + find.module;
  if (find.is_backward && !find.autograd_node.empty()) where += " (" + find.autograd_node + ")";
  say("step " + std::to_string(find.step) + ", " + (find.is_backward ? "backward" : "forward") +
      ": " + find.operation + where + " " + verdict_of(find) + "; see " +
      (options_.folder / "probe.html").string());
}

void Probe::step_ends() {
  constexpr auto kInterval = std::chrono::seconds(60);
  if (Clock::now() - written_ < kInterval) return;
  written_ = Clock::now();
  ProbeReport report = run();
  reader_->write_to_locked(report);
  write_quietly(report);
}

ProbeReport Probe::run() const {
  ProbeReport report;
  report.run = {.program = program_,
                .libtorch = TORCH_VERSION,
                .steps = steps_.steps(),
                .searched_steps = std::min(steps_.searched_steps(), steps_.steps()),
                .sampled_steps = std::min(steps_.sampled_steps(), steps_.steps()),
                .seconds = steps_.seconds()};
  if (options_.first_nonfinite) report.run.modes.emplace_back("first-nonfinite");
  if (options_.census) report.run.modes.emplace_back("census");
  if (options_.underflow) report.run.modes.emplace_back("underflow");
  if (options_.compare) report.run.modes.emplace_back("compare");
  return report;
}

ProbeReport Probe::report() const {
  ProbeReport report = run();
  reader_->write_to(report);
  return report;
}

void Probe::write(const ProbeReport& report) const {
  create_folder(options_.folder);
  write_file_atomically(options_.folder / "probe.json", probe_json(report));
  write_file_atomically(options_.folder / "probe.html", probe_page(report));
}

void Probe::write_quietly(const ProbeReport& report) const {
  try {
    write(report);
  } catch (const std::exception& error) {
    say(error_text(error));
  }
}

ProbeReport Probe::stop() {
  observe(false);
  backward_watch_.reset();
  reader_->process_ends();
  return report();
}

ProbeReport Probe::finish() {
  ProbeReport last = stop();
  write(last);
  return last;
}

/// A process that was forked leaves the report to the one that it comes from.
void Probe::at_exit() {
  if (is_child_) return;
  try {
    const ProbeReport report = stop();
    if (!reader_->has_seen_operations()) return;
    write_quietly(report);
    if (report.first_nonfinite)
      say_found(*report.first_nonfinite);
    else
      say("the report is " + (options_.folder / "probe.html").string());
  } catch (const std::exception& error) {
    say(error_text(error));
  }
}

}  // namespace

void start_probe(const ProbeOptions& options) {
  HALFTONE_CHECK(!current_probe().load(), "[start_probe] a probe is running; stop_probe() ends it");
  const auto probe = std::make_shared<Probe>(options);
  probe->start();
  current_probe().store(probe);
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    std::atexit(write_at_exit);
  });
}

ProbeReport stop_probe() {
  const std::shared_ptr<Probe> probe = current_probe().exchange(nullptr);
  HALFTONE_CHECK(probe, "[stop_probe] no probe is running; start_probe() starts one");
  return probe->finish();
}

}  // namespace halftone
