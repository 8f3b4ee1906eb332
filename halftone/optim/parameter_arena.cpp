// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/parameter_arena.h"

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/system/large_pages.h"

namespace halftone {
namespace {

using torch::Tensor;

// The bytes a tensor covers, first and one past the last.
std::pair<const char*, const char*> extent(const Tensor& tensor) {
  const auto* begin = static_cast<const char*>(tensor.const_data_ptr());
  std::int64_t last = 0;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const auto width = static_cast<std::int64_t>(tensor.element_size());
  return {begin, begin + (last + 1) * width};
}

bool same_memory(const Tensor& a, const Tensor& b) {
  return a.numel() > 0 && a.const_data_ptr() == b.const_data_ptr() && a.sizes() == b.sizes() &&
         a.strides() == b.strides() && a.scalar_type() == b.scalar_type();
}

bool overlap(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto [a_begin, a_end] = extent(a);
  const auto [b_begin, b_end] = extent(b);
  return a_begin < b_end && b_begin < a_end;
}

void check_parameter(const std::string& name, const Tensor& parameter) {
  HALFTONE_CHECK(parameter.defined(), "[optimizer] the parameter '", name, "' is undefined");
  const torch::ScalarType dtype = parameter.scalar_type();
  HALFTONE_CHECK(dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf,
                 "[optimizer] expected parameters in fp32, bf16 or fp16, but '", name, "' is ",
                 dtype);
  HALFTONE_CHECK(parameter.layout() == torch::kStrided && parameter.is_leaf(),
                 "[optimizer] expected '", name, "' to be a dense leaf tensor");
}

}  // namespace

Tensor flat_zeros(std::int64_t size, torch::ScalarType dtype, torch::Device device) {
  if (!device.is_cpu()) return torch::zeros({size}, torch::dtype(dtype).device(device));
  const auto width = static_cast<std::int64_t>(c10::elementSize(dtype));
  return zeros_on_large_pages(size * width).view(dtype);
}

std::vector<TiedParameter> tied_parameters(
    std::vector<std::pair<std::string, Tensor>> named_parameters) {
  std::vector<TiedParameter> tied;
  for (auto& [name, parameter] : named_parameters) {
    check_parameter(name, parameter);
    const auto is_it = [&p = parameter](const Tensor& other) { return other.is_same(p); };
    TiedParameter* twin = nullptr;
    for (TiedParameter& before : tied) {
      const Tensor& other = before.variables.front();
      if (is_it(other) || same_memory(other, parameter)) twin = &before;
      HALFTONE_CHECK(twin == &before || !overlap(other, parameter), "[optimizer] '", name,
                     "' overlaps '", before.name, "' in memory without being the same tensor");
    }
    if (twin == nullptr)
      tied.push_back({std::move(name), {parameter}});
    else if (std::none_of(twin->variables.begin(), twin->variables.end(), is_it))
      twin->variables.push_back(parameter);
  }
  return tied;
}

std::vector<ParameterShape> shapes_of(const std::vector<TiedParameter>& parameters) {
  std::vector<ParameterShape> shapes;
  for (const TiedParameter& parameter : parameters) {
    const Tensor& first = parameter.variables.front();
    shapes.push_back({first.sizes().vec(), first.scalar_type(), first.device()});
  }
  return shapes;
}

ParameterArena::ParameterArena(std::vector<TiedParameter> parameters,
                               const std::vector<ArenaBufferLayout>& layouts,
                               const ArenaOptions& options)
    : options_(options), slots_(parameters.size()) {
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    names_.push_back(std::move(parameters[i].name));
    slots_[i].variables = std::move(parameters[i].variables);
    slots_[i].numel = slots_[i].variables.front().numel();
  }
  for (const ArenaBufferLayout& layout : layouts) {
    for (std::size_t k = 0; k < layout.parameters.size(); ++k) {
      Slot& slot = slots_.at(layout.parameters[k]);
      slot.buffer = buffers_.size();
      slot.offset = layout.offsets[k];
    }
    Buffer buffer{.weights = flat_zeros(layout.size, layout.weights, layout.device),
                  .gradients = {},
                  .parameters = layout.parameters};
    if (!options.release_gradients)
      buffer.gradients = flat_zeros(layout.size, layout.gradients, layout.device);
    buffers_.push_back(std::move(buffer));
  }
  for (std::size_t i = 0; i < slots_.size(); ++i) attach(i);
}

ParameterArena::Place ParameterArena::place(std::size_t index) const {
  const Slot& slot = slots_.at(index);
  return {slot.buffer, {slot.offset, slot.offset + slot.numel}};
}

Tensor ParameterArena::view(const Tensor& flat, std::size_t index) const {
  const Slot& slot = slots_[index];
  return flat.narrow(0, slot.offset, slot.numel).view(slot.variables.front().sizes());
}

// Moves a parameter into its buffer, with the gradient it may already have.
void ParameterArena::attach(std::size_t index) {
  Slot& slot = slots_[index];
  const Buffer& buffer = buffers_[slot.buffer];
  slot.weight = view(buffer.weights, index);
  slot.weight.copy_(slot.variables.front().detach());
  for (Tensor& variable : slot.variables) {
    variable.set_data(slot.weight);
    set_gradient_dtype(variable);
  }
  if (options_.release_gradients) return;
  // Not a view in autograd's eyes: the zero_grad() of optimizers and modules refuses those.
  slot.gradient = view(buffer.gradients, index).variable_data();
  slot.untouched = slot.gradient._version();
  collect_gradient(index);  // the parameter may have one
  for (const Tensor& variable : slot.variables)
    if (!variable.grad().defined()) preset_gradient(variable, slot);
}

void ParameterArena::check_in_place(std::size_t index) const {
  const Slot& slot = slots_[index];
  for (const Tensor& variable : slot.variables)
    HALFTONE_CHECK(variable.const_data_ptr() == slot.weight.const_data_ptr() &&
                       variable.scalar_type() == slot.weight.scalar_type(),
                   "[optimizer] '", names_[index],
                   "' no longer lives in the optimizer's buffer: build the "
                   "optimizer after module->to(), and load weights with copy_()");
}

}  // namespace halftone
