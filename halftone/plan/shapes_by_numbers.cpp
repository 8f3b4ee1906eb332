// SPDX-License-Identifier: Apache-2.0
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>
#include <torch/types.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/inspect/wider_operation_impl.h"
#include "halftone/plan/operation_note_impl.h"
#include "halftone/plan/shapes_by_numbers_impl.h"
#include "halftone/plan/values_without_data_impl.h"
#include "halftone/plan/without_data_mode_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::jit::Stack;

/// Gives as much as the numbers of its arguments say, or a number.
bool depends_on_numbers(const c10::FunctionSchema& schema) {
  if (ends_in_any(schema.name(),
                  {"::nonzero", "::masked_select", "::_unique", "::_unique2", "::unique_dim",
                   "::unique_consecutive", "::unique_dim_consecutive", "::bincount"}) ||
      (schema.name() == "aten::repeat_interleave" && schema.overload_name() == "Tensor"))
    return true;
  return !std::all_of(schema.returns().begin(), schema.returns().end(), [](const auto& result) {
    return is_of_kind(result, c10::TypeKind::TensorType) ||
           result.type()->isSubtypeOf(*c10::ListType::ofTensors());
  });
}

/// Neither a kernel for meta nor one for every device.
bool needs_numbers(const c10::OperatorHandle& op) {
  using Key = c10::DispatchKey;
  if (!op.hasKernelForDispatchKey(Key::CPU) || depends_on_numbers(op.schema())) return false;
  for (const Key key : {Key::Meta, Key::CompositeImplicitAutograd, Key::CompositeExplicitAutograd,
                        Key::CompositeExplicitAutogradNonFunctional})
    if (op.hasKernelForDispatchKey(key)) return false;
  return true;
}

/// Zeros that take no memory, unless they are written to.
Tensor zeros_of(const Tensor& x, bool is_written) {
  const auto options = x.options().device(torch::kCPU);
  if (is_written) return at::zeros(x.sizes(), options);
  return at::zeros(std::vector<std::int64_t>(static_cast<std::size_t>(x.dim()), 1), options)
      .expand(x.sizes());
}

template <class Item>
c10::IValue list_of_zeros(const c10::IValue& value, bool is_written) {
  c10::List<Item> list;
  for (const c10::IValue& item : value.toListRef())
    list.push_back(is_without_data(item) ? Item(zeros_of(item.toTensor(), is_written))
                                         : item.to<Item>());
  return list;
}

c10::IValue with_zeros(const c10::IValue& value, bool is_written) {
  if (is_without_data(value)) return zeros_of(value.toTensor(), is_written);
  if (value.isTensorList()) return list_of_zeros<Tensor>(value, is_written);
  if (value.isOptionalTensorList()) return list_of_zeros<std::optional<Tensor>>(value, is_written);
  if (value.isDevice() && value.toDevice().is_meta()) return c10::Device(torch::kCPU);
  return value;
}

c10::IValue result_without_data(const c10::IValue& value) {
  const auto taken = [](const Tensor& x) {
    return x.defined() && x.is_cpu() ? without_data(x) : x;
  };
  if (value.isTensor()) return taken(value.toTensor());
  if (!value.isTensorList()) return value;
  c10::List<Tensor> list;
  for (const c10::IValue& item : value.toListRef()) list.push_back(taken(item.toTensor()));
  return list;
}

/// The default generator of the CPU is where it was, afterwards.
class GeneratorKept {
 public:
  GeneratorKept() : state_(generator().get_state()) {}
  ~GeneratorKept() { generator().set_state(state_); }
  GeneratorKept(const GeneratorKept&) = delete;
  GeneratorKept& operator=(const GeneratorKept&) = delete;

 private:
  static at::Generator generator() { return at::detail::getDefaultCPUGenerator(); }
  Tensor state_;
};

/// The argument that a result is, where the operation writes to it.
std::optional<std::size_t> argument_of(const c10::FunctionSchema& schema, std::size_t result) {
  const c10::AliasInfo* const alias = schema.returns()[result].alias_info();
  if (alias == nullptr || !alias->isWrite()) return {};
  for (std::size_t i = 0; i < schema.arguments().size(); ++i) {
    const c10::AliasInfo* const other = schema.arguments()[i].alias_info();
    if (other != nullptr && other->beforeSets() == alias->beforeSets()) return i;
  }
  return {};
}

/// A kernel for the device meta that computes on zeros.
void by_numbers(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, Stack* stack) {
  HALFTONE_CHECK(WithoutDataMode::is_on(), "[without_data_mode] ", op.schema().name(),
                 " has no kernel for tensors without data (meta)");
  const OperationNote& note = operation_note(op);
  const c10::impl::ExcludeDispatchKeyGuard as_always(WithoutDataMode::kKey);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::optional<GeneratorKept> kept;
  if (note.is_random) kept.emplace();
  const std::vector<c10::IValue> given = torch::jit::pop(*stack, note.arguments);
  std::vector<c10::IValue> numbers;
  for (std::size_t i = 0; i < given.size(); ++i) {
    numbers.push_back(with_zeros(given[i], note.is_written[i]));
    stack->push_back(numbers.back());
  }
  op.callBoxed(stack);
  for (std::size_t i = 0; i < given.size(); ++i)
    if (note.is_written[i] && is_without_data(given[i]) &&
        given[i].toTensor().sizes() != numbers[i].toTensor().sizes())
      given[i].toTensor().resize_(numbers[i].toTensor().sizes());
  for (std::size_t i = 0; i < note.results; ++i) {
    c10::IValue& result = (*stack)[stack->size() - note.results + i];
    const std::optional<std::size_t> written = argument_of(op.schema(), i);
    result = written ? given[*written] : result_without_data(result);
  }
}

/// Never destroyed: nothing of it may be called when the process ends.
torch::Library& kernels_of_meta() {
  static torch::Library& library =
      *new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
  return library;
}

}  // namespace

void register_by_numbers(const c10::OperatorHandle& op) {
  if (!op.schema().name().starts_with("aten::") || !needs_numbers(op)) return;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!needs_numbers(op)) return;  // another thread was here
  const std::string& overload = op.schema().overload_name();
  const std::string name =
      op.schema().name().substr(6) + (overload.empty() ? "" : "." + overload);  // behind "aten::"
  kernels_of_meta().impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&by_numbers>());
}

}  // namespace halftone
