// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <vector>

#include "halftone/io/pickle_globals_impl.h"

namespace halftone {

bool is_allowed_global(std::string_view module, std::string_view name) {
  static const std::map<std::string_view, std::vector<std::string_view>> allowed = {
      {"__builtin__",
       {"bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "long", "set",
        "slice", "str", "tuple", "unicode"}},
      {"_codecs", {"encode"}},
      {"builtins",
       {"bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice",
        "str", "tuple"}},
      {"collections", {"OrderedDict"}},
      {"torch",
       {"BFloat16Storage",
        "BoolStorage",
        "ByteStorage",
        "CharStorage",
        "ComplexDoubleStorage",
        "ComplexFloatStorage",
        "DoubleStorage",
        "FloatStorage",
        "HalfStorage",
        "IntStorage",
        "LongStorage",
        "ShortStorage",
        "Size",
        "UntypedStorage",
        "bfloat16",
        "bool",
        "complex128",
        "complex64",
        "device",
        "float",
        "float16",
        "float32",
        "float64",
        "float8_e4m3fn",
        "float8_e5m2",
        "half",
        "int",
        "int16",
        "int32",
        "int64",
        "int8",
        "long",
        "short",
        "uint16",
        "uint32",
        "uint64",
        "uint8"}},
      {"torch._utils", {"_rebuild_parameter", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}},
      {"torch.storage", {"UntypedStorage"}},
  };
  const auto names = allowed.find(module);
  return names != allowed.end() &&
         std::find(names->second.begin(), names->second.end(), name) != names->second.end();
}

}  // namespace halftone
