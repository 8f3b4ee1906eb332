// SPDX-License-Identifier: Apache-2.0
// Why an operation of a mixed-precision step computes in fp32.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "halftone/autocast/cast_policy.h"
#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/inspect/operation_work_impl.h"
#include "halftone/inspect/site.h"
#include "halftone/precision/policy.h"

namespace halftone {

/// An operation that has ended, and where.
struct EndedOperation {
  const OperationCall& call;
  const Site& site;
  const OperationWork& work;
  const std::vector<std::string>& around;  // the operations that it is inside of, outermost first
};

class Fp32Reasons {
 public:
  /// Both must stay as they are. Reads autocast's lists from the dispatcher.
  Fp32Reasons(const torch::nn::Module& network, const PrecisionPolicy& policy,
              torch::DeviceType device);

  /// One clause, "autocast's fp32 list (aten::softmax)". Empty where the precision is not mixed,
  /// the operation reads no fp32 or double, its matmul takes another format, or it is a cast. An
  /// operation of the backward pass has the reason of its forward operation, which must have come
  /// before.
  std::string reason(const EndedOperation& operation);

  /// Whether it multiplies in fp32 what the precision has in 16 bits, because this machine is
  /// faster that way. Not of a layer that is kept in fp32.
  bool is_upcast(const EndedOperation& operation) const;

 private:
  bool computes_in_fp32(const EndedOperation& operation) const;
  std::string forward_reason(const EndedOperation& operation) const;
  std::string backward_reason(const EndedOperation& operation) const;
  std::string general_reason(const EndedOperation& operation) const;
  std::string kept_parameter(const Site& site) const;
  std::string on_fp32_list(const EndedOperation& operation) const;
  bool is_on_lower_list(const std::string& operation) const;

  const PrecisionPolicy policy_;
  std::set<std::string> kept_;     // parameters
  std::set<std::string> routers_;  // modules
  std::map<std::string, CastPolicy, std::less<>> lists_;
  std::map<std::pair<std::string, std::string>, std::string> known_;  // by module and operation
};

}  // namespace halftone
