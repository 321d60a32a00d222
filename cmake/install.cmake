# Installs the library for find_package(lazuli) (targets lazuli::lazuli and lazuli::mlx, with
# COMPONENTS lm also lazuli::lm) and for pkg-config (lazuli, lazuli-mlx, lazuli-lm).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The headers that let MLX C++ programs compile unchanged. They keep a folder of their own, so
# that an installed MLX is never shadowed by accident.
add_library(lazuli_mlx INTERFACE)
add_library(lazuli::mlx ALIAS lazuli_mlx)
set_target_properties(lazuli_mlx PROPERTIES EXPORT_NAME mlx)
target_link_libraries(lazuli_mlx INTERFACE lazuli)
target_include_directories(lazuli_mlx INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/compat/mlx/include>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/lazuli-mlx>)

if(BUILD_SHARED_LIBS)
  # A 0.x release may change the interface with its minor version.
  set_target_properties(lazuli lazuli_lm PROPERTIES VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/lazuli)
install(TARGETS lazuli lazuli_mlx EXPORT lazuliTargets)
install(TARGETS lazuli_lm EXPORT lazuliLmTargets)
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(DIRECTORY compat/mlx/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lazuli-mlx
        FILES_MATCHING PATTERN "*.h")
install(EXPORT lazuliTargets NAMESPACE lazuli:: DESTINATION ${package})
# A file of its own: only who asks for lm needs what lm links.
install(EXPORT lazuliLmTargets NAMESPACE lazuli:: DESTINATION ${package})
install(FILES LICENSE-MIT LICENSE-APACHE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/lazuli)

configure_package_config_file(cmake/lazuliConfig.cmake.in lazuliConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(lazuliConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/lazuliConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/lazuliConfigVersion.cmake DESTINATION ${package})

# A static library leaves its dependencies to the program that links it.
set(scope "")
if(BUILD_SHARED_LIBS)
  set(scope "_PRIVATE")
endif()
set(LAZULI_PC_REQUIRES${scope} "fmt libhwy openblas zlib")
set(LAZULI_PC_LIBS${scope} "-ldnnl -pthread ${OpenMP_CXX_FLAGS} ${LAZULI_PC_CUDA}")
set(LAZULI_PC_LM_REQUIRES${scope} "libpcre2-8 libutf8proc fmt")
foreach(name lazuli lazuli-mlx lazuli-lm)
  configure_file(cmake/${name}.pc.in ${name}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
