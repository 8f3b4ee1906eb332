// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw.h"

#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/optim/adamw_buffers.h"

namespace halftone {
namespace {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

NamedTensors numbered(const std::vector<torch::Tensor>& parameters) {
  NamedTensors named;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    named.emplace_back(fmt::format("group 0, parameter {}", i), parameters[i]);
  return named;
}

std::vector<torch::Tensor> tensors_of(const NamedTensors& named) {
  std::vector<torch::Tensor> unique;
  for (const auto& [name, tensor] : named) {
    HALFTONE_CHECK(tensor.defined(), "[adamw] the parameter '", name, "' is undefined");
    const auto same = [&t = tensor](const torch::Tensor& other) { return other.is_same(t); };
    if (std::none_of(unique.begin(), unique.end(), same)) unique.push_back(tensor);
  }
  return unique;
}

std::unique_ptr<torch::optim::AdamWOptions> group_options(const AdamWOptions& options) {
  const bool sensible = options.lr >= 0 && options.eps >= 0 && options.weight_decay >= 0 &&
                        options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 &&
                        options.beta2 < 1;
  HALFTONE_CHECK(sensible,
                 "[adamw] expected lr, eps and weight_decay >= 0 and betas in [0, 1), got lr ",
                 options.lr, ", eps ", options.eps, ", weight_decay ", options.weight_decay,
                 ", betas ", options.beta1, " and ", options.beta2);
  auto group = std::make_unique<torch::optim::AdamWOptions>(options.lr);
  group->betas({options.beta1, options.beta2}).eps(options.eps).weight_decay(options.weight_decay);
  return group;
}

// The bytes a tensor covers, first and one past the last.
std::pair<const char*, const char*> extent(const torch::Tensor& tensor) {
  const auto* begin = static_cast<const char*>(tensor.const_data_ptr());
  std::int64_t last = 0;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const auto width = static_cast<std::int64_t>(tensor.element_size());
  return {begin, begin + (last + 1) * width};
}

bool same_memory(const torch::Tensor& a, const torch::Tensor& b) {
  return a.numel() > 0 && a.const_data_ptr() == b.const_data_ptr() && a.sizes() == b.sizes() &&
         a.strides() == b.strides() && a.scalar_type() == b.scalar_type();
}

bool overlap(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto [a_begin, a_end] = extent(a);
  const auto [b_begin, b_end] = extent(b);
  return a_begin < b_end && b_begin < a_end;
}

void check_parameter(const std::string& name, const torch::Tensor& parameter) {
  const torch::ScalarType dtype = parameter.scalar_type();
  HALFTONE_CHECK(dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf,
                 "[adamw] expected parameters in fp32, bf16 or fp16, but '", name, "' is ", dtype);
  HALFTONE_CHECK(parameter.layout() == torch::kStrided && parameter.is_leaf(), "[adamw] expected '",
                 name, "' to be a dense leaf tensor");
}

}  // namespace

AdamW::AdamW(NamedTensors named_parameters, AdamWOptions options)
    : Optimizer(tensors_of(named_parameters), group_options(options)),
      options_(std::move(options)) {
  const torch::NoGradGuard no_grad;
  add_slots(std::move(named_parameters));
  allocate_buffers();
}

AdamW::AdamW(std::vector<torch::Tensor> parameters, AdamWOptions options)
    : AdamW(numbered(parameters), std::move(options)) {}

void AdamW::add_slots(NamedTensors named_parameters) {
  for (auto& [name, parameter] : named_parameters) {
    check_parameter(name, parameter);
    Slot* twin = nullptr;
    for (Slot& slot : slots_) {
      const torch::Tensor& other = slot.variables.front();
      if (other.is_same(parameter) || same_memory(other, parameter)) twin = &slot;
      HALFTONE_CHECK(twin == &slot || !overlap(other, parameter), "[adamw] '", name, "' overlaps '",
                     names_[static_cast<std::size_t>(&slot - slots_.data())],
                     "' in memory without being the same tensor");
    }
    if (twin == nullptr) {
      names_.push_back(std::move(name));
      slots_.push_back({.numel = parameter.numel(), .variables = {parameter}});
    } else if (std::none_of(twin->variables.begin(), twin->variables.end(),
                            [&p = parameter](const auto& v) { return v.is_same(p); })) {
      twin->variables.push_back(parameter);
    }
  }
}

void AdamW::allocate_buffers() {
  std::vector<ParameterShape> shapes;
  for (const Slot& slot : slots_) {
    const torch::Tensor& parameter = slot.variables.front();
    shapes.push_back({parameter.sizes().vec(), parameter.scalar_type(), parameter.device()});
  }
  const std::vector<AdamWBufferLayout> layouts = adamw_layout(shapes, options_);
  std::vector<AdamWTensors> tensors = adamw_buffers(layouts, options_);
  for (std::size_t b = 0; b < layouts.size(); ++b) {
    const AdamWBufferLayout& layout = layouts[b];
    for (std::size_t k = 0; k < layout.parameters.size(); ++k) {
      slots_[layout.parameters[k]].buffer = b;
      slots_[layout.parameters[k]].offset = layout.offsets[k];
    }
    buffers_.push_back({.tensors = std::move(tensors[b]),
                        .step = torch::zeros({}, torch::dtype(torch::kLong).device(layout.device)),
                        .slots = layout.parameters});
  }
  for (Slot& slot : slots_) attach(slot);
}

torch::Tensor AdamW::view_of(const torch::Tensor& flat, const Slot& slot) const {
  return flat.narrow(0, slot.offset, slot.numel).view(slot.variables.front().sizes());
}

// Moves a parameter into its buffer, with the gradient it may already have.
void AdamW::attach(Slot& slot) {
  const AdamWTensors& tensors = buffers_[slot.buffer].tensors;
  slot.weight = view_of(tensors.weights, slot);
  slot.weight.copy_(slot.variables.front().detach());
  for (torch::Tensor& variable : slot.variables) {
    variable.set_data(slot.weight);
    set_gradient_dtype(variable);
  }
  if (options_.release_gradients) return;
  // Not a view in autograd's eyes: the zero_grad() of optimizers and modules refuses those.
  slot.gradient = view_of(tensors.gradients, slot).variable_data();
  slot.untouched = slot.gradient._version();
  collect_gradient(slot);  // the parameter may have one
  for (const torch::Tensor& variable : slot.variables)
    if (!variable.grad().defined()) preset_gradient(variable, slot);
}

void AdamW::check_in_place(std::size_t index) const {
  const Slot& slot = slots_[index];
  for (const torch::Tensor& variable : slot.variables)
    HALFTONE_CHECK(variable.const_data_ptr() == slot.weight.const_data_ptr() &&
                       variable.scalar_type() == slot.weight.scalar_type(),
                   "[adamw] '", names_[index],
                   "' no longer lives in the optimizer's buffer: build the "
                   "optimizer after module->to(), and load weights with copy_()");
}

void AdamW::check_in_place() const {
  std::size_t variables = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    check_in_place(i);
    variables += slots_[i].variables.size();
  }
  HALFTONE_CHECK(param_groups().size() == 1 && param_groups()[0].params().size() == variables,
                 "[adamw] parameters were added after the optimizer was built: build a new one");
}

