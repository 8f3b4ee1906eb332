// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "halftone/core/process_group.h"

namespace halftone {

/// A group of one, whose operations are copies.
class SingleProcess : public ProcessGroup {
 public:
  std::int64_t rank() const override { return 0; }
  std::int64_t size() const override { return 1; }
  Pending all_to_all(torch::Tensor received, torch::Tensor sent) override;
  Pending all_gather(torch::Tensor all, torch::Tensor own) override;
  Pending broadcast(torch::Tensor tensor, std::int64_t root) override;
  std::shared_ptr<ProcessGroup> twin() override { return std::make_shared<SingleProcess>(); }
  std::vector<std::string> all_gather(const std::string& own) override { return {own}; }
};

}  // namespace halftone
