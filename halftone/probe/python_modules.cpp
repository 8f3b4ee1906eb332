// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>

#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "halftone/probe/python_hooks_impl.h"
#include "halftone/probe/python_modules_impl.h"

struct _object;  // Python's

namespace halftone {
namespace {

using PyObject = ::_object;
using Function = PyObject* (*)(PyObject* self, PyObject* arguments);

/// PyMethodDef
struct Method {
  const char* name;
  Function function;
  int flags;
  const char* text;
};
constexpr int kManyArguments = 1, kNoArgument = 4, kOneArgument = 8;  // METH_VARARGS, _NOARGS, _O
constexpr int kStatements = 257;                                      // Py_file_input

template <typename Signature>
Signature* python_function(const char* name) {
  return reinterpret_cast<Signature*>(dlsym(RTLD_DEFAULT, name));
}

/// What is needed of Python's stable interface.
struct Python {
  int (*is_initialized)() = python_function<int()>("Py_IsInitialized");
  int (*add_pending_call)(int (*)(void*),
                          void*) = python_function<int(int (*)(void*), void*)>("Py_AddPendingCall");
  PyObject* (*new_dict)() = python_function<PyObject*()>("PyDict_New");
  int (*set_item)(PyObject*, const char*, PyObject*) =
      python_function<int(PyObject*, const char*, PyObject*)>("PyDict_SetItemString");
  PyObject* (*builtins)() = python_function<PyObject*()>("PyEval_GetBuiltins");
  PyObject* (*new_function)(Method*, PyObject*, PyObject*) =
      python_function<PyObject*(Method*, PyObject*, PyObject*)>("PyCFunction_NewEx");
  PyObject* (*run)(const char*, int, PyObject*, PyObject*) =
      python_function<PyObject*(const char*, int, PyObject*, PyObject*)>("PyRun_String");
  int (*parse)(PyObject*, const char*,
               ...) = python_function<int(PyObject*, const char*, ...)>("PyArg_ParseTuple");
  PyObject* (*build)(const char*,
                     ...) = python_function<PyObject*(const char*, ...)>("Py_BuildValue");
  long (*as_long)(PyObject*) = python_function<long(PyObject*)>("PyLong_AsLong");
  const char* (*as_text)(PyObject*) = python_function<const char*(PyObject*)>("PyUnicode_AsUTF8");
  void (*clear_error)() = python_function<void()>("PyErr_Clear");
  void (*release)(PyObject*) = python_function<void(PyObject*)>("Py_DecRef");

  bool is_complete() const {
    return is_initialized && add_pending_call && new_dict && set_item && builtins && new_function &&
           run && parse && build && as_long && as_text && clear_error && release;
  }
};

const Python& python() {
  static const Python found;
  return found;
}

struct Shared {
  std::mutex mutex;
  std::vector<std::string> paths{""};  // by their numbers
  std::map<std::string, long> numbers;
  std::vector<NamedMemory> parameters;
  std::atomic<bool> is_installed = false;
  std::atomic<bool> is_asked = false;
  std::atomic<bool> asks_for_parameters = false;
};

Shared& shared() {
  static auto* const state = new Shared;  // Python may call until the process ends
  return *state;
}

std::vector<long>& entered() {
  thread_local std::vector<long> numbers;
  return numbers;
}

PyObject* none() { return python().build(""); }

PyObject* path_number(PyObject*, PyObject* path) {
  const char* const text = python().as_text(path);
  if (text == nullptr) return nullptr;
  Shared& state = shared();
  const std::lock_guard lock(state.mutex);
  const auto [number, is_new] = state.numbers.emplace(text, static_cast<long>(state.paths.size()));
  if (is_new) state.paths.emplace_back(text);
  return python().build("l", number->second);
}

PyObject* enter(PyObject*, PyObject* number) {
  entered().push_back(python().as_long(number));
  return none();
}

PyObject* leave(PyObject*, PyObject*) {
  if (!entered().empty()) entered().pop_back();
  return none();
}

PyObject* depth(PyObject*, PyObject*) {
  return python().build("l", static_cast<long>(entered().size()));
}

PyObject* asks_for_parameters(PyObject*, PyObject*) {
  return python().build("i", shared().asks_for_parameters.load() ? 1 : 0);
}

PyObject* parameter(PyObject*, PyObject* arguments) {
  unsigned long long address = 0, bytes = 0;
  const char* name = nullptr;
  if (python().parse(arguments, "KKs", &address, &bytes, &name) == 0) return nullptr;
  const auto* const begin = reinterpret_cast<const char*>(static_cast<std::uintptr_t>(address));
  Shared& state = shared();
  const std::lock_guard lock(state.mutex);
  if (begin != nullptr && bytes > 0) state.parameters.push_back({begin, begin + bytes, name});
  return none();
}

PyObject* installed(PyObject*, PyObject*) {
  shared().is_installed = true;
  return none();
}

// Python keeps pointers to them.
Method methods[] = {{"path_number", path_number, kOneArgument, nullptr},
                    {"enter", enter, kOneArgument, nullptr},
                    {"leave", leave, kNoArgument, nullptr},
                    {"depth", depth, kNoArgument, nullptr},
                    {"asks_for_parameters", asks_for_parameters, kNoArgument, nullptr},
                    {"parameter", parameter, kManyArguments, nullptr},
                    {"installed", installed, kNoArgument, nullptr}};

/// Called by Python between two of its instructions.
int install(void*) {
  const Python& py = python();
  PyObject* const names = py.new_dict();
  if (names != nullptr) {
    py.set_item(names, "__builtins__", py.builtins());
    for (Method& method : methods) {
      PyObject* const function = py.new_function(&method, nullptr, nullptr);
      if (function == nullptr) continue;
      py.set_item(names, method.name, function);
      py.release(function);
    }
    PyObject* const result = py.run(kPythonHooks, kStatements, names, names);
    if (result != nullptr) py.release(result);
    py.release(names);
  }
  py.clear_error();
  shared().is_asked = false;
  return 0;
}

}  // namespace

void PythonModules::follow() {
  Shared& state = shared();
  if (state.is_installed || state.is_asked) return;
  const Python& py = python();
  if (!py.is_complete() || py.is_initialized() == 0 || state.is_asked.exchange(true)) return;
  if (py.add_pending_call(install, nullptr) != 0) state.is_asked = false;  // its queue is full
}

void PythonModules::ask_for_parameters(bool asks) { shared().asks_for_parameters = asks; }

std::vector<NamedMemory> PythonModules::take_parameters() {
  Shared& state = shared();
  const std::lock_guard lock(state.mutex);
  return std::exchange(state.parameters, {});
}

std::optional<std::string> PythonModules::current() {
  Shared& state = shared();
  if (!state.is_installed) return std::nullopt;
  const std::vector<long>& numbers = entered();
  if (numbers.empty()) return "";
  const std::lock_guard lock(state.mutex);
  const auto number = static_cast<std::size_t>(numbers.back());
  return number < state.paths.size() ? state.paths[number] : "";
}

}  // namespace halftone
