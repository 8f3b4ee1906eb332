// SPDX-License-Identifier: Apache-2.0
// What the Trainer does about a step whose numbers are not finite: if the weights that it was
// computed with are gone, it takes the steps since the last checkpoint again.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "halftone/core/log.h"
#include "halftone/core/message.h"
#include "halftone/core/random.h"
#include "halftone/inspect/finite_scan_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/interrupt.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

bool same_state(const StateDict& a, const StateDict& b) {
  const auto equal = [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.equal(y.second);
  };
  return std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(), equal);
}

bool is_finite(const StateDict& state) {
  return std::all_of(state.tensors.begin(), state.tensors.end(), [&](const auto& item) {
    const torch::Tensor tensor = state.tensor(item.first);
    return !is_readable(tensor) || !has_non_finite(tensor);
  });
}

/// The newest whole checkpoint of an earlier step whose weights are finite.
std::optional<Checkpoint> finite_checkpoint_before(const std::filesystem::path& root,
                                                   std::int64_t step) {
  std::vector<std::int64_t> steps = checkpoint_steps(root);
  std::reverse(steps.begin(), steps.end());
  for (const std::int64_t one : steps) {
    if (one >= step) continue;
    try {
      Checkpoint checkpoint = load_checkpoint(checkpoint_folder(root, one));
      if (is_finite(checkpoint.model)) return checkpoint;
    } catch (const std::runtime_error&) {  // damaged, or on a bad disk
      continue;
    }
  }
  return std::nullopt;
}

/// Those hooks that may change a step, without those that record it.
class RetakingHooks : public StepHooks {
 public:
  explicit RetakingHooks(StepHooks& hooks) : hooks_(hooks) {}
  void on_before_zero_grad() override { hooks_.on_before_zero_grad(); }
  void on_train_batch_start(std::int64_t index) override { hooks_.on_train_batch_start(index); }
  void on_before_backward(const torch::Tensor& loss) override { hooks_.on_before_backward(loss); }
  void on_after_backward() override { hooks_.on_after_backward(); }
  void on_before_optimizer_step() override { hooks_.on_before_optimizer_step(); }
  void on_train_batch_end(std::int64_t index) override { hooks_.on_train_batch_end(index); }

 private:
  StepHooks& hooks_;
};

void add_note(Anomaly& anomaly, const std::string& note) {
  anomaly.note += (anomaly.note.empty() ? "" : "; ") + note;
}

constexpr const char* kNoRun =
    "fit() with a default_root_dir and a checkpoint from before this step would compute it again "
    "with the weights of then";
constexpr const char* kNoCheckpoint =
    "the run has no checkpoint from before this step to compute it again from; a smaller "
    "save_every "
    "writes one";
constexpr const char* kWithoutDetection =
    "resuming with detect_anomaly ends at the first such step and computes it again with the "
    "weights "
    "of then";

}  // namespace

StepMetrics Trainer::step(StepHooks& hooks) {
  const bool may_replay = options_.detect_anomaly && run_;
  PassedStep now = may_replay ? beginning_step() : PassedStep();
  try {
    StepMetrics metrics = loop_->step(hooks);
    if (!may_replay) return metrics;
    generators_ = rng_state(device());
    now.loss = metrics.loss;
    passed_.push_back(std::move(now));
    return metrics;
  } catch (const AnomalyError& error) {
    Anomaly anomaly = error.anomaly();
    const bool came_before =
        anomaly.origin && anomaly.origin->kind == NonFiniteOrigin::Kind::kParameter;
    if (options_.detect_anomaly && anomaly.weights_changed)
      compute_again(anomaly, now, hooks);
    else if (!options_.detect_anomaly && run_ && (anomaly.weights_changed || came_before))
      add_note(anomaly, kWithoutDetection);
    write_anomaly(anomaly);
    throw AnomalyError(std::move(anomaly));
  }
}

