#!/bin/sh
# Installs the Debian packages that a group of targets needs; returns at once if all are there.
#
#   scripts/install_packages.sh [build] [demo] [docs] [format] [ci] [bench]     (default: build)
#
# Needs root or sudo only when something is missing. On another distribution, or with
# LAZULI_SKIP_PACKAGES=1, it installs nothing: CMake then reports what it cannot find.
set -eu

wanted=
for group in "${@:-build}"; do
  case $group in
    build) wanted="$wanted g++ cmake ninja-build pkg-config ccache libfmt-dev nlohmann-json3-dev libhwy-dev
                   libdnnl-dev ocl-icd-opencl-dev libopenblas-openmp-dev zlib1g-dev libpcre2-dev libutf8proc-dev
                   libgtest-dev libgmock-dev libcli11-dev" ;;
    demo) wanted="$wanted dataset-fashion-mnist" ;;
    docs) wanted="$wanted doxygen graphviz" ;;
    format) wanted="$wanted clang-format git" ;;
    ci) wanted="$wanted git g++-aarch64-linux-gnu qemu-user" ;;
    bench) wanted="$wanted python3 python3-venv" ;;
    *) echo "install_packages.sh: unknown group '$group'" >&2; exit 2 ;;
  esac
done

[ -z "${LAZULI_SKIP_PACKAGES:-}" ] || exit 0
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "Not a Debian system: install the equivalents of these packages yourself:"
  echo $wanted
  exit 0
fi

installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
missing=
for package in $wanted; do
  printf '%s\n' "$installed" | grep -qx "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "Run as root, or install:$missing" >&2; exit 1; }
  sudo=sudo
fi
printf '\n==> Installing packages:%s\n' "$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
  { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null; }
