// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw.h"

#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <bit>
#include <map>
#include <tuple>

#include "halftone/core/error.h"
#include "halftone/core/large_pages.h"
#include "halftone/core/random.h"
#include "halftone/kernels/adamw.h"
#include "halftone/kernels/gradient_stats.h"

namespace halftone {
namespace {

constexpr std::int64_t kAlignment = 64;  // bytes, of each parameter in its buffer

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

bool stands_at(const torch::Tensor& gradient, const torch::Tensor& view) {
  if (gradient.is_same(view)) return true;
  return gradient.defined() && gradient.layout() == torch::kStrided &&
         gradient.scalar_type() == view.scalar_type() && same_memory(gradient, view);
}

void check_parameter(const std::string& name, const torch::Tensor& parameter) {
  const torch::ScalarType dtype = parameter.scalar_type();
  HALFTONE_CHECK(dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf,
                 "[adamw] expected parameters in fp32, bf16 or fp16, but '", name, "' is ", dtype);
  HALFTONE_CHECK(parameter.layout() == torch::kStrided && parameter.is_leaf(), "[adamw] expected '",
                 name, "' to be a dense leaf tensor");
}

// Every step reads and writes these from end to end.
torch::Tensor flat_zeros(std::int64_t size, const torch::TensorOptions& options) {
  if (!options.device().is_cpu()) return torch::zeros({size}, options);
  const torch::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  const auto width = static_cast<std::int64_t>(c10::elementSize(dtype));
  return empty_on_large_pages(size * width).view(dtype).zero_();
}

}  // namespace

AdamW::AdamW(NamedTensors named_parameters, AdamWOptions options)
    : Optimizer(tensors_of(named_parameters), group_options(options)), options_(options) {
  const torch::NoGradGuard no_grad;
  add_slots(std::move(named_parameters));
  allocate_buffers();
}

AdamW::AdamW(std::vector<torch::Tensor> parameters, AdamWOptions options)
    : AdamW(numbered(parameters), options) {}

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
  const auto kind = [](const torch::Tensor& t) {
    return std::make_tuple(t.device().type(), t.device().index(), t.scalar_type());
  };
  std::map<decltype(kind({})), std::size_t> buffer_of;
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    const torch::Tensor& parameter = slot.variables.front();
    const auto [found, fresh] = buffer_of.try_emplace(kind(parameter), buffers_.size());
    if (fresh) {
      buffers_.emplace_back();
      sizes.push_back(0);
    }
    slot.buffer = found->second;
    slot.offset = sizes[slot.buffer];
    const auto unit = kAlignment / static_cast<std::int64_t>(parameter.element_size());
    sizes[slot.buffer] += (slot.numel + unit - 1) / unit * unit;
    buffers_[slot.buffer].slots.push_back(i);
  }
  for (std::size_t b = 0; b < buffers_.size(); ++b) {
    const auto options = slots_[buffers_[b].slots.front()].variables.front().options();
    const auto plain = torch::TensorOptions().device(options.device());
    buffers_[b].weights = flat_zeros(sizes[b], plain.dtype(options.dtype()));
    buffers_[b].gradients = flat_zeros(sizes[b], plain.dtype(options.dtype()));
    buffers_[b].exp_avg = flat_zeros(sizes[b], plain.dtype(torch::kFloat));
    buffers_[b].exp_avg_sq = flat_zeros(sizes[b], plain.dtype(torch::kFloat));
    buffers_[b].step = torch::zeros({}, plain.dtype(torch::kLong));
  }
  for (Slot& slot : slots_) attach(slot);
}

torch::Tensor AdamW::view_of(const torch::Tensor& flat, const Slot& slot) const {
  return flat.narrow(0, slot.offset, slot.numel).view(slot.variables.front().sizes());
}

