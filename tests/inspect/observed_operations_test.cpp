// SPDX-License-Identifier: Apache-2.0
// Nothing computes unseen: whatever an operation reads was written by one that observers saw.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/models/generate.h"
#include "support/small_step.h"

namespace halftone::observed_operations_test {
namespace {

using test::EveryStepKind;
using test::SmallStep;

bool has_bytes(const torch::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == torch::kStrided && tensor.has_storage() &&
         tensor.is_cpu() && tensor.storage().nbytes() > 0;
}

/// Remembers the bytes of every storage as the last observed operation left them, and reports an
/// operation that finds other ones. What happens inside an operation is that operation's.
class UnseenWrites : public OperationObserver {
 public:
  void begin(const OperationCall& call) override {
    if (depth_ == 0)
      for (const OperationTensors& input : call.inputs)
        for (const torch::Tensor& tensor : input.tensors)
          if (input.is_read) check(tensor, call.name);
    if (!call.is_backward) ++depth_;
  }
  void end(const OperationCall& call) override {
    if (!call.is_backward) --depth_;
    for (const OperationTensors& output : call.outputs)
      for (const torch::Tensor& tensor : output.tensors) note(tensor);
  }

  /// A tensor from outside.
  void note(const torch::Tensor& tensor) {
    if (has_bytes(tensor))
      seen_.insert_or_assign(tensor.storage().unsafeGetStorageImpl(),
                             Seen{tensor.storage().getWeakStorageImpl(), bytes_of(tensor)});
  }
  void check(const torch::Tensor& tensor, const std::string& reader) {
    if (!has_bytes(tensor)) return;
    const auto found = seen_.find(tensor.storage().unsafeGetStorageImpl());
    if (found != seen_.end() && found->second.bytes != bytes_of(tensor))
      unseen_.push_back(reader + " reads what nobody was seen to write");
    note(tensor);
  }
  const std::vector<std::string>& unseen() const { return unseen_; }

 private:
  struct Seen {
    c10::weak_intrusive_ptr<c10::StorageImpl> keeps_the_address;
    std::string bytes;
  };
  static std::string bytes_of(const torch::Tensor& tensor) {
    return {static_cast<const char*>(tensor.storage().data()), tensor.storage().nbytes()};
  }

  int depth_ = 0;
  std::unordered_map<const c10::StorageImpl*, Seen> seen_;
  std::vector<std::string> unseen_;
};

std::string listed(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

class ObservedOperations : public EveryStepKind {
 protected:
  std::shared_ptr<UnseenWrites> watch(SmallStep& step) {
    auto writes = std::make_shared<UnseenWrites>();
    for (const torch::Tensor& parameter : step.model->parameters()) writes->note(parameter);
    for (const torch::Tensor& buffer : step.model->buffers()) writes->note(buffer);
    writes->note(step.text);
    return writes;
  }
};

TEST_P(ObservedOperations, WriteAllOfAStep) {
  SmallStep step(GetParam());
  const auto writes = watch(step);
  step.loss();  // tables are made
  std::vector<torch::Tensor> gradients;
  {
    const Observation observation(writes);
    gradients = torch::autograd::grad({step.loss()}, step.model->parameters());
  }
  for (const torch::Tensor& gradient : gradients) writes->check(gradient, "the optimizer");
  EXPECT_TRUE(writes->unseen().empty()) << listed(writes->unseen());
}

TEST_P(ObservedOperations, WriteAllOfAStepThatAddsToItsGradients) {
  SmallStep step(GetParam(), {.recompute_blocks = true});
  const auto writes = watch(step);
  for (torch::Tensor& parameter : step.model->parameters()) {
    parameter.mutable_grad() = torch::zeros_like(parameter);
    writes->note(parameter.grad());
  }
  {
    const Observation observation(writes);
    step.precision.backward(step.loss());
  }
  for (const torch::Tensor& parameter : step.model->parameters())
    writes->check(parameter.grad(), "the optimizer");
  EXPECT_TRUE(writes->unseen().empty()) << listed(writes->unseen());
}

TEST_P(ObservedOperations, WriteAllOfAGeneratedToken) {
  if (GetParam().moe) GTEST_SKIP() << "a single token's experts are dense layers";
  SmallStep step(GetParam());
  const auto writes = watch(step);
  const torch::NoGradGuard no_grad;
  KvCache cache = step.model->make_cache(8);
  const auto next = [&] {
    const auto region = step.precision.forward_context();
    return step.model->forward(step.text.narrow(0, 0, 1).narrow(1, 0, 1), &cache).logits;
  };
  next();
  torch::Tensor logits;
  {
    const Observation observation(writes);
    logits = next();
  }
  writes->check(logits, "the caller");
  EXPECT_TRUE(writes->unseen().empty()) << listed(writes->unseen());
}

INSTANTIATE_TEST_SUITE_P(Every, ObservedOperations, testing::ValuesIn(test::all_step_kinds()),
                         test::name_of);

TEST(UnseenWrites, AreNoticed) {
  const auto writes = std::make_shared<UnseenWrites>();
  torch::Tensor x = torch::ones({4});
  writes->note(x);
  const Observation observation(writes);
  EXPECT_EQ((x + 1).sum().item<float>(), 8);
  EXPECT_TRUE(writes->unseen().empty());
  *x.data_ptr<float>() = 3;
  EXPECT_EQ((x + 1).sum().item<float>(), 10);
  EXPECT_EQ(writes->unseen().size(), 1);
}

}  // namespace
}  // namespace halftone::observed_operations_test
