// SPDX-License-Identifier: Apache-2.0
// Where an optimizer finds its gradients, and which parameters have none.
#include <algorithm>

#include "halftone/core/device.h"
#include "halftone/kernels/optimizer/gradient_stats.h"
#include "halftone/optim/parameter_arena.h"
#include "halftone/system/large_pages.h"

namespace halftone {
namespace {

bool stands_at(const torch::Tensor& gradient, const torch::Tensor& view) {
  if (gradient.is_same(view)) return true;
  return gradient.defined() && gradient.layout() == torch::kStrided &&
         gradient.scalar_type() == view.scalar_type() && view.numel() > 0 &&
         gradient.const_data_ptr() == view.const_data_ptr() && gradient.sizes() == view.sizes() &&
         gradient.strides() == view.strides();
}

}  // namespace

void ParameterArena::attach_gradient(const torch::Tensor& variable, const Slot& slot) const {
  variable.mutable_grad() = torch::Tensor();
  set_gradient_dtype(variable);
  variable.mutable_grad() = slot.gradient;
}

void ParameterArena::preset_gradient(const torch::Tensor& variable, const Slot& slot) const {
  if (variable.requires_grad())
    attach_gradient(variable, slot);
  else
    variable.mutable_grad() = torch::Tensor();
}

// The parameter may have been frozen when the optimizer was built.
void ParameterArena::set_gradient_dtype(const torch::Tensor& variable) const {
  if (options_.fp32_gradients && variable.requires_grad() && variable.grad_dtype() != torch::kFloat)
    variable.set_grad_dtype(torch::kFloat);
}

// Whether anything has been written to the preset gradient: tensor operations count versions up,
// zeros of theirs are a gradient too. What was written through a pointer shows in the numbers.
bool ParameterArena::has_arrived(const Slot& slot) const {
  if (slot.gradient._version() != slot.untouched) return true;
  if (!slot.gradient.is_cpu()) return false;
  const RangeStats stats = halftone::gradient_stats(slot.gradient.view(-1), {{0, slot.numel}});
  if (stats.norm_squared.item<double>() == 0.0) return false;
  slot.gradient.unsafeGetTensorImpl()->bump_version();
  return true;
}

// What stands in .grad, flat; undefined when there is nothing.
torch::Tensor ParameterArena::loose_gradient(std::size_t index) const {
  const Slot& slot = slots_[index];
  torch::Tensor sum;
  const torch::ScalarType dtype =
      options_.fp32_gradients ? torch::kFloat : slot.weight.scalar_type();
  for (const torch::Tensor& variable : slot.variables) {
    if (!variable.grad().defined()) continue;
    torch::Tensor gradient = variable.grad().detach();
    if (gradient.layout() != torch::kStrided) gradient = gradient.to_dense();
    gradient = gradient.to(dtype).reshape(-1);
    sum = sum.defined() ? sum + gradient : gradient;
  }
  return sum;
}

// Brings what stands in .grad into the buffer; whether there is any gradient at all.
bool ParameterArena::collect_gradient(std::size_t index) const {
  const Slot& slot = slots_[index];
  const auto attached = [&](const torch::Tensor& variable) {
    return stands_at(variable.grad(), slot.gradient);
  };
  const auto defined = [](const torch::Tensor& variable) { return variable.grad().defined(); };
  const std::vector<torch::Tensor>& variables = slot.variables;
  if (std::all_of(variables.begin(), variables.end(), attached)) return has_arrived(slot);
  if (std::none_of(variables.begin(), variables.end(), defined)) {
    if (slot.gradient._version() != slot.untouched) clear_gradient(slot);
    return false;
  }
  if (std::none_of(variables.begin(), variables.end(), attached)) slot.gradient.zero_();
  for (const torch::Tensor& variable : variables) {
    if (defined(variable) && !attached(variable))
      slot.gradient.add_(variable.grad().detach().to(slot.gradient.scalar_type()));
    if (defined(variable) || variable.requires_grad()) attach_gradient(variable, slot);
  }
  return has_arrived(slot);
}

bool ParameterArena::has_gradient(std::size_t index) const {
  const torch::NoGradGuard no_grad;
  if (options_.release_gradients) return loose_gradient(index).defined();
  return collect_gradient(index);
}

void ParameterArena::note_gradient(std::size_t index) const {
  const Slot& slot = slots_.at(index);
  for (const torch::Tensor& variable : slot.variables)
    if (variable.requires_grad()) attach_gradient(variable, slot);
  slot.gradient.unsafeGetTensorImpl()->bump_version();
}

void ParameterArena::drop_gradient(std::size_t index) const {
  for (torch::Tensor variable : variables(index)) variable.mutable_grad() = torch::Tensor();
}

void ParameterArena::clear_gradient(const Slot& slot) const {
  slot.gradient.zero_();
  slot.untouched = slot.gradient._version();
}

void ParameterArena::zero_grad() {
  const torch::NoGradGuard no_grad;
  for (Buffer& buffer : buffers_) {
    if (!buffer.gradients.defined()) continue;
    if (options_.sharded_gradients)
      clear_pages(buffer.gradients);
    else
      buffer.gradients.zero_();
  }
  for (Slot& slot : slots_) {
    if (slot.gradient.defined()) slot.untouched = slot.gradient._version();
    for (const torch::Tensor& variable : slot.variables) preset_gradient(variable, slot);
  }
}

RangeStats ParameterArena::stats(std::size_t index) const {
  const torch::NoGradGuard no_grad;
  const Slot& slot = slots_.at(index);
  const torch::Device device = buffers_.front().weights.device();
  torch::Tensor gradient;
  if (options_.release_gradients)
    gradient = loose_gradient(index);
  else if (collect_gradient(index))
    gradient = slot.gradient.view(-1);
  if (!gradient.defined())
    return {torch::zeros({1}, torch::dtype(torch::kDouble).device(device)),
            torch::zeros({1}, torch::dtype(torch::kLong).device(device))};
  const RangeStats found = halftone::gradient_stats(gradient, {{0, slot.numel}});
  return {found.norm_squared.to(device, true), found.non_finite.to(device, true)};
}

GradientStats ParameterArena::stats() const {
  const torch::NoGradGuard no_grad;
  if (buffers_.empty()) return {torch::zeros({}, torch::kDouble), torch::zeros({0}, torch::kLong)};
  return options_.release_gradients ? loose_stats() : buffered_stats();
}

GradientStats ParameterArena::loose_stats() const {
  std::vector<torch::Tensor> norm_squared;
  std::vector<torch::Tensor> non_finite;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const RangeStats one = stats(i);
    norm_squared.push_back(one.norm_squared);
    non_finite.push_back(one.non_finite);
  }
  return {torch::cat(norm_squared).sum(), torch::cat(non_finite)};
}

GradientStats ParameterArena::buffered_stats() const {
  for (std::size_t i = 0; i < slots_.size(); ++i) collect_gradient(i);
  const torch::Device device = buffers_.front().weights.device();
  std::vector<torch::Tensor> norm_squared;
  std::vector<torch::Tensor> non_finite;
  std::vector<std::int64_t> order(slots_.size());  // where each parameter stands in the parts
  std::int64_t position = 0;
  for (const Buffer& buffer : buffers_) {
    std::vector<Range> ranges;
    for (const std::size_t i : buffer.parameters) {
      ranges.push_back({slots_[i].offset, slots_[i].offset + slots_[i].numel});
      order[i] = position++;
    }
    const RangeStats found = halftone::gradient_stats(buffer.gradients, ranges);
    norm_squared.push_back(found.norm_squared.to(device, true));
    non_finite.push_back(found.non_finite.to(device, true));
  }
  if (buffers_.size() == 1) return {norm_squared[0].sum(), non_finite[0]};
  const torch::Tensor by_name = to_device(torch::tensor(order), device);
  return {torch::cat(norm_squared).index_select(0, by_name).sum(),
          torch::cat(non_finite).index_select(0, by_name)};
}

}  // namespace halftone