// Moves a parameter into its buffer, with the gradient it may already have.
void AdamW::attach(Slot& slot) {
  slot.weight = view_of(buffers_[slot.buffer].weights, slot);
  // Not a view in autograd's eyes: the zero_grad() of optimizers and modules refuses those.
  slot.gradient = view_of(buffers_[slot.buffer].gradients, slot).variable_data();
  slot.weight.copy_(slot.variables.front().detach());
  for (torch::Tensor& variable : slot.variables) {
    variable.set_data(slot.weight);
    if (variable.grad().defined()) slot.gradient.add_(variable.grad());
  }
  for (torch::Tensor& variable : slot.variables) variable.mutable_grad() = slot.gradient;
}

// Brings what stands in .grad into the buffer; whether there was any gradient at all.
bool AdamW::collect_gradient(const Slot& slot) const {
  const auto attached = [&](const torch::Tensor& variable) {
    return stands_at(variable.grad(), slot.gradient);
  };
  const auto defined = [](const torch::Tensor& variable) { return variable.grad().defined(); };
  const std::vector<torch::Tensor>& variables = slot.variables;
  if (std::all_of(variables.begin(), variables.end(), attached)) return true;
  if (std::none_of(variables.begin(), variables.end(), attached)) slot.gradient.zero_();
  if (std::none_of(variables.begin(), variables.end(), defined)) return false;
  for (const torch::Tensor& variable : variables) {
    if (defined(variable) && !attached(variable))
      slot.gradient.add_(variable.grad().detach().to(slot.gradient.scalar_type()));
    variable.mutable_grad() = slot.gradient;
  }
  return true;
}

std::vector<bool> AdamW::collect_gradients() const {
  const torch::NoGradGuard no_grad;
  std::vector<bool> active(slots_.size());
  for (std::size_t i = 0; i < slots_.size(); ++i) active[i] = collect_gradient(slots_[i]);
  return active;
}

