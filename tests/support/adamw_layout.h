// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <string>

#include "halftone/optim/adamw_options.h"

namespace halftone::test {

/// Weights of one dtype and how AdamW keeps what belongs to them.
struct Layout {
  torch::ScalarType dtype;
  AdamWOptions options;
};

inline std::string text(const Layout& layout) {
  const AdamWOptions& o = layout.options;
  return c10::str(layout.dtype, ", moments ", static_cast<int>(o.moments), ", master ",
                  static_cast<int>(o.master), ", stochastic ", o.stochastic_rounding, ", release ",
                  o.release_gradients);
}

}  // namespace halftone::test
