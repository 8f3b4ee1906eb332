// SPDX-License-Identifier: Apache-2.0
// The state that an object (model, optimizer, scaler, sampler) hands over for saving. No class of
// the library knows a file format and no format knows a class: they meet here.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>

namespace halftone {

/// Tensors and small values by name, in the order of the names. Tensors share storage with their
/// owner until they are written or cloned. Those of a file may wait there until each is asked for,
/// so that a state is loaded without ever being in memory as a whole.
struct StateDict {
  using Value = std::variant<bool, std::int64_t, double, std::string>;
  using Read = std::function<torch::Tensor()>;

  /// A tensor that is lazy stands here on the meta device: its shape and dtype.
  std::map<std::string, torch::Tensor> tensors;
  std::map<std::string, Value> values;
  /// The functions that read lazy tensors, by name. Every call reads again.
  std::map<std::string, Read> lazy;

  /// The value called `name`; throws UserError naming `name` when it is missing or of another type.
  /// An integer is accepted where a double is asked for.
  template <class T>
  T get(const std::string& name) const;

  /// The tensor called `name`, read now if it is lazy; throws UserError naming it when missing,
  /// and what reading throws.
  torch::Tensor tensor(const std::string& name) const;
  /// Its shape and dtype, without reading: the tensor itself, or one on the meta device.
  const torch::Tensor& meta(const std::string& name) const;

  /// Reads every tensor that is lazy.
  void read_all();

  /// Copies every entry of `part` under `prefix` + its name.
  void insert(const std::string& prefix, const StateDict& part);

  /// The entries whose names start with `prefix`, with the prefix taken off.
  StateDict extract(const std::string& prefix) const;
};

/// How the tensors of `given` differ from the `expected` ones in names and shapes, for a message:
/// "missing: a, b; of another shape: c [2] instead of [3]". Empty when they agree.
std::string tensor_mismatches(const StateDict& expected, const StateDict& given);

}  // namespace halftone
