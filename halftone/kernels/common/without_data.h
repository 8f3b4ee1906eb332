// SPDX-License-Identifier: Apache-2.0
// Computations on the device meta that stand for others which are not run.
#pragma once

namespace halftone {

/// In its scope, what this thread computes without data stands for `times` such computations: a
/// loop whose rounds are alike runs one of them. Scopes multiply.
class StandsForScope {
 public:
  explicit StandsForScope(double times);
  ~StandsForScope();
  StandsForScope(const StandsForScope&) = delete;
  StandsForScope& operator=(const StandsForScope&) = delete;

 private:
  double before_;
};

/// How many computations one of this thread stands for; 1 outside all scopes.
double stands_for();

}  // namespace halftone
