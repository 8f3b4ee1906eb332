// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "halftone/kernels/common/recomputation_impl.h"

namespace halftone {
namespace {

/// Filled before main(), read-only from then on.
std::map<std::type_index, RecomputationOfNode>& recomputations() {
  static std::map<std::type_index, RecomputationOfNode> all;
  return all;
}

}  // namespace

void register_recomputation(std::type_index node, RecomputationOfNode find) {
  recomputations()[node] = find;
}

std::optional<Recomputation> recomputation_of(const torch::Tensor& x) {
  // Written to since it was made, it is no longer what the recomputation gives.
  if (!x.grad_fn() || x._version() != 0) return {};
  torch::autograd::Node& node = *x.grad_fn();
  const auto found = recomputations().find(typeid(node));
  if (found == recomputations().end()) return {};
  try {
    return found->second(node, static_cast<std::uint32_t>(x.output_nr()));
  } catch (const c10::Error&) {
    return {};  // what its operation kept is freed (a backward pass is over), or was written to
  }
}

}  // namespace halftone
