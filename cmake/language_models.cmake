# lazuli::lm: tokenizers and language models, a library of its own on top of lazuli::lazuli.
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

file(GLOB_RECURSE LAZULI_LM_SOURCES CONFIGURE_DEPENDS src/lm/*.cpp)
add_library(lazuli_lm ${LAZULI_LM_SOURCES})
add_library(lazuli::lm ALIAS lazuli_lm)
set_target_properties(lazuli_lm PROPERTIES EXPORT_NAME lm)
target_include_directories(lazuli_lm PRIVATE src)
target_link_libraries(lazuli_lm PUBLIC lazuli
  PRIVATE fmt::fmt PkgConfig::PCRE2 PkgConfig::UTF8PROC
          $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
target_compile_options(lazuli_lm PRIVATE -Wall -Wextra -Wno-unused-parameter)
if(LAZULI_SIMD_TARGETS STREQUAL "native")
  target_compile_options(lazuli_lm PRIVATE -march=native)
endif()
