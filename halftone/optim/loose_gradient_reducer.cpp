// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/loose_gradient_reducer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/optim/gradient_buckets.h"

namespace halftone {
namespace {

using torch::Tensor;

void check_dense(const Tensor& gradient) {
  if (gradient.layout() != torch::kStrided)
    throw UserError(
        "trainer: a gradient is sparse, and several processes add up dense ones only; build the "
        "embedding with sparse(false), or train in one process");
}

/// Those with a gradient on any process; where it is another's, it begins with zeros.
std::vector<Tensor> with_gradients(const std::vector<Tensor>& parameters, ProcessGroup& group) {
  std::string own;
  for (const Tensor& parameter : parameters) own += parameter.grad().defined() ? '1' : '0';
  const std::vector<std::string> all = group.all_gather(own);
  std::vector<Tensor> found;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto has_it = [&](const std::string& one) { return one.at(i) == '1'; };
    if (std::none_of(all.begin(), all.end(), has_it)) continue;
    Tensor parameter = parameters[i];
    if (parameter.grad().defined())
      check_dense(parameter.grad());
    else
      parameter.mutable_grad() = torch::zeros_like(parameter);
    found.push_back(parameter);
  }
  return found;
}

/// All of one dtype.
void reduce_together(const std::vector<Tensor>& parameters, ProcessGroup& group,
                     GradientTransport transport) {
  std::vector<Tensor> flat;
  for (const Tensor& parameter : parameters) flat.push_back(parameter.grad().reshape(-1));
  const Tensor gradients = torch::cat(flat);
  GradientSum sum(group, gradients, even_pieces(gradients.numel(), group.size()), transport);
  sum.add_up();
  sum.finish();
  std::int64_t at = 0;
  for (const Tensor& parameter : parameters) {
    parameter.mutable_grad().copy_(
        gradients.narrow(0, at, parameter.numel()).view(parameter.sizes()));
    at += parameter.numel();
  }
}

}  // namespace

void reduce_gradients(const std::vector<Tensor>& parameters, ProcessGroup& group,
                      GradientTransport transport) {
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> together;
  std::int64_t bytes = 0;
  for (const Tensor& parameter : with_gradients(parameters, group)) {
    const bool fits =
        together.empty() || together.front().grad().scalar_type() == parameter.grad().scalar_type();
    if (!fits || bytes >= kBucketBytes) {
      reduce_together(std::exchange(together, {}), group, transport);
      bytes = 0;
    }
    together.push_back(parameter);
    bytes += static_cast<std::int64_t>(parameter.grad().nbytes());
  }
  if (!together.empty()) reduce_together(together, group, transport);
}

}  // namespace halftone
