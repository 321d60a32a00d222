# cmake -DBUILD=... -DSOURCE=... -DGENERATOR=... -DCXX=... -P check.cmake: see register.cmake.
set(work ${BUILD}/package)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
function(expect_line program)
  execute_process(COMMAND ${program} OUTPUT_VARIABLE printed COMMAND_ERROR_IS_FATAL ANY)
  message(STATUS "${program} printed:\n${printed}")
  if(NOT printed MATCHES "all is well\n$")
    message(FATAL_ERROR "${program} did not end with 'all is well'")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${work}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${work}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
    -DCMAKE_PREFIX_PATH=${work}/prefix)
run(${CMAKE_COMMAND} --build ${work}/build)
expect_line(${work}/build/lazuli_program)
expect_line(${work}/build/mlx_program)
expect_line(${work}/build/lm_program)

find_program(PKG_CONFIG pkg-config)
if(PKG_CONFIG)
  file(GLOB_RECURSE pc ${work}/prefix/*/lazuli-mlx.pc)
  get_filename_component(folder ${pc} DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  run(sh -c "${CXX} -o ${work}/by_pkg_config ${SOURCE}/lazuli_program.cpp \
             $(pkg-config --define-variable=prefix=${work}/prefix --cflags --libs lazuli)")
  expect_line(${work}/by_pkg_config)
  run(sh -c "${CXX} -std=c++20 -o ${work}/lm_by_pkg_config ${SOURCE}/lm_program.cpp \
             $(pkg-config --define-variable=prefix=${work}/prefix --cflags --libs lazuli-lm)")
  expect_line(${work}/lm_by_pkg_config)
endif()
