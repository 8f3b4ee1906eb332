// SPDX-License-Identifier: Apache-2.0
#define USE_C10D_GLOO
#include <cstdlib>
#include <sstream>

#include "halftone/dist/gloo_connection_impl.h"
#include "halftone/dist/sigpipe_block_impl.h"

namespace halftone {
namespace {

using Gloo = c10d::ProcessGroupGloo;

bool is_loopback_address(const std::string& address) {
  return address == "::1" || address.starts_with("127.") || address.starts_with("::ffff:127.");
}

// GLOO_SOCKET_IFNAME may list several interfaces; operations take them in turn.
void add_devices(const ProcessPlace& place, const std::string& own_address,
                 Gloo::Options& options) {
  const char* const interfaces = std::getenv("GLOO_SOCKET_IFNAME");
  if (interfaces != nullptr && *interfaces != '\0') {
    std::istringstream names(interfaces);
    for (std::string name; std::getline(names, name, ',');)
      options.devices.push_back(Gloo::createDeviceForInterface(name));
  } else if (place.on_one_host()) {
    options.devices.push_back(Gloo::createDeviceForHostname("127.0.0.1"));
  } else if (!is_loopback_address(own_address)) {
    options.devices.push_back(Gloo::createDeviceForHostname(own_address));
  } else {
    options.devices.push_back(Gloo::createDefaultDevice());  // by the host's name
  }
}

}  // namespace

c10::intrusive_ptr<Gloo> connect_gloo(const ProcessPlace& place, const std::string& own_address,
                                      const c10::intrusive_ptr<c10d::Store>& store,
                                      std::chrono::milliseconds timeout) {
  const SigpipeBlock block;  // for Gloo's threads, which begin here
  const auto options = Gloo::Options::create(timeout);
  add_devices(place, own_address, *options);
  return c10::make_intrusive<Gloo>(store, static_cast<int>(place.rank),
                                   static_cast<int>(place.size), options);
}

}  // namespace halftone
