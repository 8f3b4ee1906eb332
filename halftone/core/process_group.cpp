// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/process_group.h"

#include <cstring>
#include <exception>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/core/message.h"

namespace halftone {
namespace {

// How an error of process 0 reaches the others.
constexpr std::string_view kMistake = "mistake ";
constexpr std::string_view kFailure = "failure ";

}  // namespace

void on_process_zero(ProcessGroup* group, const std::function<void()>& act) {
  if (group == nullptr) return act();
  std::exception_ptr error;
  std::string reason;
  try {
    if (group->rank() == 0) act();
  } catch (const UserError& mistake) {
    error = std::current_exception();
    reason = std::string(kMistake) + mistake.what();
  } catch (const std::exception& failure) {
    error = std::current_exception();
    reason = std::string(kFailure) + error_text(failure);
  }
  reason = group->all_gather(reason).front();
  if (error) std::rethrow_exception(error);
  if (reason.starts_with(kMistake)) throw UserError(reason.substr(kMistake.size()));
  if (!reason.empty()) throw SystemError(reason.substr(kFailure.size()));
}

std::vector<std::vector<double>> all_gather_numbers(ProcessGroup& group,
                                                    const std::vector<double>& own) {
  std::string bytes(own.size() * sizeof(double), '\0');
  std::memcpy(bytes.data(), own.data(), bytes.size());
  std::vector<std::vector<double>> all;
  for (const std::string& one : group.all_gather(bytes)) {
    all.emplace_back(one.size() / sizeof(double));
    std::memcpy(all.back().data(), one.data(), one.size());
  }
  return all;
}

}  // namespace halftone
