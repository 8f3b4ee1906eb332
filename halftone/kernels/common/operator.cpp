// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/operator_impl.h"

namespace halftone {
namespace {

constexpr const char* kCopyMark = "::copy_mark";  // an operator that each copy defines first

bool is_taken(const std::string& space) {
  return c10::Dispatcher::singleton().findSchema({space + kCopyMark, ""}).has_value();
}

struct Namespace {
  Namespace() {
    for (int copy = 2; is_taken(name); ++copy) name = "halftone_" + std::to_string(copy);
    library.emplace(torch::Library::FRAGMENT, name, std::nullopt, __FILE__, __LINE__);
    library->def("copy_mark() -> ()");
  }
  std::string name = "halftone";
  std::optional<torch::Library> library;
};

}  // namespace

const std::string& operator_namespace() {
  static const Namespace of_this_copy;
  return of_this_copy.name;
}

}  // namespace halftone
