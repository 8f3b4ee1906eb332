// SPDX-License-Identifier: Apache-2.0
#include "halftone/probe/probe_steps_impl.h"

namespace halftone {

ProbeSteps::ProbeSteps(StepSampler search, StepSampler sample) : search_(search), sample_(sample) {
  begin_step(1);
}

void ProbeSteps::begin_step(std::int64_t number) {
  step_ = {.number = number,
           .searches = search_.wants(number, seconds()),
           .samples = sample_.wants(number, seconds())};
  has_begun_ = backward_seen_ = false;
  operations_ = 0;
  step_began_ = Clock::now();
  searched_steps_ += step_.searches ? 1 : 0;
  sampled_steps_ += step_.samples ? 1 : 0;
}

double ProbeSteps::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

bool ProbeSteps::wants(std::int64_t number) const {
  return search_.wants(number, seconds()) || sample_.wants(number, seconds());
}

ProbeSteps::Step ProbeSteps::step() const {
  const std::lock_guard lock(mutex_);
  return is_observed_ && !is_waiting_ ? step_ : Step{.number = step_.number};
}

bool ProbeSteps::has_backward() const {
  const std::lock_guard lock(mutex_);
  return has_backward_;
}

std::int64_t ProbeSteps::steps() const {
  const std::lock_guard lock(mutex_);
  return has_backward_ && !backward_seen_ ? step_.number - 1 : step_.number;
}

std::int64_t ProbeSteps::searched_steps() const {
  const std::lock_guard lock(mutex_);
  return searched_steps_;
}

std::int64_t ProbeSteps::sampled_steps() const {
  const std::lock_guard lock(mutex_);
  return sampled_steps_;
}

bool ProbeSteps::backward_begins() {
  const std::lock_guard lock(mutex_);
  has_backward_ = true;
  if (is_observed_ && !is_waiting_) {
    backward_seen_ = true;
    return false;
  }
  if (is_waiting_) return false;
  // Of steps that are not watched, a second backward pass is all that is seen.
  if (backward_seen_) ++step_.number;
  backward_seen_ = true;
  if (!wants(step_.number + 1)) return false;
  is_observed_ = is_waiting_ = true;
  return true;
}

bool ProbeSteps::operations_passed(std::int64_t count) {
  const std::lock_guard lock(mutex_);
  if (is_observed_ || has_backward_) return false;
  operations_ += count;
  if (operations_ < kOperations) return false;
  operations_ = 0;
  if (!wants(step_.number + 1)) {
    ++step_.number;
    return false;
  }
  is_observed_ = is_waiting_ = true;
  return true;
}

void ProbeSteps::note_backward() {
  const std::lock_guard lock(mutex_);
  backward_ended_ = Clock::now();
}

/// What follows a backward pass is an update, unless it goes on for longer than the step before it:
/// an evaluation, perhaps.
bool ProbeSteps::lasts_too_long() const {
  return backward_seen_ && Clock::now() - backward_ended_ > backward_ended_ - step_began_ &&
         !wants(step_.number + 1);
}

ProbeSteps::Turn ProbeSteps::operation_begins(const Operation& operation) {
  const std::lock_guard lock(mutex_);
  if (!is_observed_) return Turn::kPasses;
  if (is_waiting_) {
    if (!operation.has_gradients && has_backward_) return Turn::kPasses;
    is_waiting_ = false;
    begin_step(step_.number + 1);
  }
  const bool is_over = backward_seen_ ? operation.records || lasts_too_long()
                                      : !has_backward_ && operations_ >= kOperations;
  if (is_over) return Turn::kEnds;
  ++operations_;
  const bool begins = !has_begun_;
  has_begun_ = true;
  return begins ? Turn::kBegins : Turn::kSame;
}

bool ProbeSteps::finish(double searched, double sampled) {
  const std::lock_guard lock(mutex_);
  if (step_.searches) search_.spent(searched);
  if (step_.samples) sample_.spent(sampled);
  const std::int64_t next = step_.number + 1;
  if (wants(next)) {
    begin_step(next);
    return true;
  }
  // The backward pass that comes next is that of the step `next`.
  step_ = {.number = next};
  is_observed_ = backward_seen_ = false;
  operations_ = 0;
  return false;
}

void ProbeSteps::stop_search() {
  const std::lock_guard lock(mutex_);
  search_.stop();
  step_.searches = false;
}

}  // namespace halftone
