// SPDX-License-Identifier: Apache-2.0
// at::RecordFunction has a member that only builds without NDEBUG know, and the LibTorch that makes
// these objects is a release build: this file is compiled as one, whatever the others are.
#undef NDEBUG
#define NDEBUG
#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <atomic>
#include <utility>

#include "halftone/probe/backward_watch_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kOperationsPerBeat = 1024;

// LibTorch's callbacks carry no pointer.
std::atomic<std::shared_ptr<BackwardListener>> current_listener;
std::atomic<int> newest_pass = -1;
thread_local int steps_around = 0;  // of autograd: one that calls backward() is around another pass

std::unique_ptr<at::ObserverContext> on_step_begin(const at::RecordFunction&) {
  const int pass = torch::autograd::get_current_graph_task_id();
  if (++steps_around > 1 || pass <= newest_pass.load(std::memory_order_relaxed)) return nullptr;
  newest_pass = pass;
  if (const auto listener = current_listener.load()) listener->backward_begins();
  return nullptr;
}

void on_step_end(const at::RecordFunction&, at::ObserverContext*) {
  if (steps_around > 0) --steps_around;  // one may have begun before the watch
}

std::unique_ptr<at::ObserverContext> on_operation(const at::RecordFunction&) {
  if (const auto listener = current_listener.load())
    listener->operations_passed(kOperationsPerBeat);
  return nullptr;
}

}  // namespace

BackwardWatch::BackwardWatch(std::shared_ptr<BackwardListener> listener) {
  current_listener.store(std::move(listener));
  handle_ = at::addGlobalCallback(at::RecordFunctionCallback(on_step_begin, on_step_end)
                                      .scopes({at::RecordScope::BACKWARD_FUNCTION}));
}

BackwardWatch::~BackwardWatch() {
  count_operations(false);
  at::removeCallback(handle_);
  current_listener.store(nullptr);
}

void BackwardWatch::count_operations(bool counts) {
  if (counts == (counter_ != 0)) return;
  if (!counts) {
    at::removeCallback(std::exchange(counter_, 0));
    return;
  }
  counter_ = at::addGlobalCallback(at::RecordFunctionCallback(on_operation)
                                       .samplingProb(1.0 / kOperationsPerBeat)
                                       .scopes({at::RecordScope::FUNCTION}));
}

}  // namespace halftone
