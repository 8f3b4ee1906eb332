// SPDX-License-Identifier: Apache-2.0
#define USE_C10D_GLOO
#include <array>
#include <exception>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "halftone/dist/gloo_connection_impl.h"
#include "halftone/dist/gloo_exchange_impl.h"
#include "halftone/dist/network_speed_impl.h"

namespace halftone {
namespace {

// An end whose other has failed must not wait for it long.
constexpr std::chrono::seconds kTimeout{10};

/// One of two processes, without the watch that real ones have.
class LoopbackEnd {
 public:
  LoopbackEnd(std::int64_t rank, const c10::intrusive_ptr<c10d::Store>& store)
      : other_(1 - rank),
        gloo_(connect_gloo({.rank = rank, .size = 2, .local_rank = rank, .local_size = 2},
                           "127.0.0.1", store, kTimeout)) {}

  void exchange(const torch::Tensor& received, const torch::Tensor& sent) {
    const GlooMessage in = receive_message(*gloo_, Bytes(received).piece(other_, 2), other_, tag_);
    const GlooMessage out = send_message(*gloo_, Bytes(sent).piece(other_, 2), other_, tag_);
    ++tag_;
    in.work->wait(kTimeout);
    out.work->wait(kTimeout);
  }

 private:
  std::int64_t other_;
  c10::intrusive_ptr<Gloo> gloo_;
  std::int64_t tag_ = 1;
};

}  // namespace

NetworkSpeed loopback_speed() {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::array<NetworkSpeed, 2> speeds;
  std::array<std::exception_ptr, 2> errors;
  const auto run = [&](std::size_t rank) {
    try {
      LoopbackEnd end(static_cast<std::int64_t>(rank), store);
      speeds[rank] = measured_speed(
          2, [&](const auto& received, const auto& sent) { end.exchange(received, sent); });
    } catch (...) {
      errors[rank] = std::current_exception();
    }
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return speeds[0];
}

}  // namespace halftone
