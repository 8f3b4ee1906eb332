// SPDX-License-Identifier: Apache-2.0
// Every operation is a set of messages between two processes each, sent from and received into the
// tensors themselves: Gloo's own all-gather copies through a buffer of W pieces. And a message
// tells which process it waits for.
#define USE_C10D_GLOO
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "halftone/core/message.h"
#include "halftone/dist/gloo_connection_impl.h"
#include "halftone/dist/gloo_exchange_impl.h"
#include "halftone/dist/gloo_group_impl.h"
#include "halftone/dist/reach_store_impl.h"

namespace halftone {
namespace {

// A message's tag is the number of its operation, and a trace of what kind and size that is:
// messages of operations that differ never meet. 31 bits.
constexpr std::int64_t kTraces = 1 << 12, kNumbers = 1 << 19;
constexpr std::int64_t kSentinelTag = 0;
using Clock = std::chrono::steady_clock;
constexpr Milliseconds kRetry{50};
constexpr std::chrono::seconds kConnect{
    60};  // for the processes, all of which have come, to connect
enum class Operation : std::int64_t { kAllToAll, kAllGather, kBroadcast, kCount };
constexpr const char* kNames[] = {"all_to_all", "all_gather", "broadcast"};

struct GlooPlace {
  ProcessPlace place;
  std::string own_address;
};

/// Connects all processes. Throws ProcessGroupError.
c10::intrusive_ptr<Gloo> connected(const GlooPlace& own, ProcessWatch& watch,
                                   const c10::intrusive_ptr<c10d::Store>& store,
                                   Milliseconds timeout) {
  try {
    return connect_gloo(own.place, own.own_address, store, timeout);
  } catch (const std::exception& error) {
    watch.throw_fault_or(fmt::format("process {} of {} could not connect to the others: {}",
                                     own.place.rank, own.place.size, error_text(error)));
  }
}

class GlooGroup : public ProcessGroup {
 public:
  GlooGroup(GlooPlace own, GlooConnections connections)
      : own_(std::move(own)), connections_(std::move(connections)) {
    if (connections_.group != 0) return;  // the watch looks at the first one's connections
    const auto sentinels = std::make_shared<ConnectionSentinels>(connections_.gloo, kSentinelTag);
    connections_.watch->observe({[sentinels] { return sentinels->newly_lost(); },
                                 [under_way = connections_.under_way] { under_way->abort_all(); }});
  }

  std::int64_t rank() const override { return own_.place.rank; }
  std::int64_t size() const override { return own_.place.size; }

  Pending all_to_all(torch::Tensor received, torch::Tensor sent) override {
    check_all_to_all(received, sent, size());
    const Bytes to(received), from(sent);
    auto exchange = begin(Operation::kAllToAll, from);
    for (std::int64_t i = 1; i < size(); ++i)
      exchange->receive(to.piece(before(i), size()), before(i));
    for (std::int64_t i = 1; i < size(); ++i)
      exchange->send(from.piece(after(i), size()), after(i));
    exchange->start();
    to.piece(rank(), size()).copy_from(from.piece(rank(), size()));
    return exchange;
  }

  Pending all_gather(torch::Tensor all, torch::Tensor own) override {
    check_all_gather(all, own, size());
    const Bytes to(all), from(own);
    auto exchange = begin(Operation::kAllGather, from);
    for (std::int64_t i = 1; i < size(); ++i)
      exchange->receive(to.piece(before(i), size()), before(i));
    for (std::int64_t i = 1; i < size(); ++i) exchange->send(from, after(i));
    exchange->start();
    to.piece(rank(), size()).copy_from(from);
    return exchange;
  }

  Pending broadcast(torch::Tensor tensor, std::int64_t root) override {
    check_broadcast(tensor, root, size());
    const Bytes bytes(tensor);
    auto exchange = begin(Operation::kBroadcast, bytes);
    if (rank() != root) exchange->receive(bytes, root);
    for (std::int64_t i = 1; i < size() && rank() == root; ++i) exchange->send(bytes, after(i));
    exchange->start();
    return exchange;
  }

  std::shared_ptr<ProcessGroup> twin() override {
    GlooConnections connections = connections_;
    connections.store = c10::make_intrusive<c10d::PrefixStore>(fmt::format("twin/{}", twins_++),
                                                               connections_.store);
    connections.gloo = connected(own_, *connections_.watch, connections.store, kConnect);
    connections.group = connections_.watch->add_group();
    return std::make_shared<GlooGroup>(own_, std::move(connections));
  }

