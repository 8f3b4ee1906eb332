// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>
#include <optional>
#include <string_view>

#include "halftone/inspect/operation_kinds_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"
#include "halftone/inspect/wider_operation_impl.h"
#include "halftone/probe/fp32_shadow_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

bool is_narrow(torch::ScalarType dtype) {
  return c10::isFloatingType(dtype) && c10::elementSize(dtype) < 4;
}

bool is_narrow(const Tensor& tensor) {
  return is_readable(tensor) && is_narrow(tensor.scalar_type());
}

/// Moves numbers, or writes those that it is told: it has nothing to round.
bool computes_none(std::string_view operation) {
  constexpr std::string_view kNames[] = {"aten::embedding", "aten::zero_", "aten::zeros_like",
                                         "aten::ones_like", "aten::empty_like"};
  return moves_numbers(operation) || fills_in(operation) ||
         std::find(std::begin(kNames), std::end(kNames), operation) != std::end(kNames);
}

bool is_fit(const c10::OperatorHandle& operation) {
  const c10::FunctionSchema& schema = operation.schema();
  if (operation.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd)) return false;
  if (operation.hasTag(at::Tag::nondeterministic_seeded) || computes_none(schema.name()))
    return false;
  if (schema.returns().empty() || schema.is_vararg()) return false;
  const auto is_view = [](const c10::Argument& result) {
    return result.alias_info() != nullptr && !result.alias_info()->isWrite();
  };
  const auto draws = [](const c10::Argument& argument) {
    return is_of_kind(argument, c10::TypeKind::GeneratorType);
  };
  return std::none_of(schema.returns().begin(), schema.returns().end(), is_view) &&
         std::none_of(schema.arguments().begin(), schema.arguments().end(), draws);
}

std::optional<torch::ScalarType> fp32_at_least(torch::ScalarType dtype) {
  if (!c10::isFloatingType(dtype)) return std::nullopt;
  return is_narrow(dtype) ? torch::kFloat : dtype;
}

std::optional<c10::OperatorHandle> handle_of(const OperationCall& call) {
  return find_operation({call.name, call.overload});
}

/// Also of what casts to a narrow format.
bool works_on_narrow(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const Tensor& tensor : input.tensors)
      if (is_narrow(tensor)) return true;
  const auto names_narrow = [](const c10::IValue& value) {
    return value.isInt() && value.toInt() >= 0 &&
           value.toInt() < static_cast<std::int64_t>(c10::ScalarType::NumOptions) &&
           is_narrow(static_cast<torch::ScalarType>(value.toInt()));
  };
  return call.name == "aten::_to_copy" &&
         std::any_of(call.arguments.begin(), call.arguments.end(), names_narrow);
}

bool is_elsewhere(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const Tensor& tensor : input.tensors)
      if (tensor.defined() && tensor.is_floating_point() && tensor.numel() > 0 &&
          !is_readable(tensor))
        return true;
  return false;
}

/// What the operation gives in fp32. A cast gives what it reads: most of a step's narrow numbers
/// are casts of weights, and two passes over them are saved.
std::vector<Tensor> exact_results(const OperationCall& call,
                                  const std::vector<c10::IValue>& arguments) {
  if (call.name == "aten::_to_copy")
    if (const Tensor& source = arguments.front().toTensor();
        is_readable(source) && !is_narrow(source) && source.is_floating_point())
      return {source};
  return computed_wider(*handle_of(call), arguments, fp32_at_least);
}

}  // namespace

bool Fp32Shadow::may_run_again(const OperationCall& call) {
  const auto [known, is_new] = may_run_again_.try_emplace({call.name, call.overload}, false);
  if (is_new && call.name.starts_with("aten::"))
    if (const auto handle = handle_of(call)) known->second = is_fit(*handle);
  return known->second;
}

Fp32Shadow::Arguments Fp32Shadow::begin(const OperationCall& call) {
  Arguments kept;
  if (!works_on_narrow(call) || !may_run_again(call) || is_elsewhere(call) ||
      failed_.contains({call.name, call.overload}))
    return kept;
  kept.is_wanted = true;
  kept.values = call.arguments;
  for (std::size_t i = 0; i < call.inputs.size(); ++i)
    if (call.inputs[i].is_written && kept.values[i].isTensor())
      kept.values[i] = kept.values[i].toTensor().detach().clone();
  return kept;
}

void Fp32Shadow::end(const OperationCall& call, const Arguments& arguments, bool is_backward) {
  const auto makes_narrow = [](const OperationTensors& output) {
    return std::any_of(output.tensors.begin(), output.tensors.end(),
                       [](const Tensor& tensor) { return is_narrow(tensor); });
  };
  if (std::none_of(call.outputs.begin(), call.outputs.end(), makes_narrow)) return;
  std::vector<Tensor> exact;
  try {
    exact = exact_results(call, arguments.values);
  } catch (const std::exception&) {  // no kernel for fp32
    failed_.insert({call.name, call.overload});
    return;
  }
  std::size_t place = 0;
  std::set<torch::ScalarType> dtypes;
  for (const OperationTensors& output : call.outputs) {
    for (const Tensor& tensor : output.tensors) {
      const Tensor wide = place < exact.size() ? exact[place++] : Tensor();
      if (!is_narrow(tensor) || !is_readable(wide) || wide.sizes() != tensor.sizes()) continue;
      Entry& entry = entries_[{call.name, is_backward, tensor.scalar_type()}];
      entry.difference += difference(tensor, wide);
      if (dtypes.insert(tensor.scalar_type()).second) ++entry.calls;
    }
  }
}

std::vector<std::string> Fp32Shadow::failed() const {
  std::set<std::string> names;
  for (const Overload& overload : failed_) names.insert(overload.first);
  return {names.begin(), names.end()};
}

}  // namespace halftone
