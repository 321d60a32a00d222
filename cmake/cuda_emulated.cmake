# The CUDA backend on a GPU emulated on the host (src/backend/cuda/emulation): its own kernels, compiled by the
# C++ compiler. Needs neither a GPU nor a CUDA toolkit. What uses the toolkit's libraries (NVRTC, cuBLAS, cuDNN) is
# left out, and with it everything that includes its headers; the CPU's kernels do that work.
file(GLOB sources CONFIGURE_DEPENDS src/backend/cuda/*.cpp src/backend/cuda/*.cu)
file(GLOB headers CONFIGURE_DEPENDS src/backend/cuda/*.h src/backend/cuda/*.cuh)
set(LAZULI_NOT_EMULATED "backend/cuda/library\\.h|nvrtc\\.h|cublas[A-Za-z_0-9]*\\.h|cudnn[a-z_0-9]*\\.h")
set(before "")
while(NOT LAZULI_NOT_EMULATED STREQUAL before)
  set(before "${LAZULI_NOT_EMULATED}")
  foreach(file ${headers})
    file(STRINGS ${file} found REGEX "^#include [<\"](${LAZULI_NOT_EMULATED})[>\"]")
    get_filename_component(name ${file} NAME)
    string(REPLACE "." "\\." name ${name})
    string(FIND "${LAZULI_NOT_EMULATED}" "backend/cuda/${name}" known)
    if(found AND known EQUAL -1)
      string(APPEND LAZULI_NOT_EMULATED "|backend/cuda/${name}")
    endif()
  endforeach()
endwhile()
# Removes the files that use those libraries from a list.
function(lazuli_filter_emulated list)
  foreach(file ${${list}})
    file(STRINGS ${file} found REGEX "^#include [<\"](${LAZULI_NOT_EMULATED})[>\"]")
    if(found)
      list(REMOVE_ITEM ${list} ${file})
    endif()
  endforeach()
  set(${list} ${${list}} PARENT_SCOPE)
endfunction()
set(all ${sources})
lazuli_filter_emulated(sources)
file(GLOB emulation CONFIGURE_DEPENDS src/backend/cuda/emulation/*.cpp)

# A library of objects by itself, so that the rest is compiled as in other builds (and found by ccache).
add_library(lazuli_cuda_emulated OBJECT ${sources} ${emulation})
set(kernels ${sources})
list(FILTER kernels INCLUDE REGEX "\\.cu$")
set(LAZULI_EMULATED_KERNELS -O1 -ffp-contract=off -Wno-unknown-pragmas
    -include ${PROJECT_SOURCE_DIR}/src/backend/cuda/emulation/device.h)
# Races between threads (emulation/races.h): the compiler's part of its thread sanitizer, with functions of our own.
option(LAZULI_EMULATED_RACES "Find races between threads of kernels on the emulated GPU" OFF)
if(LAZULI_EMULATED_RACES)
  list(APPEND LAZULI_EMULATED_KERNELS -fsanitize=thread -fno-omit-frame-pointer -g1 -DLAZULI_EMULATED_RACES=1)
  target_compile_definitions(lazuli_cuda_emulated PRIVATE LAZULI_EMULATED_RACES=1)
endif()
set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${LAZULI_EMULATED_KERNELS}")
# Generated kernels, if asked for (emulation/fused.cpp).
set_source_files_properties(src/backend/cuda/elementwise.cpp PROPERTIES COMPILE_DEFINITIONS run_program=run_generated_program)
set_source_files_properties(src/backend/cuda/reduce.cpp PROPERTIES COMPILE_DEFINITIONS run_reduce=run_generated_reduce)
set(source ${PROJECT_SOURCE_DIR}/src)
set(flags "-I${source}/backend/cuda/emulation/include -I${source} -I${PROJECT_SOURCE_DIR}/include")
# Kernels alone may be under sanitizers: the rest is then as in other builds.
set(LAZULI_EMULATED_SANITIZE "${LAZULI_SANITIZE}" CACHE STRING "Sanitizers for kernels on the emulated GPU, as for -fsanitize=")
if(LAZULI_EMULATED_SANITIZE)
  set(sanitize -fsanitize=${LAZULI_EMULATED_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  list(APPEND LAZULI_EMULATED_KERNELS ${sanitize})  # of tests
  target_compile_options(lazuli_cuda_emulated PRIVATE ${sanitize})
  target_link_options(lazuli PUBLIC -fsanitize=${LAZULI_EMULATED_SANITIZE})
  list(JOIN sanitize " " sanitize)
  string(APPEND flags " ${sanitize}")
endif()
set_source_files_properties(src/backend/cuda/emulation/jit.cpp PROPERTIES COMPILE_DEFINITIONS
  "LAZULI_EMULATED_COMPILER=\"${CMAKE_CXX_COMPILER}\";LAZULI_EMULATED_SOURCE=\"${source}\";LAZULI_EMULATED_FLAGS=\"${flags}\"")
target_link_options(lazuli PUBLIC -rdynamic)  # they use the machine of the program

target_compile_definitions(lazuli_cuda_emulated PRIVATE LAZULI_CUDA=1 LAZULI_EMULATED=1)
target_include_directories(lazuli_cuda_emulated PRIVATE src/backend/cuda/emulation/include include src
  ${CMAKE_CURRENT_BINARY_DIR}/generated)
target_compile_options(lazuli_cuda_emulated PRIVATE -Wall -Wextra -Wno-unused-parameter)
target_link_libraries(lazuli_cuda_emulated PRIVATE fmt::fmt)
set_target_properties(lazuli_cuda_emulated PROPERTIES POSITION_INDEPENDENT_CODE ${BUILD_SHARED_LIBS})

target_sources(lazuli PRIVATE $<TARGET_OBJECTS:lazuli_cuda_emulated>)
set_source_files_properties(src/backend/backends.cpp PROPERTIES COMPILE_DEFINITIONS LAZULI_CUDA=1)
list(REMOVE_ITEM all ${sources})
lazuli_write_families(cuda ${all})
