#!/bin/sh
# Checks that every tracked C++ file is as clang-format leaves it (`make format` mends).
set -eu
cd "$(dirname "$0")/.."
git ls-files -z '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 -r clang-format --dry-run -Werror
echo "format: every file is as clang-format leaves it"
