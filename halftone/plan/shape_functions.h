// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace halftone {

/// Gives those of LibTorch's operations that our models use kernels for the device meta where it
/// has none: in C++ it has them for its structured operations alone, Python adds the rest. Once in
/// a process; what has a kernel keeps it.
void register_shape_functions();

}  // namespace halftone
