// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

namespace halftone {

/// While it lives, what this thread computes belongs, to whoever observes LibTorch's operations, to
/// the step of autograd with that sequence number, wherever it is computed: for gradients that are
/// computed ahead of their node's turn. Costs a look at a thread-local where nobody observes.
class ObservedBackward {
 public:
  ObservedBackward(const char* name, std::uint64_t sequence);

 private:
  struct Record;
  struct Close {
    void operator()(Record* record) const;
  };
  std::unique_ptr<Record, Close> record_;
};

}  // namespace halftone
