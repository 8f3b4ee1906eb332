// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "halftone/core/dtype.h"
#include "halftone/diagnostics/profile/operation_tensors_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

bool has_memory(const Tensor& tensor) { return tensor.defined() && tensor.has_storage(); }

/// A view that shows one element many times reads its memory once.
double bytes_of(const Tensor& tensor) {
  if (!tensor.defined()) return 0;
  const auto shown = static_cast<double>(tensor.nbytes());
  return has_memory(tensor) ? std::min(shown, static_cast<double>(tensor.storage().nbytes()))
                            : shown;
}

bool shares_memory(const Tensor& a, const Tensor& b) {
  return has_memory(a) && has_memory(b) &&
         a.storage().unsafeGetStorageImpl() == b.storage().unsafeGetStorageImpl();
}

bool is_of(const Tensor& tensor, const std::vector<OperationTensors>& all, bool written) {
  return std::any_of(all.begin(), all.end(), [&](const OperationTensors& one) {
    return one.is_written == written &&
           std::any_of(one.tensors.begin(), one.tensors.end(),
                       [&](const Tensor& other) { return shares_memory(tensor, other); });
  });
}

bool is_name(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The name of one of ours without its namespace; empty for others.
std::string_view own_name(std::string_view name) {
  if (!is_own_operation(name)) return "";
  return name.substr(name.find("::") + 2);
}

bool takes_rows(std::string_view name) {
  return is_name(name, {"aten::embedding", "aten::index_select", "aten::index", "aten::gather"}) ||
         own_name(name) == "embedding";
}

bool only_allocates(std::string_view name) {
  return name.starts_with("aten::empty") || name.starts_with("aten::new_empty") ||
         is_name(name, {"aten::resize_", "aten::set_", "aten::resolve_conj", "aten::resolve_neg"});
}

void add_dtypes(const std::vector<OperationTensors>& all, bool floating,
                std::vector<torch::ScalarType>& found) {
  for (const OperationTensors& one : all) {
    if (!one.is_read) continue;
    for (const Tensor& tensor : one.tensors) {
      if (!tensor.defined() || (floating && !tensor.is_floating_point())) continue;
      if (std::find(found.begin(), found.end(), tensor.scalar_type()) == found.end())
        found.push_back(tensor.scalar_type());
    }
  }
}

std::string sizes_of(const std::vector<OperationTensors>& all) {
  constexpr std::size_t kMost = 6;  // tensors: an optimizer has hundreds
  std::string text;
  std::size_t count = 0;
  for (const OperationTensors& one : all)
    for (const Tensor& tensor : one.tensors) {
      if (!tensor.defined() || ++count > kMost) continue;
      if (!text.empty()) text += ",";
      if (tensor.dim() == 0) text += "scalar";
      for (std::int64_t d = 0; d < tensor.dim(); ++d)
        text += (d == 0 ? "" : "x") + std::to_string(tensor.size(d));
    }
  return count > kMost ? text + ",..." : text;
}

const Tensor* first_tensor(const std::vector<OperationTensors>& all, std::size_t i) {
  return i < all.size() && !all[i].tensors.empty() && all[i].tensors.front().defined()
             ? &all[i].tensors.front()
             : nullptr;
}

std::string dtypes_of(const std::vector<OperationTensors>& all) {
  std::vector<torch::ScalarType> found;
  add_dtypes(all, /*floating=*/true, found);
  if (found.empty()) add_dtypes(all, /*floating=*/false, found);
  std::string text;
  for (const torch::ScalarType dtype : found) text += (text.empty() ? "" : ",") + dtype_name(dtype);
  return text;
}

}  // namespace

std::string input_dtypes(const OperationCall& call) {
  return own_name(call.name) == "int8_gemm" ? "int8" : dtypes_of(call.inputs);
}

std::string output_dtypes(const OperationCall& call) {
  return own_name(call.name) == "int8_quantize" ? "int8" : dtypes_of(call.outputs);
}

std::string shapes_of(const OperationCall& call) {
  return sizes_of(call.inputs) + " > " + sizes_of(call.outputs);
}

bool reads_dtype(const OperationCall& call, torch::ScalarType dtype) {
  return std::any_of(call.inputs.begin(), call.inputs.end(), [&](const OperationTensors& one) {
    return one.is_read &&
           std::any_of(one.tensors.begin(), one.tensors.end(), [&](const Tensor& tensor) {
             return tensor.defined() && tensor.scalar_type() == dtype;
           });
  });
}

bool moves_no_data(const OperationCall& call) {
  if (only_allocates(call.name)) return true;
  const bool writes = std::any_of(call.inputs.begin(), call.inputs.end(),
                                  [](const OperationTensors& one) { return one.is_written; });
  if (writes) return false;
  bool made_any = false;
  for (const OperationTensors& output : call.outputs)
    for (const Tensor& tensor : output.tensors) {
      if (!tensor.defined()) continue;
      made_any = true;
      if (!is_of(tensor, call.inputs, /*written=*/false)) return false;
    }
  return made_any;
}

double bytes_moved(const OperationCall& call) {
  if (moves_no_data(call)) return 0;
  double written = 0;
  for (const OperationTensors& output : call.outputs)
    for (const Tensor& tensor : output.tensors)
      if (!is_of(tensor, call.inputs, /*written=*/false)) written += bytes_of(tensor);
  double read = 0;
  for (const OperationTensors& input : call.inputs)
    for (const Tensor& tensor : input.tensors) {
      if (input.is_read) read += bytes_of(tensor);
      if (input.is_written && !is_of(tensor, call.outputs, /*written=*/false))
        written += bytes_of(tensor);
    }
  if (takes_rows(call.name)) read = std::min(read, 2 * written);
  return read + written;
}

bool has_kernel(const OperationCall& call) {
  // These have one, which calls the operations that do the work.
  if (is_name(own_name(call.name), {"linear", "linear_cross_entropy"})) return false;
  const auto operation = c10::Dispatcher::singleton().findOp({call.name, call.overload});
  if (!operation) return false;
  const bool on_cuda = std::any_of(call.inputs.begin(), call.inputs.end(), [](const auto& one) {
    return !one.tensors.empty() && one.tensors.front().defined() && one.tensors.front().is_cuda();
  });
  return operation->hasKernelForDispatchKey(on_cuda ? c10::DispatchKey::CUDA
                                                    : c10::DispatchKey::CPU);
}

bool is_cast(const OperationCall& call) {
  if (own_name(call.name) == "int8_quantize") return true;
  const bool copies = call.name == "aten::copy_";
  if (!copies && !is_name(call.name, {"aten::to", "aten::_to_copy", "aten::type_as"})) return false;
  const Tensor* const from = first_tensor(call.inputs, copies ? 1 : 0);
  const Tensor* const to = first_tensor(copies ? call.inputs : call.outputs, 0);
  return from != nullptr && to != nullptr && from->is_floating_point() && to->is_floating_point() &&
         from->scalar_type() != to->scalar_type();
}

}  // namespace halftone
