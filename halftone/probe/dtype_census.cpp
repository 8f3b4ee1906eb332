// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "halftone/core/dtype.h"
#include "halftone/probe/dtype_census_impl.h"

namespace halftone {
namespace {

std::optional<c10::ScalarType> first_floating(const std::vector<OperationTensors>& values) {
  for (const OperationTensors& value : values)
    for (const torch::Tensor& tensor : value.tensors)
      if (tensor.defined() && (tensor.is_floating_point() || tensor.is_complex()))
        return tensor.scalar_type();
  return std::nullopt;
}

}  // namespace

std::string probe_dtype_name(c10::ScalarType dtype) {
  switch (dtype) {
    case torch::kDouble:
      return "fp64";
    case torch::kFloat8_e4m3fn:
      return "fp8_e4m3";
    case torch::kFloat8_e5m2:
      return "fp8_e5m2";
    default:
      return dtype_name(dtype);
  }
}

void DtypeCensus::count(const OperationCall& call) {
  std::optional<c10::ScalarType> dtype = first_floating(call.outputs);
  if (!dtype) dtype = first_floating(call.inputs);
  if (dtype) ++counts_[call.name][*dtype];
}

std::map<std::string, std::map<std::string, std::int64_t>> DtypeCensus::counts() const {
  std::map<std::string, std::map<std::string, std::int64_t>> named;
  for (const auto& [operation, dtypes] : counts_)
    for (const auto& [dtype, calls] : dtypes) named[operation][probe_dtype_name(dtype)] += calls;
  return named;
}

}  // namespace halftone
