# Toolchain: Debian's cross compiler for 64-bit Arm, the libraries of the folder that
# scripts/arm64_sysroot.sh fills, and qemu-user to run the tests.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
if(DEFINED ENV{LAZULI_ARM64_SYSROOT})
  set(CMAKE_SYSROOT $ENV{LAZULI_ARM64_SYSROOT})
else()
  set(CMAKE_SYSROOT $ENV{HOME}/.cache/lazuli/arm64)
endif()
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# Libraries of the sysroot need one another; the BLAS of Debian lies in a folder of its own.
set(CMAKE_EXE_LINKER_FLAGS_INIT
    "-Wl,-rpath-link,${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu:${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu/openblas-openmp")
set(CMAKE_CROSSCOMPILING_EMULATOR
    qemu-aarch64;-L;${CMAKE_SYSROOT};-E;LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu/openblas-openmp)
