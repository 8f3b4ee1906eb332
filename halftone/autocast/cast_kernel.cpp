// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "halftone/autocast/cast_kernel_impl.h"
#include "halftone/autocast/keep_fp32.h"

namespace halftone {

using torch::Tensor;

c10::OperatorHandle find_op(const std::string& name) {
  const std::size_t dot = name.find('.');
  const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.substr(0, dot).c_str(),
                                                        overload.c_str());
}

bool takes_kept_tensor(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  for (const c10::IValue& argument : torch::jit::last(stack, op.schema().arguments().size())) {
    if (argument.isTensor()) {
      if (keeps_fp32(argument.toTensor())) return true;
    } else if (argument.isTensorList()) {
      for (const Tensor& tensor : argument.toTensorVector())
        if (keeps_fp32(tensor)) return true;
    }
  }
  return false;
}

void call_in(torch::ScalarType dtype, torch::DeviceType device, const c10::OperatorHandle& op,
             torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const std::size_t count = op.schema().arguments().size();
  for (std::size_t i = stack->size() - count; i < stack->size(); ++i) {
    c10::IValue& argument = (*stack)[i];
    if (argument.isTensor()) {
      argument = at::autocast::cached_cast(dtype, argument.toTensor(), device);
    } else if (argument.isTensorList()) {
      argument =
          at::autocast::cached_cast(dtype, at::TensorList(argument.toTensorVector()), device);
    }
  }
  op.callBoxed(stack);
}

}  // namespace halftone
