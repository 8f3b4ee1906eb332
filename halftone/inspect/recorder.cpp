// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "halftone/core/module_scope.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {
namespace {

/// LibTorch calls the step of a C++ autograd function after its type.
constexpr std::string_view kFunctionNode = "torch::autograd::CppNode<";

/// "torch::autograd::CppNode<ours::(anonymous namespace)::Scale<float> >" -> "Scale"; other names
/// stay as they are.
std::string plain_name(std::string_view node) {
  if (!node.starts_with(kFunctionNode)) return std::string(node);
  node.remove_prefix(kFunctionNode.size());
  node = node.substr(0, node.find_first_of("<>"));
  const std::size_t scope = node.rfind("::");
  return std::string(scope == std::string_view::npos ? node : node.substr(scope + 2));
}

/// "layers.0.attention" of "layers.0.attention.wq" and "layers.0.attention.wk".
std::string common_path(const std::string& a, const std::string& b) {
  std::size_t end = 0;
  for (std::size_t i = 0;; ++i) {
    const bool a_ends = i == a.size() || a[i] == '.';
    const bool b_ends = i == b.size() || b[i] == '.';
    if (a_ends && b_ends) end = i;
    if (i == a.size() || i == b.size() || a[i] != b[i]) return a.substr(0, end);
  }
}

}  // namespace

bool is_own_operation(std::string_view operation) {
  // A second copy of the library in one process is halftone_2.
  return operation.starts_with("halftone::") || operation.starts_with("halftone_");
}

std::string owner_of(std::string_view parameter) {
  const std::size_t dot = parameter.rfind('.');
  return std::string(dot == std::string_view::npos ? "" : parameter.substr(0, dot));
}

Recorder::Recorder(const torch::nn::Module& module) : memory_(module) {
  open_calls().clear();
  for (const auto& item : module.named_modules("", /*include_self=*/false))
    paths_.emplace(item.value().get(), item.key());
}

std::vector<Recorder::OpenCall>& Recorder::open_calls() {
  thread_local std::vector<OpenCall> calls;
  return calls;
}

bool Recorder::is_outermost() {
  const std::vector<OpenCall>& calls = open_calls();
  return calls.empty() || calls.back().is_backward;
}

void Recorder::begin(const OperationCall& call) {
  const std::lock_guard lock(mutex_);
  OpenCall open{.name = call.name,
                .is_backward = call.is_backward,
                .sequence = call.sequence,
                .parameters = parameters_of(call)};
  if (!call.is_backward) {
    open.module = module_of(open.parameters);
    note_site(open);
  }
  on_begin(call, open);
  open_calls().push_back(std::move(open));
}

void Recorder::end(const OperationCall& call) {
  const std::lock_guard lock(mutex_);
  std::vector<OpenCall>& calls = open_calls();
  if (calls.empty()) return;
  const OpenCall open = std::move(calls.back());
  calls.pop_back();
  if (!call.is_backward) {
    if (!call.is_recorded) forget_site(call.sequence);
    if (call.name == "aten::_to_copy" && !call.inputs.empty() && !call.outputs.empty())
      memory_.follow(call.inputs[0].tensors.at(0), call.outputs[0].tensors.at(0));
  }
  on_end(call, open);
}

Recorder::Names Recorder::parameters_of(const OperationCall& call) const {
  Names names;
  for (const OperationTensors& input : call.inputs) {
    if (!input.is_read) continue;
    for (const torch::Tensor& tensor : input.tensors)
      for (std::string& name : memory_.names_in(tensor))
        if (std::find(names.begin(), names.end(), name) == names.end())
          names.push_back(std::move(name));
  }
  return names;
}

std::string Recorder::module_of(const Names& parameters) const {
  if (auto known = known_module()) return *std::move(known);
  if (!parameters.empty()) {
    std::string path = owner_of(parameters.front());
    for (auto name = std::next(parameters.begin()); name != parameters.end(); ++name)
      path = common_path(path, owner_of(*name));
    return path;
  }
  const std::vector<OpenCall>& calls = open_calls();
  if (!calls.empty() && !calls.back().is_backward) return calls.back().module;
  const ModuleScope* const scope = innermost_module_scope();
  const auto found = scope != nullptr ? paths_.find(&scope->module()) : paths_.end();
  return found != paths_.end() ? found->second : "";
}

/// An operation inside another one, which reads parameters, belongs to these.
Site Recorder::forward_site(const OpenCall& call) const {
  Site site{.module = call.module, .operation = call.name};
  const std::vector<OpenCall>& calls = open_calls();
  const Names* reads = &call.parameters;
  for (auto outer = calls.rbegin(); reads->empty() && outer != calls.rend() && !outer->is_backward;
       ++outer)
    reads = &outer->parameters;
  site.reads_parameter = !reads->empty();
  site.parameters = site.reads_parameter ? *reads : last_parameters_;
  return site;
}

/// Of the operations with one number, the last and innermost one is what autograd differentiates;
/// but one of ours is differentiated as a whole.
void Recorder::note_site(const OpenCall& call) {
  const bool is_forward = !is_in_backward() || call.sequence >= 0;  // also one that runs again
  if (!call.parameters.empty() && is_forward) last_parameters_ = {call.parameters.back()};
  if (call.sequence < 0) return;
  const std::vector<OpenCall>& calls = open_calls();
  const bool inside_ours = std::any_of(calls.begin(), calls.end(), [&](const OpenCall& outer) {
    return !outer.is_backward && outer.sequence == call.sequence && is_own_operation(outer.name);
  });
  if (!inside_ours) sites_[call.sequence] = forward_site(call);
}

/// Autograd has nothing of the operation at that number: the step which gets it later is another's.
void Recorder::forget_site(std::int64_t sequence) {
  const auto found = sites_.find(sequence);
  if (found == sites_.end()) return;
  found->second = {.module = std::move(found->second.module),
                   .parameters = std::move(found->second.parameters)};
}

void Recorder::forget_before(std::int64_t sequence) {
  sites_.erase(sites_.begin(), sites_.lower_bound(sequence));
  memory_.forget_copies();
}

Site Recorder::site_of(const OperationCall& call, const OpenCall& open) const {
  if (is_in_backward()) {
    Site site{.operation = call.name, .is_backward = true};
    describe_backward(site);
    return site;
  }
  Site site = forward_site(open);
  const std::vector<OpenCall>& calls = open_calls();
  const auto outer = std::find_if(calls.begin(), calls.end(), [](const OpenCall& around) {
    return is_own_operation(around.name);
  });
  if (outer != calls.end() && outer->name != call.name) site.within = outer->name;
  return site;
}

void Recorder::describe_backward(Site& site) const {
  const std::vector<OpenCall>& calls = open_calls();
  const auto node = std::find_if(calls.rbegin(), calls.rend(),
                                 [](const OpenCall& call) { return call.is_backward; });
  if (node == calls.rend()) return;
  if (const auto found = sites_.find(node->sequence); found != sites_.end()) {
    const Site& forward = found->second;
    site.module = forward.module;
    site.forward = forward.operation;
    site.parameters = forward.parameters;
    site.reads_parameter = forward.reads_parameter;
  }
  if (!is_own_operation(site.forward)) site.node = plain_name(node->name);
}

}  // namespace halftone
