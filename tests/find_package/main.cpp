// SPDX-License-Identifier: Apache-2.0
#include <halftone/halftone.h>

#include <cstdio>

int main() {
  const torch::Tensor ones = torch::ones({2, 3});
  halftone::StateDict state;
  state.tensors["ones"] = ones;
  state.values["word"] = static_cast<std::int64_t>(halftone::random_word(1234567, 0) >> 1U);
  const bool right = state.tensor("ones").sum().item<float>() == 6.0F &&
                     state.get<std::int64_t>("word") == 3228913858555182658;
  std::printf("consumer: %s\n", right ? "ok" : "wrong");
  return right ? 0 : 1;
}
