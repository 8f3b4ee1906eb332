// SPDX-License-Identifier: Apache-2.0
// From which width of a layer, and from how many rows, a coarser format saves time on this machine:
// below that, casts and quantizing cost more than the matmuls gain.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/machine/speed.h"

namespace halftone {

/// One linear layer of `width` x `width` over `rows` rows, in a training step of fp32 weights.
struct LayerPoint {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::vector<LayerSpeed> speeds;  ///< fp32 first
};

/// A format pays where its layer takes at most this share of fp32's time.
inline constexpr double kPayingShare = 0.9;

struct Crossings {
  std::int64_t rows = 2048;          ///< of `by_width`
  std::int64_t width = 512;          ///< of `by_rows`
  std::vector<LayerPoint> by_width;  ///< ascending
  std::vector<LayerPoint> by_rows;   ///< ascending
  std::vector<ComputeType> formats;  ///< that were measured, fp32 first
};

struct CrossingsOptions {
  std::vector<std::int64_t> widths = {64, 128, 256, 512, 1024, 2048};
  std::vector<std::int64_t> rows = {8, 32, 128, 512, 2048};
  std::vector<ComputeType> formats = {ComputeType::kFloat32, ComputeType::kBFloat16,
                                      ComputeType::kFloat16, ComputeType::kInt8};
  /// No wider layer is measured once the widths before it took so long; three are in any case.
  double seconds_of_widths = 4.0;
  std::function<void(double share)> progress;
};

/// Measures with at::get_num_threads() threads, a few seconds.
Crossings measure_crossings(const CrossingsOptions& options = {});

/// Time of `format` by that of fp32; nan where the point does not have both.
double share_of_fp32(const LayerPoint& point, ComputeType format);

/// What the least size is from which on `format` pays at every size that was measured; nothing
/// where it does not at the largest. The points are ascending.
std::optional<std::int64_t> width_that_pays(const Crossings& crossings, ComputeType format);
std::optional<std::int64_t> rows_that_pay(const Crossings& crossings, ComputeType format);

/// Weights of a transformer of 8 layers of that width without its embedding, as a scale for
/// `width_that_pays`: 12 width^2 a layer (4 in attention, 8 in a feed-forward part).
double parameters_of_width(std::int64_t width);

}  // namespace halftone
