// Libraries of the CUDA toolkit, looked for when they are first needed.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <type_traits>

namespace lazuli::cuda {

class Library {
 public:
  // Throws std::runtime_error that says what the library is for.
  Library(const char* name, const char* purpose) : name_(name) {
    for (const std::string& path : {std::string(name), "/usr/local/cuda/lib64/" + std::string(name)})
      if (!handle_) handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle_)
      throw std::runtime_error(std::string("[cuda] ") + name + " was not found; it " + purpose +
                               " and comes with the CUDA toolkit (LD_LIBRARY_PATH says where to look)");
  }
  template <class F>
  void find(F& f, const char* symbol) const {
    f = reinterpret_cast<F>(dlsym(handle_, symbol));
    if (!f) throw std::runtime_error("[cuda] " + std::string(name_) + " has no " + symbol);
  }

 private:
  const char* name_;
  void* handle_ = nullptr;
};

}  // namespace lazuli::cuda
