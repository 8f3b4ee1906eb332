// SPDX-License-Identifier: Apache-2.0
// What the threads of a ProcessWatch share.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "halftone/dist/join_process_group.h"
#include "halftone/dist/process_place.h"
#include "halftone/dist/reach_store_impl.h"

namespace halftone {

using Milliseconds = std::chrono::milliseconds;

/// How far a process is in the operations of one group, which come in one order everywhere.
struct Progress {
  std::int64_t begun = 0;  // operations
  std::string operation;   // the last of them
};

/// What a process says of itself in the store.
struct Beat {
  std::int64_t number = 0;  // of the beat
  bool has_left = false;
  bool knows_fault = false;
  std::vector<Progress> groups;  // the group, and its twins

  /// What it has begun of a group that it may not have yet.
  std::int64_t begun(std::size_t group) const {
    return group < groups.size() ? groups[group].begun : 0;
  }

  std::string text() const;
  static Beat parse(const std::string& text);
};

/// What this process knows of another.
struct Peer {
  Beat beat;
  Milliseconds silent{
      0};  // since its last beat; time in which this process stood still is not counted
  bool is_lost = false;     // its connection has closed
  bool is_awaited = false;  // and an operation needs it
  bool has_gone() const { return beat.has_left || is_lost; }
};

/// A group, as a process waits in it.
struct WatchedGroup {
  Progress progress;
  bool is_waiting = false;  // in an operation
  Milliseconds waited{0};   // for how long
};

/// How a watch reaches the store.
struct StoreConnection {
  c10::intrusive_ptr<c10d::Store> store;  // of one thread: calls may wait there
  std::shared_ptr<const StoreLine> line;
};

struct WatchState {
  WatchState(const ProcessPlace& at, const ProcessGroupOptions& with, StoreConnection connection)
      : place(at), options(with), to_store(std::move(connection)), peers(at.size) {}

  const ProcessPlace place;
  const ProcessGroupOptions options;
  const StoreConnection to_store;

  std::mutex mutex;                 // guards all below
  std::condition_variable changed;  // somebody has something to do
  std::vector<Peer> peers;
  std::vector<WatchedGroup> groups{1};  // the group, and its twins
  std::string fault;                    // the first cause of the group's end, if that is known
  std::string proposal;                 // what becomes it unless another was first
  Milliseconds store_silent{0};
  bool store_has_closed = false;
  bool is_leaving = false;
  bool has_finished_talking = false;

  /// The store has closed. That process 0 served it and left is no fault of those who need it no
  /// more.
  void lose_store();
  Milliseconds longest_wait() const {
    Milliseconds longest{0};
    for (const WatchedGroup& group : groups) longest = std::max(longest, group.waited);
    return longest;
  }
  bool serves_store() const { return place.own_store && place.rank == 0; }
  void propose(const std::string& cause) {
    if (fault.empty() && proposal.empty()) proposal = cause;
  }

  // The causes, as all processes name them.
  std::string ended(std::int64_t rank) const;
  std::string ended_with(std::int64_t rank, const std::string& error) const;
  std::string not_heard_of(std::int64_t rank) const;
  /// Their last operation in a group.
  std::string not_alike(std::int64_t rank, std::size_t group) const;
  /// The process that is furthest behind in a group, if one is.
  std::string not_come(std::size_t group) const;
  std::string store_ended() const;
  std::string store_not_heard_of() const;
};

/// Body of the thread that talks to the store: signs of life, and the first cause. It may be left
/// behind in a call that does not return, with the state.
void talk_to_store(const std::shared_ptr<WatchState>& state);

/// Says that this process has come, and waits for the others; false when the store has closed
/// meanwhile. Throws ProcessGroupError, the same in all that have come, with one that has not come
/// in time.
bool wait_for_all(const ProcessPlace& place, const ProcessGroupOptions& options,
                  const StoreConnection& to_store);

}  // namespace halftone
