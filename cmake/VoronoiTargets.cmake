# Warnings, sanitizers, and the functions that make a room and its tests.
add_library(voronoi_options INTERFACE)
# No fused multiply-adds by the compiler's choice: decoded weights and sums must not depend on the machine.
target_compile_options(voronoi_options INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual)
if(VORONOI_WERROR)
  target_compile_options(voronoi_options INTERFACE -Werror)
endif()
if(VORONOI_SANITIZE STREQUAL "address")
  set(sanitizers address,undefined)
elseif(VORONOI_SANITIZE STREQUAL "thread")
  set(sanitizers thread)
elseif(VORONOI_SANITIZE)
  message(FATAL_ERROR "VORONOI_SANITIZE is '${VORONOI_SANITIZE}'; it may be OFF, address or thread")
endif()
if(VORONOI_SANITIZE)
  target_compile_options(voronoi_options INTERFACE -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(voronoi_options INTERFACE -fsanitize=${sanitizers})
endif()
if(VORONOI_FUZZ)  # every room tells the fuzzer which code an input reaches, so that fuzz targets and unit tests share them
  target_compile_options(voronoi_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# voronoi_add_room(NAME LIBRARIES ...): every source of the current folder's NAME/ as a static library. LIBRARIES is the room's
# row in the table of arrows (docs/architecture.md); a test links its room alone, so a stray use fails to link.
# With CMAKE_UNITY_BUILD, for who only wants the program (jobs/quickstart), the files of a room are compiled together where no two of them
# have names of their own in common; their headers cost more than they do.
set(voronoi_rooms_in_unity calib run sched validation jobs)
function(voronoi_add_room name)
  cmake_parse_arguments(ROOM "" "FOLDER" "LIBRARIES" ${ARGN})
  if(NOT ROOM_FOLDER)
    set(ROOM_FOLDER ${CMAKE_CURRENT_SOURCE_DIR}/${name})
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${ROOM_FOLDER}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  add_library(voronoi_${name} STATIC ${sources})
  target_include_directories(voronoi_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  target_link_libraries(voronoi_${name} PUBLIC ${ROOM_LIBRARIES} PRIVATE voronoi_options)
  if(NOT name IN_LIST voronoi_rooms_in_unity)
    set_target_properties(voronoi_${name} PROPERTIES UNITY_BUILD OFF)
  endif()
  # core and kernels are linked into the modules as well.
  set_target_properties(voronoi_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_compile_options(voronoi_${name} PRIVATE -fno-semantic-interposition)
endfunction()
