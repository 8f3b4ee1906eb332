// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/suppress_override_warning.h"

#include <string>

namespace halftone {

void QuietOverride::Filter::process(const c10::Warning& warning) {
  if (warning.msg().find("Overriding a previously registered kernel") == std::string::npos)
    next->process(warning);
}

}  // namespace halftone
