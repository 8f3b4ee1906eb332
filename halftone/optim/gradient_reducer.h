// SPDX-License-Identifier: Apache-2.0
// Gradients that are added up over processes while the backward pass still runs (Li et al. 2020,
// PyTorch Distributed).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/grad_ready_hooks.h"
#include "halftone/optim/gradient_buckets.h"
#include "halftone/optim/gradient_sum.h"
#include "halftone/optim/gradient_tree.h"
#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// For each step: begin() before its last backward pass, finish() behind it. A thread of its own
/// sends a bucket (gradient_buckets.h) as soon as its gradients are complete, always in the same
/// order. Between the two nobody else may use the process group.
class GradientReducer {
 public:
  /// The arenas have buffers for their gradients, and outlive it, as the group does.
  /// `tree`: where micro-batches before the last one were set aside, if they were; it begins anew
  /// with finish().
  GradientReducer(std::vector<const ParameterArena*> arenas, ProcessGroup& group,
                  GradientTransport transport = GradientTransport::kExact,
                  GradientTree* tree = nullptr);
  /// Has each process keep the sums of its own pieces alone, on the CPU: the rest becomes zero and
  /// takes no memory. Gradients of the next pass may be added to that, and are summed with it.
  void keep_own_pieces() { keeps_own_ = true; }
  /// After an exception between begin() and finish() it sends what there is, so that the others do
  /// not wait for it.
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// May be left out where no backward pass runs, or nothing is to be sent during it.
  void begin();
  /// Waits. Every gradient is the sum over all processes then. A parameter that has one on any of
  /// them has one on all. Throws what the group throws.
  void finish();

 private:
  struct Bucket {
    const ParameterArena* arena;
    GradientBucket place;
    std::size_t missing;  // parameters whose gradients are not complete
  };
  struct Arena {
    const ParameterArena* arena;
    std::vector<std::size_t> bucket_of;      // of each parameter, in buckets_
    std::vector<std::uint8_t> has_gradient;  // of each parameter
    std::vector<std::uint8_t> is_ready;
    std::unique_ptr<GradReadyHooks> hooks;
  };

  void add_buckets(std::size_t arena, std::int64_t processes);
  void start();
  void note_ready(std::size_t arena, std::size_t index);
  void release();
  void run();
  void wait_for(std::size_t bucket);
  void agree_on_gradients();
  torch::Tensor gradients_of(const Bucket& bucket) const;
  std::unique_ptr<GradientSum> send(const Bucket& bucket);

  ProcessGroup& group_;
  GradientTransport transport_;
  GradientTree* tree_;
  bool keeps_own_ = false;
  std::vector<Bucket> buckets_;
  std::vector<Arena> arenas_;

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable released_more_;
  std::size_t released_ = 0;  // buckets, from the first on, that may be sent
  std::exception_ptr error_;
};

}  // namespace halftone
