// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/collectives_impl.h"
#include "halftone/dist/single_process_impl.h"

namespace halftone {
namespace {

class Done : public ProcessGroup::Work {
 public:
  void wait() override {}
};

}  // namespace

ProcessGroup::Pending SingleProcess::all_to_all(torch::Tensor received, torch::Tensor sent) {
  check_all_to_all(received, sent, 1);
  Bytes(received).copy_from(Bytes(sent));
  return std::make_unique<Done>();
}

ProcessGroup::Pending SingleProcess::all_gather(torch::Tensor all, torch::Tensor own) {
  check_all_gather(all, own, 1);
  Bytes(all).copy_from(Bytes(own));
  return std::make_unique<Done>();
}

ProcessGroup::Pending SingleProcess::broadcast(torch::Tensor tensor, std::int64_t root) {
  check_broadcast(tensor, root, 1);
  return std::make_unique<Done>();
}

}  // namespace halftone
