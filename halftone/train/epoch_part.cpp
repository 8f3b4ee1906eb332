// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/epoch_part.h"

#include <fmt/format.h>

#include <algorithm>

#include "halftone/core/error.h"

namespace halftone {

std::int64_t EpochPart::batches(std::optional<std::int64_t> per_epoch, const char* option) const {
  if (count_) return per_epoch ? std::min(*count_, *per_epoch) : *count_;
  if (!per_epoch)
    throw UserError(fmt::format(
        "trainer: {} is a share ({:g}) of an epoch, and this loader does not tell how many batches "
        "it has; give a number of batches, or the loader a member batches_per_epoch()",
        option, share_));
  const auto batches = static_cast<std::int64_t>(static_cast<double>(*per_epoch) * share_);
  if (batches == 0 && share_ > 0.0)
    throw UserError(
        fmt::format("trainer: {} = {:g} of {} batches is less than one; expected at "
                    "least {:g}, or a number of batches",
                    option, share_, *per_epoch, 1.0 / static_cast<double>(*per_epoch)));
  return batches;
}

}  // namespace halftone
