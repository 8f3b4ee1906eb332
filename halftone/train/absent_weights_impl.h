// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {

/// Finds operations that read weights which are not in memory: their results are wrong, and nothing
/// else tells.
class AbsentWeights : public OperationObserver {
 public:
  /// The name of a weight, or of a part of one, that is not there; nothing for any other tensor.
  using NameOf = std::function<std::optional<std::string>(const torch::Tensor& tensor)>;
  explicit AbsentWeights(NameOf name_of) : name_of_(std::move(name_of)) {}

  void begin(const OperationCall& call) override;
  void end(const OperationCall& /*call*/) override {}
  /// Throws UserError that names the first one.
  void check() const;

 private:
  NameOf name_of_;
  mutable std::mutex mutex_;
  std::string weight_, operation_;
};

}  // namespace halftone
