// SPDX-License-Identifier: Apache-2.0
#define USE_C10D_GLOO
#include <utility>

#include "halftone/dist/gloo_exchange_impl.h"
#include "halftone/dist/sigpipe_block_impl.h"

namespace halftone {
namespace {

// The watch ends waiting: Gloo's own timeout would end the group.
constexpr std::chrono::hours kForever{1000};

// False when the message was given up.
bool has_come(const GlooMessage& message) {
  try {
    return message.work->wait(kForever);
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

GlooMessage receive_message(Gloo& gloo, const Bytes& bytes, std::int64_t peer, std::int64_t tag) {
  const SigpipeBlock block;
  std::vector<at::Tensor> tensors{bytes.tensor};
  return {bytes.tensor, peer, gloo.recv(tensors, static_cast<int>(peer), static_cast<int>(tag))};
}

GlooMessage send_message(Gloo& gloo, const Bytes& bytes, std::int64_t peer, std::int64_t tag) {
  const SigpipeBlock block;
  std::vector<at::Tensor> tensors{bytes.tensor};
  return {bytes.tensor, peer, gloo.send(tensors, static_cast<int>(peer), static_cast<int>(tag))};
}

void ExchangesUnderWay::add(GlooExchange* exchange) {
  const std::lock_guard<std::mutex> lock(mutex_);
  exchanges_.insert(exchange);
}

void ExchangesUnderWay::remove(GlooExchange* exchange) {
  const std::lock_guard<std::mutex> lock(mutex_);
  exchanges_.erase(exchange);
}

void ExchangesUnderWay::abort_all() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (GlooExchange* const exchange : exchanges_) exchange->abort();
}

GlooExchange::GlooExchange(GlooConnections connections, std::int64_t tag,
                           const std::string& operation)
    : connections_(std::move(connections)), tag_(tag) {
  connections_.watch->begin_operation(connections_.group, operation);
}

GlooExchange::~GlooExchange() { connections_.under_way->remove(this); }

// Gloo throws where the connection has closed already.
void GlooExchange::receive(const Bytes& bytes, std::int64_t peer) {
  if (bytes.tensor.numel() == 0) return;
  try {
    messages_.push_back(receive_message(*connections_.gloo, bytes, peer, tag_));
  } catch (const std::exception&) {
    connections_.watch->throw_cause(peer);
  }
}

void GlooExchange::send(const Bytes& bytes, std::int64_t peer) {
  if (bytes.tensor.numel() == 0) return;
  try {
    messages_.push_back(send_message(*connections_.gloo, bytes, peer, tag_));
  } catch (const std::exception&) {
    connections_.watch->throw_cause(peer);
  }
}

void GlooExchange::wait() {
  connections_.watch->begin_wait(connections_.group);
  for (const GlooMessage& message : messages_) {
    if (!has_come(message)) connections_.watch->throw_cause(message.peer);
  }
  connections_.watch->end_wait(connections_.group);
  connections_.under_way->remove(this);
  messages_.clear();
}

void GlooExchange::abort() {
  for (const GlooMessage& message : messages_) message.work->abort();
}

ConnectionSentinels::ConnectionSentinels(const c10::intrusive_ptr<Gloo>& gloo, std::int64_t tag)
    : gloo_(gloo) {
  for (std::int64_t rank = 0; rank < gloo->getSize(); ++rank) {
    if (rank != gloo->getRank())
      messages_.push_back(
          receive_message(*gloo, Bytes(torch::zeros({1}, torch::kByte)), rank, tag));
  }
}

std::vector<std::int64_t> ConnectionSentinels::newly_lost() {
  std::vector<std::int64_t> lost;
  std::vector<GlooMessage> others;
  for (const GlooMessage& message : messages_) {
    message.work->abort();  // wait() looks, and comes back at once
    try {
      message.work->wait(kForever);
      others.push_back(message);
    } catch (const std::exception&) {
      lost.push_back(message.peer);
    }
  }
  if (!lost.empty()) messages_.swap(others);
  return lost;
}

}  // namespace halftone
