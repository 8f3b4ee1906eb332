// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/kernels/linear/weight_residency.h"
#include "halftone/optim/weight_shards.h"

namespace halftone {

/// The weights of all optimizers, of which each process keeps a part, as the passes of a run need
/// them. A pass is all that is computed with one batch: the forward pass, and the backward pass
/// where there is one. Each process takes part in bringing weights in all passes, also in those in
/// which it has no batch: passes of one kind need the same weights in the same order, on all
/// processes.
class ShardedWeights : public WeightResidency {
 public:
  /// The arenas outlive it. All weights are there, the same on all processes. All call it.
  ShardedWeights(const std::vector<const ParameterArena*>& arenas, ProcessGroup& processes);

  /// A pass of the kind that a name stands for. `computes`: whether this process has a batch in it,
  /// with which compute() does what is to be done. All call it. Throws UserError where a pass
  /// needs other weights than those before it; the first passes, where weights are read that are
  /// not there.
  void pass(const std::string& kind, bool computes, const std::function<void()>& compute);
  /// After a pass: throws UserError where no weights were brought in any.
  void check_use() const;

  void hold(const std::vector<at::Tensor>& parameters) override;
  void release(const std::vector<at::Tensor>& parameters) override;

  /// As WeightShards. All call them.
  void refresh();
  void complete(std::int64_t root = -1);
  void drop_unused();

 private:
  /// Parameters that were brought, or let go, together; of all arenas, in one count.
  struct Use {
    bool holds = false;
    std::vector<std::size_t> parameters;
    bool operator==(const Use&) const = default;
  };
  using Uses = std::vector<Use>;

  struct Parameter {
    std::size_t arena = 0;
    std::size_t index = 0;   // in the arena
    std::size_t number = 0;  // over all arenas
    std::size_t bytes = 0;
  };

  const Parameter* parameter_of(const at::Tensor& tensor) const;
  std::optional<std::string> absent(const at::Tensor& tensor) const;
  std::vector<std::size_t> known(const std::vector<at::Tensor>& parameters) const;
  void apply(const Use& use);
  void bring(const Use& use);
  void prefetch_behind(std::size_t use);
  /// The parameters of a use that are an arena's.
  std::vector<std::size_t> of_arena(const Use& use, std::size_t arena) const;
  void first_pass(const std::string& kind, bool computes, const std::function<void()>& compute);
  Uses recorded(const std::string& kind, const std::function<void()>& compute);
  void go_through(const Uses& uses);
  std::optional<Uses> shared(const std::optional<Uses>& own);

  std::shared_ptr<ProcessGroup> group_;  // of its own: gradients travel at the same time
  std::vector<const ParameterArena*> arenas_;
  std::vector<std::unique_ptr<WeightShards>> shards_;  // of each arena
  std::vector<std::size_t> first_of_;                  // the first parameter of each arena
  std::map<const char*, Parameter> parameter_at_;      // by the memory that its weights begin at
  std::map<std::string, Uses> uses_;                   // of a pass of each kind
  std::map<std::string, int> checked_;                 // passes of each kind, with weights absent
  Uses recording_;                                     // of the pass that is under way
  const Uses* before_ = nullptr;                       // those of the last pass of its kind
};

}  // namespace halftone
