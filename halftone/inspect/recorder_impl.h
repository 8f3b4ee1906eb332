// SPDX-License-Identifier: Apache-2.0
// Gives each operation of a training step its site. The search for the first non-finite value,
// comparisons, profiles and statistics are its readers: they derive from it.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"
#include "halftone/inspect/site.h"

namespace halftone {

/// Whether the operation is this library's: what it is made of is no business of those who call it.
bool is_own_operation(std::string_view operation);

/// The path of the module that holds the parameter: "layers.0.norm" of "layers.0.norm.weight".
std::string owner_of(std::string_view parameter);

class Recorder : public OperationObserver {
 public:
  /// A program of unknown modules: sites name operations and steps of autograd only.
  Recorder() = default;
  /// Names the modules and parameters of `module` by their paths. Both must stay where they are.
  explicit Recorder(const torch::nn::Module& module);

  void begin(const OperationCall& call) final;
  void end(const OperationCall& call) final;

 protected:
  using Names = std::vector<std::string>;

  /// A call that this thread is in.
  struct OpenCall {
    std::string name;
    bool is_backward = false;  // a step of autograd
    std::int64_t sequence = -1;
    Names parameters;  // that it reads itself
    std::string module;
  };

  // What a reader does with an operation or a step of autograd, one at a time in the process.
  /// open_calls() are the calls around it.
  virtual void on_begin(const OperationCall& call, const OpenCall& open) = 0;
  /// open_calls() are the calls around it again.
  virtual void on_end(const OperationCall& call, const OpenCall& open) = 0;

  /// This thread's, the outermost first.
  static std::vector<OpenCall>& open_calls();
  /// Whether no other operation is around it: the program's own call, or that of a step of
  /// autograd.
  static bool is_outermost();

  /// Of a call that has begun, while the calls around it are open.
  Site site_of(const OperationCall& call, const OpenCall& open) const;

  /// The path of the module that computes in this thread, if it is known better than by the
  /// parameters that an operation reads.
  virtual std::optional<std::string> known_module() const { return std::nullopt; }
  /// A parameter that the constructor was not told of.
  void name_parameter(const char* begin, const char* end, const std::string& name) {
    memory_.add(begin, end, name);
  }
  /// What autograd recorded before `sequence` will not run any more; nor are copies of parameters
  /// used that were made so far.
  void forget_before(std::int64_t sequence);

  std::mutex& mutex() const { return mutex_; }
  const ParameterMemory& memory() const { return memory_; }

 private:
  /// What autograd remembers by a sequence number: an operation of the forward pass.
  using SitesBySequence = std::map<std::int64_t, Site>;

  Names parameters_of(const OperationCall& call) const;
  std::string module_of(const Names& parameters) const;
  Site forward_site(const OpenCall& call) const;
  void note_site(const OpenCall& call);
  void forget_site(std::int64_t sequence);
  void describe_backward(Site& site) const;

  mutable std::mutex mutex_;
  ParameterMemory memory_;
  std::unordered_map<const torch::nn::Module*, std::string> paths_;
  Names last_parameters_;
  SitesBySequence sites_;
};

}  // namespace halftone
