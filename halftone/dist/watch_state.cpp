// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "halftone/dist/watch_state_impl.h"

namespace halftone {
namespace {

constexpr std::size_t kLongestError = 1000;  // bytes

std::string seconds_of(Milliseconds time) {
  return fmt::format("{:g} s", std::chrono::duration<double>(time).count());
}

std::string one_line(const std::string& text) {
  std::string line = text.substr(0, kLongestError);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

}  // namespace

std::string Beat::text() const {
  std::string line = fmt::format("{} {:d} {:d}", number, has_left, knows_fault);
  for (const Progress& group : groups) line += fmt::format("\n{} {}", group.begun, group.operation);
  return line;
}

Beat Beat::parse(const std::string& text) {
  Beat beat;
  std::istringstream words(text);
  words >> beat.number >> beat.has_left >> beat.knows_fault;
  for (Progress group; words >> group.begun;) {
    words.get();  // the blank
    std::getline(words, group.operation);
    beat.groups.push_back(group);
  }
  return beat;
}

void WatchState::lose_store() {
  store_has_closed = true;
  const bool was_foreseen = place.own_store && peers[0].beat.has_left;
  if (!was_foreseen && fault.empty()) fault = store_ended();
}

std::string WatchState::ended(std::int64_t rank) const {
  return fmt::format("process {} of {} has ended", rank, place.size);
}

std::string WatchState::ended_with(std::int64_t rank, const std::string& error) const {
  const std::string line = one_line(error);
  return fmt::format("process {} of {} ended with an error{}{}", rank, place.size,
                     line.empty() ? "" : ": ", line);
}

std::string WatchState::not_heard_of(std::int64_t rank) const {
  return fmt::format("process {} of {} has not been heard of for {}", rank, place.size,
                     seconds_of(options.silence_timeout));
}

std::string WatchState::not_alike(std::int64_t rank, std::size_t group) const {
  const auto& [begun, operation] = groups[group].progress;
  const std::string& theirs = peers[rank].beat.groups.at(group).operation;
  const bool is_first = place.rank < rank;
  return fmt::format("processes {} and {} of {} differ in operation {}: {}, and {}",
                     std::min(place.rank, rank), std::max(place.rank, rank), place.size, begun,
                     is_first ? operation : theirs, is_first ? theirs : operation);
}

std::string WatchState::not_come(std::size_t group) const {
  std::int64_t last = place.rank, least = groups[group].progress.begun;
  for (std::int64_t rank = 0; rank < place.size; ++rank) {
    if (rank == place.rank || peers[rank].beat.begun(group) >= least) continue;
    last = rank;
    least = peers[rank].beat.begun(group);
  }
  const std::string limit = seconds_of(options.operation_timeout);
  if (last == place.rank)
    return fmt::format("process {} of {} has waited {} for an operation to which all have come",
                       place.rank, place.size, limit);
  return fmt::format(
      "process {} of {} lives, but has not come to the operation for which process {} "
      "has waited {}",
      last, place.size, place.rank, limit);
}

std::string WatchState::store_ended() const {
  if (place.own_store) return ended(0);
  return fmt::format("{} has ended, which kept the store of all processes at {} port {}",
                     place.launcher, place.address, place.port);
}

std::string WatchState::store_not_heard_of() const {
  if (place.own_store) return not_heard_of(0);
  return fmt::format(
      "{}, which keeps the store of all processes at {} port {}, has not been heard of for {}",
      place.launcher, place.address, place.port, seconds_of(options.silence_timeout));
}

}  // namespace halftone
