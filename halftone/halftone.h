// SPDX-License-Identifier: Apache-2.0
// Everything: #include <halftone/halftone.h>
#pragma once

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/memory.h"
#include "halftone/core/random.h"
#include "halftone/core/state_dict.h"
#include "halftone/core/text.h"
