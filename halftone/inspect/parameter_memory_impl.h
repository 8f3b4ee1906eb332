// SPDX-License-Identifier: Apache-2.0
// Which parameters a tensor holds, by its place in memory.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace halftone {

/// Not thread-safe. Parameters must stay where they are.
class ParameterMemory {
 public:
  ParameterMemory() = default;
  explicit ParameterMemory(const torch::nn::Module& module);

  /// A parameter that no module of C++ holds.
  void add(const char* begin, const char* end, const std::string& name);

  /// The names of the parameters in the memory that the tensor spans, in the order of their
  /// addresses: of a view of several, all of them.
  std::vector<std::string> names_in(const torch::Tensor& tensor) const;

  /// From here on `copy`, an element-wise copy of `tensor` in another dtype, stands for the
  /// parameters in it. It is kept, so that nothing else comes to stand at its address.
  void follow(const torch::Tensor& tensor, const torch::Tensor& copy);
  /// Gives the copies back: they are those of a step that is over.
  void forget_copies();

 private:
  struct Place {
    const char* end;
    std::string name;
  };
  using Places = std::map<const char*, Place>;  // by their begin
  Places places_between(const char* begin, const char* end) const;

  Places places_;
  std::vector<torch::Tensor> copies_;
};

/// Whether the values of the tensor can be looked at: floating or complex, in memory, not empty.
bool is_readable(const torch::Tensor& tensor);

/// Bytes from the first element to behind the last one; of strided tensors the gaps belong to it.
std::int64_t spanned_bytes(const torch::Tensor& tensor);

}  // namespace halftone
