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

class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

// 0, or the number of the error.
int connect_within(const Socket& socket, const addrinfo& to, std::chrono::milliseconds limit) {
  if (::connect(socket.descriptor(), to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd ready{socket.descriptor(), POLLOUT, 0};
  if (::poll(&ready, 1, static_cast<int>(limit.count())) <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

std::string own_address(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  char text[NI_MAXHOST] = "";
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (::getsockname(socket.descriptor(), generic, &length) != 0) return "";
  ::getnameinfo(generic, length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return text;
}

// The own address, or nothing and why.
std::string try_once(const ProcessPlace& place, std::string& reason) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown =
      ::getaddrinfo(place.address.c_str(), std::to_string(place.port).c_str(), &hints, &found);
  if (unknown != 0) {
    reason = ::gai_strerror(unknown);
    return "";
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  for (const addrinfo* to = found; to != nullptr; to = to->ai_next) {
    const Socket socket(::socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int error = socket.descriptor() < 0 ? errno : connect_within(socket, *to, kLongestTry);
    if (error == 0) return own_address(socket);
    reason = std::strerror(error);
  }
  return "";
}

}  // namespace

std::string reach_store(const ProcessPlace& place, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  std::string reason;
  while (true) {
    std::string own = try_once(place, reason);
    if (!own.empty()) return own;
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
