// SPDX-License-Identifier: Apache-2.0
// Every operation is a set of messages between two processes each, sent from and received into the
// tensors themselves: Gloo's own all-gather copies through a buffer of W pieces. And a message
// tells which process it waits for.
#define USE_C10D_GLOO
#include <fmt/format.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "halftone/dist/collectives_impl.h"
#include "halftone/dist/gloo_connection_impl.h"
#include "halftone/dist/gloo_group_impl.h"
#include "halftone/dist/reach_store_impl.h"

namespace halftone {
namespace {

using Gloo = c10d::ProcessGroupGloo;
constexpr std::chrono::hours kForever{1000};

// A message's tag is the number of its operation, and a trace of what kind and size that is:
// messages of operations that differ never meet.
constexpr std::int64_t kTraces = 1 << 12, kNumbers = 1 << 19;

class Exchange : public ProcessGroup::Work {
 public:
  Exchange(c10::intrusive_ptr<Gloo> gloo, std::int64_t tag) : gloo_(std::move(gloo)), tag_(tag) {}

  void receive(const Bytes& bytes, std::int64_t peer) { begin(bytes, peer, &Gloo::recv); }
  void send(const Bytes& bytes, std::int64_t peer) { begin(bytes, peer, &Gloo::send); }

  void wait() override {
    for (const Message& message : messages_) {
      try {
        message.work->wait(kForever);
      } catch (const std::exception&) {
        throw ProcessGroupError(
            fmt::format("process {} of {} has ended", message.peer, gloo_->getSize()));
      }
    }
    messages_.clear();
  }

 private:
  struct Message {
    torch::Tensor bytes;  // outlives the work
    std::int64_t peer;
    c10::intrusive_ptr<c10d::Work> work;
  };
  using Begin = c10::intrusive_ptr<c10d::Work> (Gloo::*)(std::vector<at::Tensor>&, int, int);

  void begin(const Bytes& bytes, std::int64_t peer, Begin direction) {
    if (bytes.tensor.numel() == 0) return;
    std::vector<at::Tensor> tensors{bytes.tensor};
    messages_.push_back(
        {bytes.tensor, peer,
         ((*gloo_).*direction)(tensors, static_cast<int>(peer), static_cast<int>(tag_))});
  }

  c10::intrusive_ptr<Gloo> gloo_;
  std::int64_t tag_;
  std::vector<Message> messages_;
};

class GlooGroup : public ProcessGroup {
 public:
  GlooGroup(const ProcessPlace& place, c10::intrusive_ptr<c10d::Store> store,
            c10::intrusive_ptr<Gloo> gloo)
      : place_(place), store_(std::move(store)), gloo_(std::move(gloo)) {}

  std::int64_t rank() const override { return place_.rank; }
  std::int64_t size() const override { return place_.size; }

  Pending all_to_all(torch::Tensor received, torch::Tensor sent) override {
    check_all_to_all(received, sent, size());
    const Bytes to(received), from(sent);
    auto exchange = begin(1, from);
    for (std::int64_t i = 1; i < size(); ++i)
      exchange->receive(to.piece(before(i), size()), before(i));
    for (std::int64_t i = 1; i < size(); ++i)
      exchange->send(from.piece(after(i), size()), after(i));
    to.piece(rank(), size()).copy_from(from.piece(rank(), size()));
    return exchange;
  }

  Pending all_gather(torch::Tensor all, torch::Tensor own) override {
    check_all_gather(all, own, size());
    const Bytes to(all), from(own);
    auto exchange = begin(2, from);
    for (std::int64_t i = 1; i < size(); ++i)
      exchange->receive(to.piece(before(i), size()), before(i));
    for (std::int64_t i = 1; i < size(); ++i) exchange->send(from, after(i));
    to.piece(rank(), size()).copy_from(from);
    return exchange;
  }

  Pending broadcast(torch::Tensor tensor, std::int64_t root) override {
    check_broadcast(tensor, root, size());
    const Bytes bytes(tensor);
    auto exchange = begin(3, bytes);
    if (rank() != root) exchange->receive(bytes, root);
    for (std::int64_t i = 1; i < size() && rank() == root; ++i) exchange->send(bytes, after(i));
    return exchange;
  }

  std::vector<std::string> all_gather(const std::string& own) override {
    return gather_strings(*this, own);
  }

 private:
  // Each process begins with another partner, so that no one is the first of all.
  std::int64_t after(std::int64_t i) const { return (rank() + i) % size(); }
  std::int64_t before(std::int64_t i) const { return (rank() + size() - i) % size(); }

  std::unique_ptr<Exchange> begin(std::int64_t kind, const Bytes& bytes) {
    const std::int64_t trace = (bytes.tensor.numel() * 4 + kind) % (kTraces - 3);
    const std::int64_t number = begun_++ % (kNumbers - 1) + 1;
    return std::make_unique<Exchange>(gloo_, number * kTraces + trace);
  }

  ProcessPlace place_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<Gloo> gloo_;
  std::int64_t begun_ = 0;
};

c10d::TCPStoreOptions store_options(const ProcessPlace& place, const ProcessGroupOptions& options) {
  c10d::TCPStoreOptions store;
  store.port = place.port;
  store.isServer = place.own_store && place.rank == 0;
  store.waitWorkers = false;
  store.timeout = options.join_timeout;
  return store;
}

}  // namespace

std::shared_ptr<ProcessGroup> join_gloo_group(const ProcessPlace& place,
                                              const ProcessGroupOptions& options) {
  const c10d::TCPStoreOptions served = store_options(place, options);
  c10::intrusive_ptr<c10d::Store> store;
  if (served.isServer) store = c10::make_intrusive<c10d::TCPStore>(place.address, served);
  const std::string own_address = reach_store(place, options.join_timeout);
  if (!served.isServer) store = c10::make_intrusive<c10d::TCPStore>(place.address, served);
  store = c10::make_intrusive<c10d::PrefixStore>(fmt::format("halftone/{}", place.attempt), store);
  auto gloo = connect_gloo(place, own_address, store, options.join_timeout);
  return std::make_shared<GlooGroup>(place, store, gloo);
}

}  // namespace halftone
