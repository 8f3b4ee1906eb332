// SPDX-License-Identifier: Apache-2.0
// What a probe has seen, as numbers, as JSON and as a page.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace halftone {

struct ProbeReport {
  struct Input {
    std::string dtype;  // "fp16"
    std::vector<std::int64_t> shape;
    double max_abs = 0.0;         // of the finite values
    std::int64_t non_finite = 0;  // values that are inf or nan
    std::string name;             // of the argument, or of the parameter that it is
  };
  struct Find {
    std::string operation;  // "aten::mm"
    bool is_backward = false;
    std::string kind;  // "overflow", "division by zero", "log of zero", "input", "weights", "other"
    std::int64_t step = 0;      // from 1
    std::int64_t call = 0;      // of this operation in this direction in its step, from 1
    std::string autograd_node;  // "MmBackward0"; empty in the forward pass
    std::string forward;        // of a backward one: the operation that it is the gradient of
    std::string module;         // "layers.3.attention"; empty where nothing tells
    std::vector<std::string> parameters;  // that it reads, as far as they are known
    std::string reason;                   // "it overflows fp16, which ends at 65504"
    std::vector<Input> inputs;
  };
  struct Underflow {
    std::string operation;
    bool is_backward = false;
    std::string dtype;
    std::int64_t calls = 0;
    double flushed_share = 0.0;     // zero, and not in fp32
    double overflowed_share = 0.0;  // inf or nan, and not in fp32
  };
  struct Comparison {
    std::string operation;
    bool is_backward = false;
    std::string dtype;
    std::int64_t calls = 0;
    double relative_error = 0.0;  // |result - fp32| / |fp32|, over all calls
    double cosine = 1.0;
  };
  /// Gradients that overflowed under a loss scale, which the program's GradScaler then skipped.
  struct ScaledOverflow {
    std::int64_t steps = 0;
    std::string operation;  // the first one
    std::string module;
  };
  /// How much was watched.
  struct Run {
    std::string program;
    std::string libtorch;
    std::vector<std::string> modes;
    std::int64_t steps = 0;
    std::int64_t searched_steps = 0;        // for the first bad operation
    std::int64_t sampled_steps = 0;         // for the rest
    double seconds = 0.0;                   // since it was started
    double watched_seconds = 0.0;           // spent by the probe, of all threads
    std::vector<std::string> not_compared;  // operations that have no fp32 of their own
  };

  Run run;
  std::optional<Find> first_nonfinite;
  ScaledOverflow scaled_overflow;
  std::map<std::string, std::map<std::string, std::int64_t>> census;  // operation, dtype -> calls
  std::vector<Underflow> underflow;                                   // the largest shares first
  std::vector<Comparison> comparisons;                                // the largest errors first
};

/// What the operation does: "is the first bad operation: overflow", "reads bad weights". The kind
/// "other" says nothing: the reason stands for it.
std::string verdict_of(const ProbeReport::Find& find);

/// The document probe.json (docs/probe.md).
std::string probe_json(const ProbeReport& report);

/// One HTML document that needs no script and no network.
std::string probe_page(const ProbeReport& report);

}  // namespace halftone
