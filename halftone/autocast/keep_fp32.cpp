// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/keep_fp32.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/autocast/cast_kernel_impl.h"
#include "halftone/autocast/suppress_override_warning.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::Tensor;

/// The marked tensors. A weak pointer holds the address: no later tensor can be taken for one that
/// was freed.
class Marks {
 public:
  void add(const Tensor& tensor) {
    const std::unique_lock lock(mutex_);
    std::erase_if(marks_, [](const auto& mark) { return mark.second.expired(); });
    marks_.insert_or_assign(tensor.unsafeGetTensorImpl(), Weak(tensor.getIntrusivePtr()));
    count_ = marks_.size();
  }
  void remove(const Tensor& tensor) {
    const std::unique_lock lock(mutex_);
    marks_.erase(tensor.unsafeGetTensorImpl());
    count_ = marks_.size();
  }
  bool empty() const { return count_ == 0; }
  bool holds(const at::TensorBase& tensor) const {
    const std::shared_lock lock(mutex_);
    return marks_.contains(tensor.unsafeGetTensorImpl());
  }

 private:
  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  mutable std::shared_mutex mutex_;
  std::unordered_map<const c10::TensorImpl*, Weak> marks_;
  std::atomic<std::size_t> count_ = 0;
};

Marks& marks() {
  static Marks instance;
  return instance;
}

// What computes with a parameter in torch::nn and in code that uses bare tensors. Other operations
// either promote to the fp32 of the parameter by themselves or do not round.
constexpr std::array kWeightedOps{"linear",
                                  "matmul",
                                  "mm",
                                  "mv",
                                  "addmm",
                                  "addmv",
                                  "addr",
                                  "bmm",
                                  "baddbmm",
                                  "addbmm",
                                  "dot",
                                  "vdot",
                                  "linalg_vecdot",
                                  "einsum",
                                  "tensordot",
                                  "chain_matmul",
                                  "linalg_multi_dot",
                                  "bilinear",
                                  "_addmm_activation",
                                  "conv1d",
                                  "conv1d.padding",
                                  "conv2d",
                                  "conv2d.padding",
                                  "conv3d",
                                  "conv3d.padding",
                                  "conv_tbc",
                                  "conv_transpose1d",
                                  "conv_transpose2d.input",
                                  "conv_transpose3d.input",
                                  "convolution",
                                  "_convolution",
                                  "_convolution.deprecated",
                                  "prelu",
                                  "scaled_dot_product_attention",
                                  "_native_multi_head_attention",
                                  "lstm.input",
                                  "lstm.data",
                                  "gru.input",
                                  "gru.data",
                                  "rnn_tanh.input",
                                  "rnn_tanh.data",
                                  "rnn_relu.input",
                                  "rnn_relu.data",
                                  "lstm_cell",
                                  "gru_cell",
                                  "rnn_tanh_cell",
                                  "rnn_relu_cell",
                                  "layer_norm",
                                  "native_layer_norm",
                                  "group_norm",
                                  "batch_norm",
                                  "instance_norm",
                                  "rms_norm",
                                  "embedding_bag"};

/// What one operation does under one device's autocast: LibTorch's own kernel unless an argument
/// is marked.
class KeepingKernel final : public c10::OperatorKernel {
 public:
  KeepingKernel(c10::SafeKernelFunction autocast, bool has_policy, torch::DeviceType device)
      : autocast_(std::move(autocast)), has_policy_(has_policy), device_(device) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    if (takes_kept_tensor(op, *stack)) {
      call_in(torch::kFloat, device_, op, stack);
    } else if (!has_policy_) {
      const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device_);
      op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, key), stack);
    } else {
      autocast_.callBoxed(op, keys, stack);
    }
  }

 private:
  c10::SafeKernelFunction autocast_;
  bool has_policy_;
  torch::DeviceType device_;
};

/// The operations and keys under which a KeepingKernel is all there is.
class OnlyKeeping {
 public:
  void add(const c10::OperatorHandle& op, c10::DispatchKey key) {
    const std::unique_lock lock(mutex_);
    known_.emplace_back(op.operator_name(), key);
  }
  bool holds(const c10::OperatorHandle& op, c10::DispatchKey key) const {
    const std::shared_lock lock(mutex_);
    return std::find(known_.begin(), known_.end(), std::pair(op.operator_name(), key)) !=
           known_.end();
  }

 private:
  mutable std::shared_mutex mutex_;
  std::vector<std::pair<c10::OperatorName, c10::DispatchKey>> known_;
};

OnlyKeeping& only_keeping() {
  static OnlyKeeping instance;
  return instance;
}

std::vector<torch::Library> wrap_weighted_ops() {
  const QuietOverride quiet;
  std::vector<torch::Library> libraries;
  for (const torch::DeviceType device : {torch::kCPU, torch::kCUDA}) {
    const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device);
    torch::Library& library =
        libraries.emplace_back(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
    for (const char* const name : kWeightedOps) {
      const c10::OperatorHandle op = find_op(std::string("aten::") + name);
      const bool has_policy = op.hasKernelForDispatchKey(key) && !op.isKernelFallthroughKernel(key);
      library.impl(name, torch::CppFunction::makeFromBoxedFunctor(std::make_unique<KeepingKernel>(
                             op.getComputedKernelForDispatchKey(key), has_policy, device)));
      if (!has_policy) only_keeping().add(op, key);
    }
  }
  return libraries;
}

}  // namespace

bool only_keeps(const c10::OperatorHandle& op, c10::DispatchKey key) {
  return only_keeping().holds(op, key);
}

void mark_keep_fp32(const Tensor& parameter) {
  HALFTONE_CHECK(parameter.defined(), "[keep_fp32] expected a tensor, got an undefined one");
  static const std::vector<torch::Library> registered = wrap_weighted_ops();
  marks().add(parameter);
}

void unmark_keep_fp32(const Tensor& parameter) { marks().remove(parameter); }

bool keeps_fp32(const Tensor& tensor) {
  if (marks().empty() || !tensor.defined()) return false;
  return marks().holds(tensor) || (tensor.is_view() && marks().holds(tensor._base()));
}

Tensor upcast(const Tensor& x) { return is_half(x.scalar_type()) ? x.to(torch::kFloat) : x; }

KeepFp32Scope::KeepFp32Scope(const Tensor& parameter) {
  if (keeps_fp32(parameter)) no_autocast_.emplace(c10::autocast_dispatch_keyset);
}

}  // namespace halftone
