// The argument types of exported functions. Lazuli cannot write functions to files yet: exporter,
// export_function and import_function are not declared.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "mlx/array.h"

namespace mlx::core {

using Args = std::vector<array>;
using Kwargs = std::unordered_map<std::string, array>;

}  // namespace mlx::core