torch::Tensor AdamW::step(LossClosure closure) {
  torch::Tensor loss;
  if (closure) {
    const torch::AutoGradMode with_grad(true);
    loss = closure();
  }
  step_scaled(torch::ones({}), torch::zeros({}));
  return loss;
}

double AdamW::lr() const { return param_groups()[0].options().get_lr(); }

void AdamW::set_lr(double lr) {
  HALFTONE_CHECK(lr >= 0, "[adamw] expected lr >= 0, got ", lr);
  param_groups()[0].options().set_lr(lr);
}

std::int64_t AdamW::step_count() const {
  return buffers_.empty() ? 0 : buffers_.front().step.item<std::int64_t>();
}

const torch::Tensor& AdamW::parameter(std::size_t index) const {
  return slots_.at(index).variables.front();
}

const std::vector<torch::Tensor>& AdamW::variables(std::size_t index) const {
  return slots_.at(index).variables;
}

AdamWArguments AdamW::arguments_for(std::size_t buffer, const torch::Tensor& gradient_factor,
                                    const torch::Tensor& found_inf) const {
  const torch::Device device = buffers_[buffer].tensors.weights.device();
  return {.lr = lr(),
          .beta1 = options_.beta1,
          .beta2 = options_.beta2,
          .eps = options_.eps,
          .weight_decay = options_.weight_decay,
          .stochastic_rounding = options_.stochastic_rounding,
          .seed = random_word(options_.seed, buffer),
          .first_index = 0,
          .step = buffers_[buffer].step + 1,
          .gradient_factor = gradient_factor.to(device, true),
          .found_inf = found_inf.to(device, true)};
}

