// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/signal_inbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

volatile std::sig_atomic_t inbox_descriptor = -1;

void put_down(int signal) {
  const int error = errno;
  const auto byte = static_cast<unsigned char>(signal);
  // A full pipe holds news enough.
  if (write(inbox_descriptor, &byte, 1) < 0) errno = error;
  errno = error;
}

}  // namespace

SignalInbox::SignalInbox(std::vector<int> signals)
    : signals_(std::move(signals)), previous_(signals_.size()) {
  HALFTONE_CHECK(inbox_descriptor == -1, "[SignalInbox] expected no other one");
  if (pipe2(ends_.data(), O_CLOEXEC | O_NONBLOCK) != 0)
    throw SystemError(fmt::format("cannot wait for signals: {}", std::strerror(errno)));
  inbox_descriptor = ends_[1];
  for (std::size_t i = 0; i < signals_.size(); ++i) {
    sigaction(signals_[i], nullptr, &previous_[i]);
    if (previous_[i].sa_handler == SIG_IGN && signals_[i] != SIGINT) continue;
    struct sigaction action {};
    action.sa_handler = put_down;
    action.sa_flags = SA_RESTART;
    sigaction(signals_[i], &action, nullptr);
  }
}

SignalInbox::~SignalInbox() {
  for (std::size_t i = 0; i < signals_.size(); ++i) sigaction(signals_[i], &previous_[i], nullptr);
  inbox_descriptor = -1;
  close(ends_[0]);
  close(ends_[1]);
}

std::vector<int> SignalInbox::take() {
  std::array<unsigned char, 256> bytes;
  const ssize_t got = read(ends_[0], bytes.data(), bytes.size());
  if (got <= 0) return {};
  return {bytes.begin(), bytes.begin() + got};
}

}  // namespace halftone
