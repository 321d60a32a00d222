#!/bin/sh
# Fills a folder with Debian's arm64 libraries (about 30 MB of packages), for the preset `neon`.
# Changes nothing on the system itself: apt works on lists and a package status of its own.
#
#   scripts/arm64_sysroot.sh [FOLDER]      (default: $LAZULI_ARM64_SYSROOT or ~/.cache/lazuli/arm64)
set -eu
root=${1:-${LAZULI_ARM64_SYSROOT:-$HOME/.cache/lazuli/arm64}}
packages="libc6-dev libstdc++-12-dev libgomp1 libfmt-dev nlohmann-json3-dev libhwy-dev libdnnl-dev
          libopenblas-openmp-dev zlib1g-dev libpcre2-dev libutf8proc-dev libgtest-dev libgmock-dev libcli11-dev"
stamp="$root/.filled-with"
[ "$(cat "$stamp" 2>/dev/null)" != "$packages" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$root"
: > "$work/status"
apt="apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status=$work/status
     -o Dir::State::lists=$work/lists -o Dir::Cache::archives=$work/archives -o Dir::Cache::pkgcache=
     -o Dir::Cache::srcpkgcache= -o Debug::NoLocking=1 -o APT::Sandbox::User=$(id -un)"
echo "Fetching Debian's arm64 libraries into $root"
$apt update
$apt install -y --no-install-recommends --download-only $packages
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
# dpkg-deb knows no alternatives: choose the BLAS built with OpenMP.
lib="$root/usr/lib/aarch64-linux-gnu"
for name in libopenblas.so libopenblas.so.0; do ln -sf openblas-openmp/$name "$lib/$name"; done
for header in "$root"/usr/include/aarch64-linux-gnu/openblas-openmp/*.h; do
  ln -sf "openblas-openmp/${header##*/}" "$root/usr/include/aarch64-linux-gnu/${header##*/}"
done
# Links to absolute paths would leave the folder.
find "$root" -type l -lname '/*' | while read -r link; do
  ln -sfr "$root$(readlink "$link")" "$link"
done
printf '%s' "$packages" > "$stamp"
