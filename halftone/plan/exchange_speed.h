// SPDX-License-Identifier: Apache-2.0
// How fast one of several processes exchanges gradients, measured before they are started.
#pragma once

#include <cstdint>
#include <optional>

#include "halftone/dist/network_speed.h"
#include "halftone/optim/adamw_share.h"

namespace halftone {

/// The processes of one host.
struct HostShare {
  std::int64_t processes = 1;
  std::int64_t threads = 1;  // of each, that compute
  std::int64_t cores = 1;    // that all of them may use

  /// Cores that compute when all processes do.
  std::int64_t busy_cores() const;
  /// Whether each process has one more than its threads, which can exchange while they compute.
  bool has_spare_cores() const { return processes * (threads + 1) <= cores; }
};

/// Of each process, while all of its host exchange.
struct ExchangeSpeed {
  NetworkSpeed network;
  double sum_s = 0;        // of a byte of gradients under way: to copy, to add up
  double gather_s = 0;     // of a byte of weights that come from the others: to copy
  bool is_hidden = false;  // a backward pass hides it: the exchange takes no core that computes
};

/// Of processes that `share` says, in about a second. `network` is what lies between hosts of one
/// process each; without it all processes are on this host, and the loopback is measured: each end
/// takes a core while it sends. Throws what loopback_speed() throws.
ExchangeSpeed measure_exchange_speed(const AdamWShare& share, const HostShare& host,
                                     const std::optional<NetworkSpeed>& network = {});

}  // namespace halftone
