// SPDX-License-Identifier: Apache-2.0
// What AdamW saves and loads, in every layout and from one to another.
#include <fmt/format.h>

#include <bit>
#include <map>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/kernels/optimizer/split_master.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/state_parts.h"
#include "halftone/system/file_memory.h"

namespace halftone {
namespace {

constexpr const char* kExpAvg = ".exp_avg";
constexpr const char* kExpAvgSq = ".exp_avg_sq";
constexpr const char* kScale = "_scale";
constexpr const char* kExpAvgScale = ".exp_avg_scale";
constexpr const char* kExpAvgSqScale = ".exp_avg_sq_scale";
constexpr const char* kMasterLow = ".master_low";
constexpr const char* kStep = "step";
constexpr const char* kOwnStep = ".step";  // of a parameter that has missed some

[[noreturn]] void refuse(const std::string& name, const torch::Tensor& tensor,
                         const std::string& expected) {
  throw UserError(
      fmt::format("saved optimizer has '{}' as {} {}, this model needs {}: load a state that was "
                  "saved with the "
                  "same model",
                  name, c10::toString(tensor.scalar_type()), c10::str(tensor.sizes()), expected));
}

// What was divided among processes comes back flat.
bool fits(const torch::Tensor& saved, at::IntArrayRef shape) {
  return saved.sizes() == shape ||
         (saved.dim() == 1 && saved.numel() == c10::multiply_integers(shape));
}

void check_moment(const StateDict& state, const std::string& name, at::IntArrayRef shape) {
  const torch::Tensor& tensor = state.meta(name);
  const torch::ScalarType dtype = tensor.scalar_type();
  if (!fits(tensor, shape) ||
      (dtype != torch::kFloat && dtype != torch::kBFloat16 && dtype != torch::kByte))
    refuse(name, tensor, "float32, bfloat16 or uint8 " + c10::str(shape));
  if (dtype != torch::kByte) return;
  const torch::Tensor& scales = state.meta(name + kScale);
  const std::int64_t count = moment_scales(tensor.numel());
  if (scales.sizes() != at::IntArrayRef{count} || scales.scalar_type() != torch::kFloat)
    refuse(name + kScale, scales, fmt::format("float32 [{}]", count));
}

void check_master(const StateDict& state, const std::string& name, at::IntArrayRef shape) {
  const auto found = state.tensors.find(name);
  if (found == state.tensors.end()) return;
  const torch::ScalarType dtype = found->second.scalar_type();
  if (!fits(found->second, shape) || (dtype != torch::kShort && dtype != torch::kByte))
    refuse(name, found->second, "int16 or uint8 " + c10::str(shape));
}

// A moment as it is stored: `scales` belong to uint8.
struct Stored {
  torch::Tensor values, scales;
};

bool is_coded(const Stored& moment) { return moment.values.scalar_type() == torch::kByte; }

torch::Tensor flat_part(const torch::Tensor& whole, const Range& range) {
  return whole.flatten().narrow(0, range.begin, range.end - range.begin).contiguous();
}

// `range` of a parameter's elements; it begins with a block of codes.
Stored saved_moment(const StateDict& state, const std::string& name, const Range& range) {
  Stored saved{.values = flat_part(state.tensor(name), range), .scales = {}};
  if (is_coded(saved))
    saved.scales = flat_part(state.tensor(name + kScale),
                             {moment_scales(range.begin), moment_scales(range.end)});
  return saved;
}

// Codes as the fp32 values of exp_avg.
torch::Tensor widened(const Stored& saved) {
  return is_coded(saved) ? decoded_moments(saved.values, saved.scales, Moment::kFirst)
                         : saved.values;
}

// exp_avg_sq as a step would read it beside that exp_avg.
torch::Tensor widened_beside(const Stored& first, const Stored& saved,
                             const torch::Tensor& least_root) {
  if (!is_coded(saved)) return widened(saved);
  return decoded_exp_avg_sq(saved.values, saved.scales, widened(first).to(torch::kFloat),
                            least_root);
}

// `widen` makes fp32 of a state that is of another layout.
template <class Widen>
void load_moment(const Stored& saved, Moment moment, const Stored& to, const Widen& widen) {
  if (saved.values.scalar_type() == to.values.scalar_type()) {
    to.values.copy_(saved.values);
    if (is_coded(to)) to.scales.copy_(saved.scales);
  } else if (is_coded(to)) {
    encode_moments_(widen(saved).to(to.values.device(), torch::kFloat), moment, to.values,
                    to.scales);
  } else {
    to.values.copy_(widen(saved));
  }
  release_pages(to.values);
  release_pages(to.scales);
}

}  // namespace

StateDict AdamW::state_dict() const {
  StateDict state;
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    const std::string& name = arena_.names()[i];
    const AdamWPart part = part_of_parameter(i);
    if (!part.tensors.exp_avg.defined()) continue;  // another process has its states
    const Range whole = arena_.place(i).range;
    const std::int64_t begin = part.range.begin - whole.begin;
    const bool is_whole = begin == 0 && part.range.end == whole.end;
    const auto add = [&](const char* key, const torch::Tensor& flat) {
      if (!flat.defined()) return;
      if (is_whole)
        state.tensors[name + key] = flat.view(arena_.parameter(i).sizes());
      else
        state.tensors[part_name(name + key, begin, flat.numel())] = flat;
    };
    const auto add_scales = [&](const char* key, const torch::Tensor& scales) {
      if (!scales.defined()) return;
      const std::string full = name + key;
      state.tensors[is_whole ? full : part_name(full, moment_scales(begin), scales.numel())] =
          scales;
    };
    add(kExpAvg, part.tensors.exp_avg);
    add(kExpAvgSq, part.tensors.exp_avg_sq);
    add_scales(kExpAvgScale, part.tensors.exp_avg_scale);
    add_scales(kExpAvgSqScale, part.tensors.exp_avg_sq_scale);
    add(kMasterLow, part.tensors.master_low);
  }
  const std::int64_t step = step_count();
  state.values = {{kStep, step},
                  {"lr", lr()},
                  {"beta1", options_.beta1},
                  {"beta2", options_.beta2},
                  {"eps", options_.eps},
                  {"weight_decay", options_.weight_decay},
                  {"seed", std::bit_cast<std::int64_t>(options_.seed)}};
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    const torch::Tensor& missed = participation_[i].missed_steps;
    if (!missed.defined()) continue;
    if (const auto count = missed.item<std::int64_t>(); count > 0)
      state.values[arena_.names()[i] + kOwnStep] = step - count;
  }
  return state;
}

