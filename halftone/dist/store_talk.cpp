// SPDX-License-Identifier: Apache-2.0
// The store holds a beat of each process, and the group's fault: its first cause, which the first
// process that saw it has written. Others then see the consequences alone, and name what stands
// there.
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "halftone/core/process_group.h"
#include "halftone/dist/watch_state_impl.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;
constexpr const char* kFault = "fault";
constexpr std::int64_t kWatched = 32;  // that one process watches; each is watched by as many
constexpr Milliseconds kLinger{5000}, kLingerPoll{20}, kArrivalPoll{50};
constexpr Milliseconds kLastPoll{5};
constexpr int kLastPolls = 40;

std::string beat_key(std::int64_t rank) { return fmt::format("beat/{}", rank); }

std::vector<std::uint8_t> bytes_of_text(const std::string& text) {
  return {text.begin(), text.end()};
}

void set_beat(c10d::Store& store, std::int64_t rank, const Beat& beat) {
  store.set(beat_key(rank), bytes_of_text(beat.text()));
}

// One exchange with the store, which is slow and happens without the lock.
class Talk {
 public:
  explicit Talk(WatchState& state) : state_(state) {}

  /// Where the process that serves the store goes, its connections close one after another.
  /// Speaking into one that has not yet closed would end in a warning of LibTorch's.
  bool is_open() {
    const auto& line = *state_.to_store.line;
    for (int i = 0; i < kLastPolls && line.is_open() && server_is_lost(); ++i)
      std::this_thread::sleep_for(kLastPoll);
    return line.is_open();
  }

  void exchange() {
    prepare();
    // An empty proposal reads. Who leaves has said why before it says that it has left.
    const std::string fault = state_.to_store.store->compareSet(kFault, "", proposal_);
    set_beat(*state_.to_store.store, state_.place.rank, own_);
    std::vector<std::string> keys;
    for (const std::int64_t rank : watched_) keys.push_back(beat_key(rank));
    const auto beats = state_.to_store.store->multiGet(keys);
    const std::lock_guard<std::mutex> lock(state_.mutex);
    state_.store_silent = Milliseconds(0);
    if (!fault.empty()) state_.fault = fault;
    const Milliseconds passed = time_since_last();
    for (std::size_t i = 0; i < watched_.size(); ++i)
      hear(watched_[i], Beat::parse({beats[i].begin(), beats[i].end()}), passed);
    state_.changed.notify_all();
  }

  /// Has this process nothing more to say, and nobody more to serve?
  bool is_done() {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    if (!own_.has_left) return false;
    if (!state_.serves_store()) return true;
    if (left_at_ == Clock::time_point()) left_at_ = Clock::now();
    return Clock::now() - left_at_ > kLinger ||
           std::all_of(watched_.begin(), watched_.end(), [&](std::int64_t rank) {
             const Peer& peer = state_.peers[rank];
             return peer.has_gone() || peer.silent >= state_.options.silence_timeout ||
                    (!state_.fault.empty() && peer.beat.knows_fault);
           });
  }

  void pause() {
    std::unique_lock<std::mutex> lock(state_.mutex);
    if (own_.has_left) {
      state_.changed.wait_for(lock, kLingerPoll);
      return;
    }
    state_.changed.wait_for(lock, state_.options.heartbeat, [&] { return is_urgent(); });
  }

 private:
  bool server_is_lost() {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    return state_.place.own_store && state_.peers[0].is_lost;
  }

  void prepare() {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    ++own_.number;
    own_.groups.clear();
    for (const WatchedGroup& group : state_.groups) own_.groups.push_back(group.progress);
    own_.has_left = state_.is_leaving;
    own_.knows_fault = !state_.fault.empty();
    proposal_ = state_.fault.empty() ? state_.proposal : "";
    watched_.clear();
    const std::int64_t size = state_.place.size;
    const bool all = own_.has_left || state_.longest_wait() + 10 * state_.options.heartbeat >
                                          state_.options.operation_timeout;
    seen_lost_.assign(size, false);
    for (std::int64_t i = 1; i < size; ++i) {
      const std::int64_t rank = (state_.place.rank + i) % size;
      seen_lost_[rank] = state_.peers[rank].is_lost;
      if (all || i <= kWatched || seen_lost_[rank]) watched_.push_back(rank);
    }
  }

