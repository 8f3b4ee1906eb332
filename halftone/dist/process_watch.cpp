// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>

#include "halftone/core/process_group.h"
#include "halftone/dist/process_watch_impl.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Milliseconds kLook{50};          // between two looks
constexpr Milliseconds kLongestStep{200};  // of time that counts: the rest this process stood still
constexpr Milliseconds kAnswer{5000};      // for the store to answer
constexpr Milliseconds kLeave{8000};       // for the talk to end

}  // namespace

ProcessWatch::ProcessWatch(const ProcessPlace& place, const ProcessGroupOptions& options,
                           StoreConnection connection)
    : state_(std::make_shared<WatchState>(place, options, std::move(connection))),
      exceptions_(std::uncaught_exceptions()),
      talker_([state = state_] { talk_to_store(state); }),
      looker_([this] { look(); }) {}

ProcessWatch::~ProcessWatch() {
  stop();
  leave();
}

void ProcessWatch::observe(Connections connections) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  connections_ = std::move(connections);
}

void ProcessWatch::stop() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    is_stopped_ = true;
    state_->changed.notify_all();
  }
  if (looker_.joinable()) looker_.join();
}

void ProcessWatch::leave() {
  std::unique_lock<std::mutex> lock(state_->mutex);
  if (std::uncaught_exceptions() > exceptions_)
    state_->propose(state_->ended_with(state_->place.rank, ""));
  state_->is_leaving = true;
  state_->changed.notify_all();
  const bool store_is_silent = state_->store_silent >= state_->options.silence_timeout;
  const Milliseconds limit =
      store_is_silent ? Milliseconds(0) : (state_->serves_store() ? kLeave : kAnswer / 2);
  const bool finished =
      state_->changed.wait_for(lock, limit, [&] { return state_->has_finished_talking; });
  lock.unlock();
  // A store that does not answer keeps the thread in its call, and the thread the state.
  if (finished)
    talker_.join();
  else
    talker_.detach();
}

void ProcessWatch::look() {
  auto last = Clock::now();
  while (true) {
    Connections connections;
    {
      std::unique_lock<std::mutex> lock(state_->mutex);
      if (state_->changed.wait_for(lock, kLook, [&] { return is_stopped_; })) return;
      connections = connections_;
    }
    const auto now = Clock::now();
    look_once(std::min(std::chrono::duration_cast<Milliseconds>(now - last), kLongestStep),
              connections);
    last = now;
  }
}

void ProcessWatch::look_once(Milliseconds passed, const Connections& connections) {
  const std::vector<std::int64_t> lost =
      connections.lost ? connections.lost() : std::vector<std::int64_t>();
  bool has_fault = false;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    for (const std::int64_t rank : lost) state_->peers[rank].is_lost = true;
    if (!lost.empty()) state_->changed.notify_all();
    if (!state_->has_finished_talking) state_->store_silent += passed;
    if (!state_->store_has_closed && !state_->to_store.line->is_open()) state_->lose_store();
    if (state_->fault.empty() && state_->store_silent >= state_->options.silence_timeout)
      state_->fault = state_->store_not_heard_of();
    for (std::size_t g = 0; g < state_->groups.size(); ++g) {
      WatchedGroup& group = state_->groups[g];
      if (group.is_waiting) group.waited += passed;
      if (group.waited < state_->options.operation_timeout) continue;
      state_->propose(state_->not_come(g));
      state_->changed.notify_all();
    }
    has_fault = !state_->fault.empty();
  }
  if (has_fault && connections.abort_waits) connections.abort_waits();
}

std::size_t ProcessWatch::add_group() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->groups.emplace_back();
  return state_->groups.size() - 1;
}

void ProcessWatch::begin_operation(std::size_t group, const std::string& operation) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->fault.empty()) throw ProcessGroupError(state_->fault);
  if (state_->store_has_closed) throw ProcessGroupError(state_->store_ended());
  Progress& progress = state_->groups[group].progress;
  ++progress.begun;
  progress.operation = operation;
}

void ProcessWatch::begin_wait(std::size_t group) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->groups[group].is_waiting = true;
  state_->groups[group].waited = Milliseconds(0);
}

void ProcessWatch::end_wait(std::size_t group) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->groups[group].is_waiting = false;
  state_->groups[group].waited = Milliseconds(0);
}

void ProcessWatch::throw_cause(std::int64_t rank) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->peers[rank].is_lost = state_->peers[rank].is_awaited = true;
  state_->changed.notify_all();
  const auto has_cause = [&] { return !state_->fault.empty() || state_->has_finished_talking; };
  state_->changed.wait_for(lock, kAnswer, has_cause);
  // A store that stands still is the cause itself, once it counts as such.
  if (!has_cause() && state_->store_silent >= kAnswer / 2)
    state_->changed.wait_for(lock, state_->options.silence_timeout, has_cause);
  if (state_->fault.empty()) state_->fault = state_->ended(rank);
  throw ProcessGroupError(state_->fault);
}

void ProcessWatch::throw_fault_or(const std::string& message) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  throw ProcessGroupError(state_->fault.empty() ? message : state_->fault);
}

void ProcessWatch::report_error(const std::string& error) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->propose(state_->ended_with(state_->place.rank, error));
  state_->changed.notify_all();
  state_->changed.wait_for(lock, kAnswer / 2,
                           [&] { return !state_->fault.empty() || state_->has_finished_talking; });
}

}  // namespace halftone