// One parameter by itself, with the gradient that is in .grad, if there is one.
void AdamW::step_slot(Slot& slot, AdamWArguments arguments) const {
  AdamWTensors tensors =
      part_of(buffers_[slot.buffer].tensors, {slot.offset, slot.offset + slot.numel});
  if (options_.release_gradients)
    tensors.gradients = loose_gradient(slot);
  else if (!collect_gradient(slot))
    return;
  if (!tensors.gradients.defined()) return;
  slot.stepped = true;
  arguments.first_index = slot.offset;
  if (slot.missed_steps.defined()) arguments.step = arguments.step - slot.missed_steps;
  adamw_in_chunks_(tensors, arguments);
}

void AdamW::step_parameter(std::size_t index, const torch::Tensor& gradient_factor,
                           const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  Slot& slot = slots_.at(index);
  check_in_place(index);
  step_slot(slot, arguments_for(slot.buffer, gradient_factor, found_inf));
  if (options_.release_gradients)
    for (torch::Tensor& variable : slot.variables) variable.mutable_grad() = torch::Tensor();
}

void AdamW::finish_step(const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  for (Buffer& buffer : buffers_) {
    const torch::Tensor counted = found_inf.to(buffer.step.device(), true).eq(0).reshape({});
    buffer.step.add_(counted);
    count_missed(buffer, counted);
  }
}

// Parameters that have missed the same steps share the count of them, so that those which come
// back together are updated together.
void AdamW::count_missed(const Buffer& buffer, const torch::Tensor& counted) {
  std::vector<std::pair<torch::Tensor, torch::Tensor>> renewed;  // before and after
  for (const std::size_t i : buffer.slots) {
    Slot& slot = slots_[i];
    if (std::exchange(slot.stepped, false)) continue;
    auto next = std::find_if(renewed.begin(), renewed.end(), [&](const auto& pair) {
      return pair.first.is_same(slot.missed_steps);
    });
    if (next == renewed.end()) {
      const torch::Tensor before = slot.missed_steps;
      const torch::Tensor after = before.defined() ? before + counted : counted.to(torch::kLong);
      next = renewed.insert(renewed.end(), {before, after});
    }
    slot.missed_steps = next->second;
  }
}

void AdamW::step_scaled(const torch::Tensor& gradient_factor, const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  check_in_place();
  for (std::size_t b = 0; b < buffers_.size(); ++b) {
    const Buffer& buffer = buffers_[b];
    const AdamWArguments arguments = arguments_for(b, gradient_factor, found_inf);
    if (options_.release_gradients) {
      for (const std::size_t i : buffer.slots) step_slot(slots_[i], arguments);
      continue;
    }
    for (const std::size_t i : buffer.slots) slots_[i].stepped = collect_gradient(slots_[i]);
    for (const Run& run : runs_to_step(buffer)) {
      AdamWArguments own = arguments;
      own.first_index = run.range.begin;
      if (run.missed_steps.defined()) own.step = own.step - run.missed_steps;
      adamw_in_chunks_(part_of(buffer.tensors, run.range), own);
    }
  }
  finish_step(found_inf);
}

AdamWBytes AdamW::bytes() const {
  const auto of = [](const torch::Tensor& t) {
    return t.defined() ? static_cast<std::int64_t>(t.nbytes()) : 0;
  };
  AdamWBytes bytes;
  for (const Buffer& buffer : buffers_) {
    const AdamWTensors& t = buffer.tensors;
    bytes.weights += of(t.weights);
    bytes.gradients += of(t.gradients);
    bytes.moments +=
        of(t.exp_avg) + of(t.exp_avg_sq) + of(t.exp_avg_scale) + of(t.exp_avg_sq_scale);
    bytes.master += of(t.master_low);
  }
  if (!options_.offload.empty()) bytes.disk = bytes.moments + bytes.master;
  return bytes;
}

// The stretches of a buffer that are updated alike; all of it in the common case.
std::vector<AdamW::Run> AdamW::runs_to_step(const Buffer& buffer) const {
  std::vector<Run> runs;
  for (std::size_t k = 0; k < buffer.slots.size(); ++k) {
    const Slot& slot = slots_[buffer.slots[k]];
    const bool last = k + 1 == buffer.slots.size();
    const std::int64_t end =
        last ? buffer.tensors.weights.numel() : slots_[buffer.slots[k + 1]].offset;
    if (!slot.stepped || end == slot.offset) continue;
    if (!runs.empty() && runs.back().range.end == slot.offset &&
        runs.back().missed_steps.is_same(slot.missed_steps)) {
      runs.back().range.end = end;
    } else {
      runs.push_back({{slot.offset, end}, slot.missed_steps});
    }
  }
  return runs;
}

}  // namespace halftone