  std::vector<std::string> all_gather(const std::string& own) override {
    return gather_strings(*this, own);
  }

  void report_error(const std::string& error) override { connections_.watch->report_error(error); }

 private:
  // Each process begins with another partner, so that no one is the first of all.
  std::int64_t after(std::int64_t i) const { return (rank() + i) % size(); }
  std::int64_t before(std::int64_t i) const { return (rank() + size() - i) % size(); }

  std::unique_ptr<GlooExchange> begin(Operation operation, const Bytes& bytes) {
    constexpr auto kKinds = static_cast<std::int64_t>(Operation::kCount);
    const std::int64_t sizes = kTraces / kKinds;
    const std::int64_t trace =
        bytes.tensor.numel() % sizes * kKinds + static_cast<std::int64_t>(operation);
    const std::int64_t number = begun_++ % (kNumbers - 1) + 1;
    const char* const name = kNames[static_cast<std::size_t>(operation)];
    return std::make_unique<GlooExchange>(
        connections_, number * kTraces + trace,
        fmt::format("{} of {} bytes", name, bytes.tensor.numel()));
  }

  GlooPlace own_;
  GlooConnections connections_;
  std::int64_t begun_ = 0;
  std::int64_t twins_ = 0;
};

// What an earlier attempt left in the store, or an earlier group of these processes, stays apart.
std::string new_prefix(const ProcessPlace& place) {
  static std::atomic<int> joined{0};
  return fmt::format("halftone/{}/{}", place.attempt, joined++);
}

class StoreOpener {
 public:
  StoreOpener(const ProcessPlace& place, const ProcessGroupOptions& options)
      : place_(place), options_(options), prefix_(new_prefix(place)) {}

  c10::intrusive_ptr<c10d::Store> open(bool serves) const {
    c10d::TCPStoreOptions served;
    served.port = place_.port;
    served.isServer = serves;
    served.waitWorkers = false;
    served.timeout = options_.join_timeout;
    auto store = c10::make_intrusive<c10d::TCPStore>(place_.address, served);
    return c10::make_intrusive<c10d::PrefixStore>(prefix_, store);
  }

  c10::intrusive_ptr<c10d::Store> serve() const {
    try {
      return open(true);
    } catch (const std::exception& error) {
      throw UserError(
          fmt::format("process 0 could not serve the store of all processes at {} port {} ({}): "
                      "give MASTER_PORT a "
                      "port that is free, the same for all processes",
                      place_.address, place_.port, error_text(error)));
    }
  }

  /// A store in which all processes have said that they have come.
  StoreConnection meet() const {
    const auto deadline = Clock::now() + options_.join_timeout;
    const bool serves = place_.own_store && place_.rank == 0;
    StoreConnection meeting;
    if (serves) meeting.store = serve();
    while (true) {
      const auto left = std::chrono::duration_cast<Milliseconds>(deadline - Clock::now());
      meeting.line = reach_store(place_, std::max(left, Milliseconds(0)));
      try {
        if (!serves) meeting.store = open(false);
        if (wait_for_all(place_, options_, meeting)) return meeting;
      } catch (const c10::Error& error) {
        if (serves || Clock::now() > deadline) throw has_failed(error);
      }
      // It was the store of an earlier group, which process 0 had not yet left.
      std::this_thread::sleep_for(kRetry);
    }
  }

 private:
  ProcessGroupError has_failed(const std::exception& error) const {
    return ProcessGroupError(
        fmt::format("the store of all processes at {} port {} has failed process {}: {}",
                    place_.address, place_.port, place_.rank, error_text(error)));
  }

  const ProcessPlace& place_;
  const ProcessGroupOptions& options_;
  std::string prefix_;
};

}  // namespace

std::shared_ptr<ProcessGroup> join_gloo_group(const ProcessPlace& place,
                                              const ProcessGroupOptions& options) {
  const StoreOpener opener(place, options);
  const StoreConnection meeting = opener.meet();
  GlooConnections connections;
  connections.under_way = std::make_shared<ExchangesUnderWay>();
  connections.store = meeting.store;
  connections.watch = std::make_shared<ProcessWatch>(
      place, options, StoreConnection{opener.open(false), meeting.line});
  GlooPlace own{place, meeting.line->own_address()};
  connections.gloo = connected(own, *connections.watch, meeting.store,
                               std::min<Milliseconds>(options.join_timeout, kConnect));
  return std::make_shared<GlooGroup>(std::move(own), std::move(connections));
}

}  // namespace halftone
