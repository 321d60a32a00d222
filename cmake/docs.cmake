# `docs`: the reference of the public headers, by Doxygen, in build/docs/html.
find_package(Doxygen OPTIONAL_COMPONENTS dot)
if(DOXYGEN_FOUND)
  set(LAZULI_DOCS ${PROJECT_SOURCE_DIR}/build/docs)
  if(TARGET Doxygen::dot)
    set(LAZULI_HAVE_DOT YES)
  else()
    set(LAZULI_HAVE_DOT NO)
  endif()
  configure_file(docs/Doxyfile.in Doxyfile @ONLY)
  add_custom_target(docs
    COMMAND ${CMAKE_COMMAND} -E make_directory ${LAZULI_DOCS}
    COMMAND Doxygen::doxygen ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile
    COMMAND ${CMAKE_COMMAND} -E echo "Open ${LAZULI_DOCS}/html/index.html"
    VERBATIM)
endif()