  Milliseconds time_since_last() {
    const auto now = Clock::now();
    const auto passed = std::chrono::duration_cast<Milliseconds>(now - last_);
    last_ = now;
    return std::min(passed, 2 * state_.options.heartbeat);
  }

  void hear(std::int64_t rank, const Beat& beat, Milliseconds passed) {
    Peer& peer = state_.peers[rank];
    peer.silent = beat.number == peer.beat.number ? peer.silent + passed : Milliseconds(0);
    peer.beat = beat;
    // Its last words came before its connection closed.
    if (beat.has_left ? is_missed(rank) : seen_lost_[rank]) state_.propose(state_.ended(rank));
    for (std::size_t g = 0; g < std::min(state_.groups.size(), beat.groups.size()); ++g) {
      const Progress &own = state_.groups[g].progress, &theirs = beat.groups[g];
      if (theirs.begun == own.begun && theirs.operation != own.operation)
        state_.propose(state_.not_alike(rank, g));
    }
    if (!peer.has_gone() && peer.silent >= state_.options.silence_timeout)
      state_.propose(state_.not_heard_of(rank));
  }

  /// Whether an operation needs a process.
  bool is_missed(std::int64_t rank) const {
    const Peer& peer = state_.peers[rank];
    for (std::size_t g = 0; g < state_.groups.size(); ++g) {
      const WatchedGroup& group = state_.groups[g];
      if (group.is_waiting && peer.beat.begun(g) < group.progress.begun) return true;
    }
    return peer.is_awaited;
  }

  bool is_urgent() const {
    if (state_.store_has_closed || (state_.is_leaving && !own_.has_left)) return true;
    if (!state_.fault.empty()) return !own_.knows_fault;
    if (!state_.proposal.empty()) return true;
    for (std::size_t rank = 0; rank < state_.peers.size(); ++rank) {
      const Peer& peer = state_.peers[rank];
      if (peer.is_awaited || (peer.is_lost && !seen_lost_[rank])) return true;
    }
    return false;
  }

  WatchState& state_;
  Beat own_;
  std::string proposal_;
  std::vector<std::int64_t> watched_;
  std::vector<bool> seen_lost_;
  Clock::time_point last_ = Clock::now(), left_at_;
};

// True when all is said, false when the store has closed.
bool talk_until_done(WatchState& state) {
  try {
    Talk talk(state);
    while (talk.is_open()) {
      talk.exchange();
      if (talk.is_done()) return true;
      talk.pause();
    }
  } catch (const std::exception&) {  // it has closed during an exchange
  }
  return false;
}

std::string not_come_to_join(const ProcessPlace& place, const ProcessGroupOptions& options,
                             std::int64_t rank) {
  return fmt::format(
      "process {} of {} has not come within {} s: check that it was started, with the same "
      "MASTER_ADDR and "
      "MASTER_PORT",
      rank, place.size,
      std::chrono::duration_cast<std::chrono::seconds>(options.join_timeout).count());
}

}  // namespace

void talk_to_store(const std::shared_ptr<WatchState>& state) {
  const bool has_said_all = talk_until_done(*state);
  const std::lock_guard<std::mutex> lock(state->mutex);
  if (!has_said_all) state->lose_store();
  state->has_finished_talking = true;
  state->changed.notify_all();
}

bool wait_for_all(const ProcessPlace& place, const ProcessGroupOptions& options,
                  const StoreConnection& to_store) {
  c10d::Store& store = *to_store.store;
  set_beat(store, place.rank, Beat{});
  const auto deadline = Clock::now() + options.join_timeout;
  for (std::int64_t missing = 0; missing < place.size;) {
    if (!to_store.line->is_open()) return false;
    if (store.check({beat_key(missing)})) {
      ++missing;
      continue;
    }
    const bool is_late = Clock::now() > deadline;
    const std::string fault =
        store.compareSet(kFault, "", is_late ? not_come_to_join(place, options, missing) : "");
    if (!fault.empty()) {
      if (place.own_store && place.rank == 0) std::this_thread::sleep_for(10 * kArrivalPoll);
      throw ProcessGroupError(fault);
    }
    std::this_thread::sleep_for(kArrivalPoll);
  }
  return true;
}

}  // namespace halftone
