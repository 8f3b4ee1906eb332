// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

namespace halftone {

/// While it lives, `place` holds `value`; afterwards, also after an exception, what it held before.
template <class T>
class ScopedValue {
 public:
  ScopedValue(T& place, std::type_identity_t<T> value)
      : place_(place), before_(std::exchange(place, std::move(value))) {}
  ~ScopedValue() { place_ = std::move(before_); }
  ScopedValue(const ScopedValue&) = delete;
  ScopedValue& operator=(const ScopedValue&) = delete;

 private:
  T& place_;
  T before_;
};

}  // namespace halftone
