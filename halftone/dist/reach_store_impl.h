// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "halftone/dist/process_place.h"

namespace halftone {

/// A connection to the store's server on which nothing is said: it closes with the server, which
/// the store's own connections tell only who asks them, and aloud.
class StoreLine {
 public:
  explicit StoreLine(int socket) : socket_(socket) {}
  StoreLine(const StoreLine&) = delete;
  StoreLine& operator=(const StoreLine&) = delete;
  ~StoreLine();

  bool is_open() const;
  /// The address by which this host gets to the store, in numbers.
  std::string own_address() const;

 private:
  int socket_;
};

/// Waits until somebody listens where the store of all processes is. Throws ProcessGroupError after
/// `timeout`.
std::shared_ptr<const StoreLine> reach_store(const ProcessPlace& place,
                                             std::chrono::milliseconds timeout);

}  // namespace halftone
