// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/without_data.h"

namespace halftone {
namespace {

thread_local double times_now = 1.0;

}  // namespace

StandsForScope::StandsForScope(double times) : before_(times_now) { times_now *= times; }
StandsForScope::~StandsForScope() { times_now = before_; }

double stands_for() { return times_now; }

}  // namespace halftone
