// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/step_work.h"

namespace halftone {
namespace {

template <class Kind>
double sum_of(const std::map<Kind, double>& flops) {
  double sum = 0;
  for (const auto& [kind, of_it] : flops) sum += of_it;
  return sum;
}

template <class Kind>
void add_each(std::map<Kind, double>& sums, const std::map<Kind, double>& more) {
  for (const auto& [kind, flops] : more) sums[kind] += flops;
}

}  // namespace

double StepWork::flops() const {
  return sum_of(layer_flops) + sum_of(matmul_flops) + sum_of(attention_flops);
}

StepWork& StepWork::operator+=(const StepWork& other) {
  add_each(layer_flops, other.layer_flops);
  add_each(matmul_flops, other.matmul_flops);
  add_each(attention_flops, other.attention_flops);
  bytes += other.bytes;
  functions += other.functions;
  operations += other.operations;
  return *this;
}

}  // namespace halftone
