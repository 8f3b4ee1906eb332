// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "halftone/core/process_group.h"

namespace halftone {

/// The processes that were started together with this one, by torchrun, Slurm, Open MPI or
/// `halftone launch`; nullptr where it is alone. The first call joins them and waits until all have
/// come; they stay joined until the process ends. Notes (core/log.h) are process 0's from then on.
/// HALFTONE_PROCESS_TIMEOUT says for how many seconds one may be waited for that lives and does not
/// come (1800). Throws what find_process_place() and join_process_group() throw, and UserError for
/// another value of that variable.
std::shared_ptr<ProcessGroup> joined_processes();

}  // namespace halftone
