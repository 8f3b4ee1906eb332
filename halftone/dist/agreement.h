// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "halftone/core/process_group.h"

namespace halftone {

/// Compares what should be the same in all processes, such as the keys of a configuration and the
/// versions of libraries. Throws UserError, the same in all of them, with the first key that
/// differs and who has which value: "the processes differ in batch_size: 8 on process 0, 16 on
/// process 1; ...".
void check_agreement(ProcessGroup& group, const std::map<std::string, std::string>& values);

}  // namespace halftone
