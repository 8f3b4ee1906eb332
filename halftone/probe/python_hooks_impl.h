// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace halftone {

/// Runs in a namespace of its own, which has the functions path_number(), enter(), leave(),
/// depth(), asks_for_parameters(), parameter() and installed() of python_modules.cpp. It may run
/// while PyTorch is being imported, and then does nothing.
inline constexpr const char* kPythonHooks = R"py(
def install():
    import sys
    modules = sys.modules.get("torch.nn.modules.module")
    hook_before = getattr(modules, "register_module_forward_pre_hook", None)
    hook_behind = getattr(modules, "register_module_forward_hook", None)
    is_compiling = getattr(sys.modules.get("torch.compiler"), "is_compiling", None)
    if hook_before is None or hook_behind is None or is_compiling is None:
        return
    import threading
    import weakref

    numbers = {}  # of a module that is called from outside, by its id: it, and its parts by theirs
    this_thread = threading.local()

    def part_numbers(root):
        known = numbers.get(id(root))
        if known is not None and known[0]() is root:
            return known[1]
        parts = {}
        for path, part in root.named_modules():
            parts[id(part)] = path_number(path or type(root).__name__)
        numbers[id(root)] = (weakref.ref(root), parts)
        return parts

    def tell_parameters(root):
        for name, tensor in root.named_parameters():
            try:
                if tensor.is_contiguous():
                    parameter(tensor.data_ptr(), tensor.numel() * tensor.element_size(), name)
            except Exception:
                pass

    def before(module, inputs):
        if is_compiling():
            return
        number = 0
        try:
            if depth() == 0:
                this_thread.root = weakref.ref(module)
                if asks_for_parameters():
                    tell_parameters(module)
            root = this_thread.root()
            number = part_numbers(root).get(id(module), -1)
            if number < 0:  # it has become a part since
                numbers.pop(id(root), None)
                number = part_numbers(root).get(id(module), -1)
            if number < 0:
                number = path_number(type(module).__name__)
        except Exception:
            pass
        finally:
            enter(number)

    def behind(module, inputs, outputs):
        if not is_compiling():
            leave()

    hook_before(before)
    hook_behind(behind, always_call=True)
    installed()


install()
)py";

}  // namespace halftone
