# LAZULI_VERSION, from include/lazuli/version.h.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/../include/lazuli/version.h lines
     REGEX "^#define LAZULI_VERSION_(MAJOR|MINOR|PATCH) [0-9]+$")
list(TRANSFORM lines REPLACE "^.* " "")
list(JOIN lines "." LAZULI_VERSION)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             ${CMAKE_CURRENT_LIST_DIR}/../include/lazuli/version.h)
