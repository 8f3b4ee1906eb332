// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {

/// A process of the group has gone or stands still. The message names it, and is the same in all of
/// the others.
class ProcessGroupError : public SystemError {
 public:
  using SystemError::SystemError;
};

/// Processes that train one model together, each with a rank from 0 to size - 1. All of them call
/// the same functions in the same order, with tensors of the same shapes and dtypes, on one thread.
/// Tensors are contiguous, and are left alone until wait(). A process that has gone, or has not
/// come within the timeout, is a ProcessGroupError that names its rank; the group is of no use
/// after it.
class ProcessGroup {
 public:
  /// What has been begun. Several may be under way; they are waited for in the order of beginning.
  class Work {
   public:
    virtual ~Work() = default;
    virtual void wait() = 0;
  };
  using Pending = std::unique_ptr<Work>;

  virtual ~ProcessGroup() = default;
  virtual std::int64_t rank() const = 0;
  virtual std::int64_t size() const = 0;

  /// Both tensors consist of size() equal pieces along their first dimension: piece r of `sent`
  /// becomes piece rank() of `received` on process r.
  virtual Pending all_to_all(torch::Tensor received, torch::Tensor sent) = 0;
  /// `all` consists of size() pieces, of which piece r becomes the `own` of process r. `own` may be
  /// the process's piece of `all` itself.
  virtual Pending all_gather(torch::Tensor all, torch::Tensor own) = 0;
  /// Makes the tensor that of process `root`.
  virtual Pending broadcast(torch::Tensor tensor, std::int64_t root) = 0;

  /// A second group of the same processes: its operations wait for none of this one's, and may be
  /// another thread's. All call it; waits.
  virtual std::shared_ptr<ProcessGroup> twin() = 0;

  /// What each process gave, of any length, in the order of ranks. Waits.
  virtual std::vector<std::string> all_gather(const std::string& own) = 0;

  /// Tells the others that this process gives up because of `error`, so that theirs names it:
  /// "process 2 of 4 ended with an error: ...". Returns within seconds, whatever has become of the
  /// others.
  virtual void report_error(const std::string& error) { static_cast<void>(error); }
};

/// Has process 0 do something while the others wait, or this process where `group` is null. If it
/// throws there, it throws everywhere: a UserError as one, else a SystemError.
void on_process_zero(ProcessGroup* group, const std::function<void()>& act);

/// all_gather() of numbers, to the bit.
std::vector<std::vector<double>> all_gather_numbers(ProcessGroup& group,
                                                    const std::vector<double>& own);

}  // namespace halftone