void AdamW::check_state(const StateDict& state) const {
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    const std::string& name = arena_.names()[i];
    const at::IntArrayRef shape = arena_.parameter(i).sizes();
    check_moment(state, name + kExpAvg, shape);
    check_moment(state, name + kExpAvgSq, shape);
    check_master(state, name + kMasterLow, shape);
    if (!state.values.contains(name + kOwnStep)) continue;
    const auto own = state.get<std::int64_t>(name + kOwnStep);
    if (own < 0 || own > state.get<std::int64_t>(kStep))
      throw UserError(fmt::format("saved optimizer has {} = {}, expected 0 to {}, its own step",
                                  name + kOwnStep, own, state.get<std::int64_t>(kStep)));
  }
}

// The steps that a parameter has taken part in.
std::int64_t AdamW::saved_step(const StateDict& state, std::size_t index) const {
  const std::string own = arena_.names()[index] + kOwnStep;
  return state.get<std::int64_t>(state.values.contains(own) ? own : kStep);
}

void AdamW::load_missed_steps(const StateDict& state, std::int64_t step) {
  std::map<std::pair<std::size_t, std::int64_t>, torch::Tensor> shared;
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    participation_[i] = {};
    const std::int64_t missed = step - saved_step(state, i);
    if (missed == 0) continue;
    const std::size_t buffer = arena_.place(i).buffer;
    torch::Tensor& count = shared[{buffer, missed}];
    if (!count.defined()) count = torch::full_like(steps_[buffer], missed);
    participation_[i].missed_steps = count;
  }
}

void AdamW::load_part(std::size_t index, const AdamWPart& part, const StateDict& state) const {
  const std::string& name = arena_.names()[index];
  const AdamWTensors& stored = part.tensors;
  const std::int64_t first = arena_.place(index).range.begin;
  const Range range{part.range.begin - first, part.range.end - first};
  load_moment(saved_moment(state, name + kExpAvg, range), Moment::kFirst,
              {stored.exp_avg, stored.exp_avg_scale},
              [](const Stored& saved) { return widened(saved); });
  load_moment(saved_moment(state, name + kExpAvgSq, range), Moment::kSecond,
              {stored.exp_avg_sq, stored.exp_avg_sq_scale}, [&](const Stored& saved) {
                return widened_beside(saved_moment(state, name + kExpAvg, range), saved,
                                      least_root(torch::tensor(saved_step(state, index)),
                                                 options_.beta1, options_.beta2));
              });
  const torch::Tensor& low = stored.master_low;
  if (!low.defined()) return;
  if (state.tensors.contains(name + kMasterLow))
    low.copy_(master_low_as(flat_part(state.tensor(name + kMasterLow), range), low.scalar_type()));
  else
    low.zero_();
  release_pages(low);
}

void AdamW::load_state_dict(const StateDict& saved) {
  const torch::NoGradGuard no_grad;
  const StateDict state = whole_states(saved);
  const auto step = state.get<std::int64_t>(kStep);
  const auto lr = state.get<double>("lr");
  const auto seed = state.get<std::int64_t>("seed");
  if (step < 0 || !(lr >= 0))
    throw UserError(
        fmt::format("saved optimizer has step {} and lr {}: both must be at least 0", step, lr));
  check_state(state);
  for (std::size_t i = 0; i < arena_.size(); ++i)
    if (const AdamWPart part = part_of_parameter(i); part.tensors.exp_avg.defined())
      load_part(i, part, state);
  for (const torch::Tensor& own : steps_) own.fill_(step);
  load_missed_steps(state, step);
  set_lr(lr);
  options_.seed = std::bit_cast<std::uint64_t>(seed);
}

}  // namespace halftone
