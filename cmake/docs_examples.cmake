# Turns the ```cpp blocks of Markdown files into tests, so that what the documentation shows compiles,
# runs and prints what it says.
#
#   lazuli_docs_examples(lazuli_tests docs/getting_started.md)
#
# The blocks under one "## heading" run one after another in one function. A block that begins with
# struct, class, template or #include goes in front of it. A line
#
#   std::cout << x;  // text
#
# is a check that x prints as `text`. Other languages and ```cpp skip are left out.
function(lazuli_docs_examples target)
  foreach(document ${ARGN})
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${document})
    file(READ ${PROJECT_SOURCE_DIR}/${document} text)
    get_filename_component(name ${document} NAME_WE)
    set(code "// Generated from ${document} by cmake/docs_examples.cmake.
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <sstream>

#include \"lazuli/lazuli.h\"

using namespace lazuli;
#define LAZULI_PRINTS(expression, text)     \\
  do {                                      \\
    std::ostringstream printed;             \\
    printed << expression;                  \\
    EXPECT_EQ(printed.str(), text);         \\
  } while (false)
")
    set(section 0)
    set(body "")
    while(TRUE)
      string(FIND "${text}" "\n## " heading)
      string(FIND "${text}" "\n```cpp\n" block)
      if(block EQUAL -1)
        break()
      elseif(NOT heading EQUAL -1 AND heading LESS block)
        _lazuli_docs_close_section()
        math(EXPR section "${section} + 1")
        math(EXPR heading "${heading} + 4")
        string(SUBSTRING "${text}" ${heading} -1 text)
      else()
        math(EXPR block "${block} + 8")
        string(SUBSTRING "${text}" ${block} -1 text)
        string(FIND "${text}" "\n```" end)
        string(SUBSTRING "${text}" 0 ${end} content)
        string(SUBSTRING "${text}" ${end} -1 text)
        string(REGEX REPLACE "std::cout << ([^\n]*);  +// ([^\n]*)" "LAZULI_PRINTS(\\1, R\"~(\\2)~\");" content "${content}")
        if(content MATCHES "^(struct|class|template|#include)")
          string(APPEND code "\n${content}\n")
        else()
          string(APPEND body "\n${content}\n")
        endif()
      endif()
    endwhile()
    _lazuli_docs_close_section()
    set(generated ${CMAKE_CURRENT_BINARY_DIR}/docs/${name}_test.cpp)
    file(CONFIGURE OUTPUT ${generated} CONTENT "${code}" @ONLY)
    target_sources(${target} PRIVATE ${generated})
  endforeach()
endfunction()

macro(_lazuli_docs_close_section)
  if(NOT body STREQUAL "")
    string(APPEND code "\nTEST(Docs, ${name}_${section}) {\n${body}}\n")
    set(body "")
  endif()
endmacro()
