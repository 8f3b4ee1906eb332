// SPDX-License-Identifier: Apache-2.0
// Only files that define USE_C10D_GLOO include this.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/dist/collectives_impl.h"
#include "halftone/dist/process_watch_impl.h"

namespace halftone {

using Gloo = c10d::ProcessGroupGloo;

/// A message between two processes, sent from or received into memory that it keeps.
struct GlooMessage {
  torch::Tensor bytes;  // outlives the work
  std::int64_t peer;
  c10::intrusive_ptr<c10d::Work> work;
};
GlooMessage receive_message(Gloo& gloo, const Bytes& bytes, std::int64_t peer, std::int64_t tag);
GlooMessage send_message(Gloo& gloo, const Bytes& bytes, std::int64_t peer, std::int64_t tag);

class GlooExchange;

/// Exchanges that are under way, of any thread's to end.
class ExchangesUnderWay {
 public:
  void add(GlooExchange* exchange);
  void remove(GlooExchange* exchange);
  void abort_all();

 private:
  std::mutex mutex_;
  std::set<GlooExchange*> exchanges_;
};

/// What the exchanges of a group share. The watch goes first: it tells the others.
struct GlooConnections {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<Gloo> gloo;
  std::shared_ptr<ProcessWatch> watch;
  std::shared_ptr<ExchangesUnderWay> under_way;
  std::size_t group = 0;  // its number for the watch
};

/// The messages of one operation.
class GlooExchange : public ProcessGroup::Work {
 public:
  /// `operation` says what it is, for messages.
  GlooExchange(GlooConnections connections, std::int64_t tag, const std::string& operation);
  GlooExchange(const GlooExchange&) = delete;
  GlooExchange& operator=(const GlooExchange&) = delete;
  ~GlooExchange() override;

  void receive(const Bytes& bytes, std::int64_t peer);
  void send(const Bytes& bytes, std::int64_t peer);
  /// All messages have begun.
  void start() { connections_.under_way->add(this); }
  void wait() override;
  void abort();

 private:
  GlooConnections connections_;
  std::int64_t tag_;
  std::vector<GlooMessage> messages_;
};

/// A message that never comes from each of the others: its failure tells that their connection has
/// closed, whatever else is awaited.
class ConnectionSentinels {
 public:
  ConnectionSentinels(const c10::intrusive_ptr<Gloo>& gloo, std::int64_t tag);
  /// The processes whose connections have closed since the last call.
  std::vector<std::int64_t> newly_lost();

 private:
  c10::intrusive_ptr<Gloo> gloo_;
  std::vector<GlooMessage> messages_;
};

}  // namespace halftone