void AdamW::check_in_place() const {
  std::size_t variables = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    for (const torch::Tensor& variable : slots_[i].variables)
      HALFTONE_CHECK(variable.const_data_ptr() == slots_[i].weight.const_data_ptr() &&
                         variable.scalar_type() == slots_[i].weight.scalar_type(),
                     "[adamw] '", names_[i],
                     "' no longer lives in the optimizer's buffer: build the "
                     "optimizer after module->to(), and load weights with copy_()");
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

void AdamW::zero_grad() {
  const torch::NoGradGuard no_grad;
  for (Buffer& buffer : buffers_) buffer.gradients.zero_();
  for (Slot& slot : slots_)
    for (torch::Tensor& variable : slot.variables) variable.mutable_grad() = slot.gradient;
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

GradientStats AdamW::gradient_stats() const {
  const torch::NoGradGuard no_grad;
  collect_gradients();
  if (buffers_.empty()) return {torch::zeros({}, torch::kDouble), torch::zeros({0}, torch::kLong)};
  const torch::Device device = buffers_.front().weights.device();
  std::vector<torch::Tensor> norm_squared;
  std::vector<torch::Tensor> non_finite;
  std::vector<std::int64_t> order(slots_.size());  // where each parameter stands in the parts
  std::int64_t position = 0;
  for (const Buffer& buffer : buffers_) {
    std::vector<Range> ranges;
    for (const std::size_t i : buffer.slots) {
      ranges.push_back({slots_[i].offset, slots_[i].offset + slots_[i].numel});
      order[i] = position++;
    }
    const RangeStats stats = halftone::gradient_stats(buffer.gradients, ranges);
    norm_squared.push_back(stats.norm_squared.to(device, true));
    non_finite.push_back(stats.non_finite.to(device, true));
  }
  if (buffers_.size() == 1) return {norm_squared[0].sum(), non_finite[0]};
  const torch::Tensor by_name = torch::tensor(order).to(device, true);
  return {torch::cat(norm_squared).index_select(0, by_name).sum(),
          torch::cat(non_finite).index_select(0, by_name)};
}

void AdamW::step_scaled(const torch::Tensor& gradient_factor, const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  check_in_place();
  const std::vector<bool> active = collect_gradients();
  for (std::size_t b = 0; b < buffers_.size(); ++b) {
    const Buffer& buffer = buffers_[b];
    const torch::Device device = buffer.weights.device();
    const torch::Tensor found = found_inf.to(device, true);
    AdamWArguments arguments{.lr = lr(),
                             .beta1 = options_.beta1,
                             .beta2 = options_.beta2,
                             .eps = options_.eps,
                             .weight_decay = options_.weight_decay,
                             .stochastic_rounding = options_.stochastic_rounding,
                             .seed = random_word(options_.seed, b),
                             .first_index = 0,
                             .step = buffer.step + 1,
                             .gradient_factor = gradient_factor.to(device, true),
                             .found_inf = found};
    for (const Range& run : active_runs(buffer, active)) {
      const std::int64_t size = run.end - run.begin;
      arguments.first_index = run.begin;
      adamw_(
          {buffer.weights.narrow(0, run.begin, size), buffer.gradients.narrow(0, run.begin, size),
           buffer.exp_avg.narrow(0, run.begin, size), buffer.exp_avg_sq.narrow(0, run.begin, size)},
          arguments);
    }
    buffer.step.add_(found.eq(0).reshape({}));
  }
}

// The stretches of a buffer whose parameters take part; all of it in the common case.
std::vector<Range> AdamW::active_runs(const Buffer& buffer, const std::vector<bool>& active) const {
  std::vector<Range> runs;
  for (std::size_t k = 0; k < buffer.slots.size(); ++k) {
    const Slot& slot = slots_[buffer.slots[k]];
    const bool last = k + 1 == buffer.slots.size();
    const std::int64_t end = last ? buffer.weights.numel() : slots_[buffer.slots[k + 1]].offset;
    if (!active[buffer.slots[k]] || end == slot.offset) continue;
    if (!runs.empty() && runs.back().end == slot.offset) {
      runs.back().end = end;
    } else {
      runs.push_back({slot.offset, end});
    }
  }
  return runs;
}

StateDict AdamW::state_dict() const {
  StateDict state;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Buffer& buffer = buffers_[slots_[i].buffer];
    state.tensors[names_[i] + ".exp_avg"] = view_of(buffer.exp_avg, slots_[i]);
    state.tensors[names_[i] + ".exp_avg_sq"] = view_of(buffer.exp_avg_sq, slots_[i]);
  }
  state.values = {{"step", step_count()},
                  {"lr", lr()},
                  {"beta1", options_.beta1},
                  {"beta2", options_.beta2},
                  {"eps", options_.eps},
                  {"weight_decay", options_.weight_decay},
                  {"seed", std::bit_cast<std::int64_t>(options_.seed)}};
  return state;
}

void AdamW::load_state_dict(const StateDict& state) {
  const torch::NoGradGuard no_grad;
  const auto step = state.get<std::int64_t>("step");
  const auto lr = state.get<double>("lr");
  const auto seed = state.get<std::int64_t>("seed");
  if (step < 0 || !(lr >= 0))
    throw UserError(
        fmt::format("saved optimizer has step {} and lr {}: both must be at least 0", step, lr));
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    for (const char* moment : {".exp_avg", ".exp_avg_sq"}) {
      const torch::Tensor& tensor = state.tensor(names_[i] + moment);
      const auto expected = slots_[i].variables.front().sizes();
      if (tensor.sizes() != expected || tensor.scalar_type() != torch::kFloat)
        throw UserError(
            fmt::format("saved optimizer has '{}{}' as {} {}, this model needs float32 {}: load a "
                        "state that was "
                        "saved with the same model",
                        names_[i], moment, c10::toString(tensor.scalar_type()),
                        c10::str(tensor.sizes()), c10::str(expected)));
    }
  }
  for (const Slot& slot : slots_) {
    const std::string& name = names_[static_cast<std::size_t>(&slot - slots_.data())];
    const Buffer& buffer = buffers_[slot.buffer];
    view_of(buffer.exp_avg, slot).copy_(state.tensor(name + ".exp_avg"));
    view_of(buffer.exp_avg_sq, slot).copy_(state.tensor(name + ".exp_avg_sq"));
  }
  for (const Buffer& buffer : buffers_) buffer.step.fill_(step);
  set_lr(lr);
  options_.seed = std::bit_cast<std::uint64_t>(seed);
}

}  // namespace halftone
