#!/bin/sh
# Checks that every public header compiles on its own.
set -eu
cd "$(dirname "$0")/.."
find include compat -name '*.h' | sort | xargs -P "$(nproc)" -I{} sh -c '
  root=include; case {} in compat/*) root=compat/mlx/include;; esac
  name={}; name=${name#$root/}
  printf "#include \"%s\"\n" "$name" |
    "${CXX:-g++}" -std=c++20 -Wall -Wextra -Wno-unused-parameter -Werror -fsyntax-only \
      -Iinclude -Icompat/mlx/include -x c++ - || { echo "does not compile on its own: {}" >&2; exit 1; }'
echo "headers: each public header compiles on its own"
