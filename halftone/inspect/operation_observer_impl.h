// SPDX-License-Identifier: Apache-2.0
// LibTorch's operations, ours among them, as they are computed: each is reported when it begins and
// when it ends, with the tensors that it reads and makes.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace halftone {

/// One argument or result. A tensor is a list of one.
struct OperationTensors {
  std::vector<torch::Tensor> tensors;
  bool is_list = false;
  bool is_read = true;      // false for memory that the operation only writes to
  bool is_written = false;  // known of LibTorch's operations
};

struct OperationCall {
  std::string name;          // "aten::mm"; of a step of autograd, LibTorch's name of it
  bool is_backward = false;  // a step of autograd, which what follows belongs to until it ends
  /// Of an operation, the number of the step that autograd would record next; of a step, its own.
  /// -1 where autograd records nothing.
  std::int64_t sequence = -1;
  std::string overload;                   // "Tensor_Scalar" of "aten::pow"; empty for most
  bool is_view = false;                   // all that it gives may be its arguments' memory
  bool is_composite = false;              // of LibTorch's: nothing but other operations
  std::vector<c10::IValue> arguments;     // as the dispatcher got them; none of a step of autograd
  std::vector<OperationTensors> inputs;   // their tensors, one entry for each argument
  std::vector<OperationTensors> outputs;  // known when it ends
  bool is_recorded = false;               // known then: autograd has recorded a step meanwhile
  std::chrono::steady_clock::time_point reported;  // its begin, then its end, before any of this
};

/// Whether autograd is at work in this thread: also between its steps, where it adds gradients up.
bool is_in_backward();

/// Both functions are called by the thread that computes, without gradients, and what they compute
/// is not observed, nor is what a parallel region calls. Calls nest: of two that overlap in a
/// thread, the one that began later ends first.
class OperationObserver {
 public:
  virtual ~OperationObserver() = default;
  virtual void begin(const OperationCall& call) = 0;
  virtual void end(const OperationCall& call) = 0;
};

/// While it lives, `observer` sees the operations of all threads, in place of the observer before
/// it: observations nest. An operation that began before is not reported; one that has begun is,
/// to its end, hence the shared ownership.
class Observation {
 public:
  explicit Observation(std::shared_ptr<OperationObserver> observer);
  ~Observation();
  Observation(const Observation&) = delete;
  Observation& operator=(const Observation&) = delete;

 private:
  std::shared_ptr<OperationObserver> before_;
  std::uint64_t handle_ = 0;
};

/// In its scope, this thread's operations are not reported.
class Unobserved {
 public:
  Unobserved();
  ~Unobserved();
  Unobserved(const Unobserved&) = delete;
  Unobserved& operator=(const Unobserved&) = delete;

 private:
  bool before_;
};

}  // namespace halftone
