#!/bin/sh
# Checks which way the dependencies point (docs/architecture.md): prints every include that points
# the wrong way and exits 1 if there is one.
set -eu
cd "$(dirname "$0")/.."
failed=0

# includes FOLDER...: every quoted include below the folders, as FILE:LINE:PATH
includes() {
  for folder in "$@"; do
    [ ! -d "$folder" ] ||
      grep -rnE '^ *# *include *"' --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' --include='*.inc' "$folder" || true
  done | sed -E 's/^([^:]*:[0-9]+): *# *include *"([^"]*)".*/\1:\2/'
}
report() {  # report RULE: the lines on stdin break it
  lines=$(cat)
  [ -n "$lines" ] || return 0
  printf '%s:\n%s\n' "$1" "$lines" | sed '2,$s/^/    /'
  failed=1
}

includes src include apps tests examples | grep -E ':(.*/)?backend/(cpu|cuda)/[^:]*$' |
  grep -vE '^(src|tests)/backend/' > /tmp/layering.$$ || true
report "only src/backend may include a backend's own headers" < /tmp/layering.$$

includes include | grep -vE ':[0-9]+:lazuli/' > /tmp/layering.$$ || true
report "headers in include/ may include only include/lazuli and the standard library" < /tmp/layering.$$

# Users of the public API: "lazuli/..." or a header of their own folder (src/lm and below: "lm/...").
includes src/nn src/optimizers src/losses src/init src/io src/lm src/distributed apps examples |
  grep -vE ':[0-9]+:lazuli/' | grep -vE ':[0-9]+:[^/]*$' |
  while IFS=: read -r file line path; do
    case $file in "src/${path%%/*}/"*) continue ;; esac
    [ -f "$(dirname "$file")/$path" ] ||
      echo "$file:$line:$path"
  done > /tmp/layering.$$
report "layers above the public API may include only public headers" < /tmp/layering.$$

includes src/core src/graph | grep -E ':[0-9]+:(ops|transforms|nn|optimizers|losses|init|io|lm)/' > /tmp/layering.$$ || true
report "core and graph may not include what is built on them" < /tmp/layering.$$

rm -f /tmp/layering.$$
[ $failed -eq 0 ] && echo "layering: every include points the right way"
exit $failed
