# The test `package`: installs Lazuli below the build folder, builds this folder's programs against it
# through find_package and through pkg-config, and runs them.
if(NOT CMAKE_CROSSCOMPILING AND NOT LAZULI_SANITIZE)
  add_test(NAME package
    COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DSOURCE=${CMAKE_CURRENT_LIST_DIR}
            -DGENERATOR=${CMAKE_GENERATOR} -DCXX=${CMAKE_CXX_COMPILER} -P ${CMAKE_CURRENT_LIST_DIR}/check.cmake)
  set_tests_properties(package PROPERTIES TIMEOUT 600)
endif()
