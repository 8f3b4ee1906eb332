// SPDX-License-Identifier: Apache-2.0
// What an operation does to its tensors, as far as its arguments and results tell.
#pragma once

#include <string>

#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {

/// The dtypes of the floating tensors that an operation reads, or makes, each once, in their order:
/// "bf16,fp32". Those of all tensors where none is floating: "Long"; "" for none. Of what our int8
/// kernels quantize: "int8".
std::string input_dtypes(const OperationCall& call);
std::string output_dtypes(const OperationCall& call);

/// "2048x512,1408x512 > 2048x1408"
std::string shapes_of(const OperationCall& call);

/// Whether a tensor that it reads is of `dtype`.
bool reads_dtype(const OperationCall& call, torch::ScalarType dtype);

/// Whether it makes nothing but other views of its arguments, or memory without contents.
bool moves_no_data(const OperationCall& call);

/// Bytes that an operation which has ended read and wrote: each argument that it reads once, each
/// result once; of a table that rows are taken from, as much as was taken. Kernels that read an
/// argument several times read more.
double bytes_moved(const OperationCall& call);

/// Whether the operation has a kernel of its own for the device of its tensors, CPU or CUDA, and is
/// not made of other operations alone, as aten::linear is.
bool has_kernel(const OperationCall& call);

/// Whether it changes the dtype of floating numbers and nothing else: aten::to, aten::_to_copy,
/// aten::copy_, and the quantisation of ours.
bool is_cast(const OperationCall& call);

}  // namespace halftone
