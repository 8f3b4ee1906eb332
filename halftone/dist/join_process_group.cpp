// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/join_process_group.h"

#include "halftone/core/error.h"
#include "halftone/dist/gloo_group_impl.h"
#include "halftone/dist/single_process_impl.h"

namespace halftone {

std::shared_ptr<ProcessGroup> join_process_group(const ProcessPlace& place,
                                                 const ProcessGroupOptions& options) {
  HALFTONE_CHECK(place.size >= 1 && place.rank >= 0 && place.rank < place.size,
                 "[join_process_group] expected a rank from 0 to ", place.size - 1, ", got ",
                 place.rank);
  if (place.is_alone()) return std::make_shared<SingleProcess>();
  return join_gloo_group(place, options);
}

}  // namespace halftone