/// The next one, with the generators where they are not those that the last one left.
Trainer::PassedStep Trainer::beginning_step() const {
  PassedStep now{.step = loop_->counters().step + 1, .seconds = loop_->counters().seconds};
  StateDict generators = rng_state(device());
  if (passed_.empty() || !same_state(generators, generators_))
    now.generators = std::move(generators);
  return now;
}

/// What happened before a step that has been taken.
void Trainer::begin_again(const PassedStep* passed) {
  if (loop_->at_epoch_start()) {
    const std::int64_t epoch = loop_->counters().epochs + 1;
    call(&Callback::on_train_epoch_start, epoch);
    module().on_train_epoch_start(epoch);
  }
  if (passed == nullptr) return;
  loop_->set_seconds(passed->seconds);
  if (!passed->generators.tensors.empty()) set_rng_state(device(), passed->generators);
}

void Trainer::compute_again(Anomaly& anomaly, const PassedStep& last, StepHooks& hooks) {
  if (anomaly.step == 1) return;  // there is nothing before it
  if (!run_) return add_note(anomaly, kNoRun);
  std::optional<Checkpoint> checkpoint = finite_checkpoint_before(run_->paths().root, anomaly.step);
  if (!checkpoint) return add_note(anomaly, kNoCheckpoint);
  restore(*loop_, *std::move(checkpoint));
  Anomaly::Replay replay{.checkpoint = loop_->counters().step};
  log_note(
      fmt::format("step {}: its weights are gone; steps {} to {} are computed again from the "
                  "checkpoint to find what happened",
                  anomaly.step, replay.checkpoint + 1, anomaly.step));
  try {
    if (!retake_steps(anomaly.step, replay, hooks)) return;
    begin_again(&last);
    RetakingHooks retaking(hooks);
    Anomaly found = loop_->search_next_step(anomaly, retaking);
    ++replay.steps;
    if (!found.origin)
      return add_note(anomaly, "computed again from the checkpoint, the step was finite");
    found.replay = replay;
    anomaly = std::move(found);
  } catch (const AnomalyError& error) {
    add_note(anomaly, fmt::format("computed again from the checkpoint, the run ended at step {} "
                                  "already: not all that a step depends on is in a checkpoint",
                                  error.anomaly().step));
  }
}

/// The steps up to the one `before`; false if a signal has ended them.
bool Trainer::retake_steps(std::int64_t before, Anomaly::Replay& replay, StepHooks& hooks) {
  RetakingHooks retaking(hooks);
  while (loop_->counters().step + 1 < before) {
    if (interrupted()) return false;
    const std::int64_t next = loop_->counters().step + 1;
    const auto found = std::find_if(passed_.begin(), passed_.end(),
                                    [&](const PassedStep& one) { return one.step == next; });
    const PassedStep* const passed = found != passed_.end() ? &*found : nullptr;
    begin_again(passed);
    const StepMetrics again = loop_->step(retaking);
    ++replay.steps;
    replay.same_losses &= passed == nullptr || same_bits(again.loss, passed->loss);
    if (loop_->at_epoch_start()) module().on_train_epoch_end(again.epoch);
    module().logged().take();
  }
  return true;
}

void Trainer::write_anomaly(const Anomaly& anomaly) const {
  if (!run_) return;
  try {
    write_file_atomically(run_->paths().anomaly(), anomaly_json(anomaly));
  } catch (const std::exception& error) {
    log_warning(error_text(error));  // beside the error that ends the run
  }
}

/// The newest one; with detect_anomaly, the newest one whose weights are finite, if there is one.
Checkpoint Trainer::checkpoint_to_resume() const {
  const std::filesystem::path& root = run_->paths().root;
  Checkpoint newest = load_latest_checkpoint(root);
  if (!options_.detect_anomaly || is_finite(newest.model)) return newest;
  std::optional<Checkpoint> older = finite_checkpoint_before(root, newest.step);
  if (!older) return newest;
  log_note(
      fmt::format("the weights of checkpoint {} are not finite: the run goes on from checkpoint {}",
                  newest.step, older->step));
  return *std::move(older);
}

}  // namespace halftone
