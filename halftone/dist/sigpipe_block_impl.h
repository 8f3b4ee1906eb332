// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

namespace halftone {

/// While it lives, a write of this thread to a connection that has closed is an error, and no
/// signal that ends the program: Gloo writes as if nobody had to tell the system so. Threads that
/// begin meanwhile stay so. How the program treats the signal otherwise is its own affair.
class SigpipeBlock {
 public:
  SigpipeBlock();
  SigpipeBlock(const SigpipeBlock&) = delete;
  SigpipeBlock& operator=(const SigpipeBlock&) = delete;
  ~SigpipeBlock();

 private:
  bool was_pending_;
  sigset_t before_;
};

}  // namespace halftone
