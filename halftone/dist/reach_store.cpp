// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "halftone/core/process_group.h"
#include "halftone/dist/reach_store_impl.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kRetry{50}, kLongestTry{2000};

// 0, or the number of the error.
int connect_within(int socket, const addrinfo& to, std::chrono::milliseconds limit) {
  if (::connect(socket, to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd ready{socket, POLLOUT, 0};
  if (::poll(&ready, 1, static_cast<int>(limit.count())) <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

using Line = std::shared_ptr<const StoreLine>;

// The connection, or nothing and why.
Line try_once(const ProcessPlace& place, std::string& reason) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown =
      ::getaddrinfo(place.address.c_str(), std::to_string(place.port).c_str(), &hints, &found);
  if (unknown != 0) {
    reason = ::gai_strerror(unknown);
    return nullptr;
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  for (const addrinfo* to = found; to != nullptr; to = to->ai_next) {
    const int socket = ::socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (socket < 0)
      throw SystemError(fmt::format("no socket is to be had: {}", std::strerror(errno)));
    auto line = std::make_shared<const StoreLine>(socket);
    const int error = connect_within(socket, *to, kLongestTry);
    if (error == 0) return line;
    reason = std::strerror(error);
  }
  return nullptr;
}

}  // namespace

StoreLine::~StoreLine() { ::close(socket_); }

bool StoreLine::is_open() const {
  char byte = 0;
  const ssize_t count = ::recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
}

std::string StoreLine::own_address() const {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  char text[NI_MAXHOST] = "";
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (::getsockname(socket_, generic, &length) == 0)
    ::getnameinfo(generic, length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return text;
}

std::shared_ptr<const StoreLine> reach_store(const ProcessPlace& place,
                                             std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  std::string reason;
  while (true) {
    if (Line line = try_once(place, reason)) return line;
    if (Clock::now() > deadline) break;
    std::this_thread::sleep_for(kRetry);
  }
  throw ProcessGroupError(fmt::format(
      "process {} of {} could not reach {} at {} port {} within {} s ({}): check that it runs, and "
      "that "
      "MASTER_ADDR and MASTER_PORT are the same everywhere",
      place.rank, place.size, place.own_store ? "process 0" : place.launcher, place.address,
      place.port, std::chrono::duration_cast<std::chrono::seconds>(timeout).count(), reason));
}

}  // namespace halftone
