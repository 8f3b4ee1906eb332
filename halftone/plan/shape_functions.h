// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace halftone {

/// Gives those of LibTorch's operations that our models use kernels for the device meta where it
/// has none: in C++ it has them for its structured operations alone, Python adds the rest. Once in
/// a process. What has a kernel keeps it, but for the sum of two tensors while a TensorTally
/// counts. All others are computed on zeros in a WithoutDataMode.
void register_shape_functions();

}  // namespace halftone
