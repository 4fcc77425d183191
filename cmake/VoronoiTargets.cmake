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
# A build with sanitizers takes half of the time without optimisation; the rooms that compute most would take it back in their tests.
set(voronoi_computing_rooms core kernels model planning quant sched)
if(VORONOI_SANITIZE)
  target_compile_options(voronoi_options INTERFACE -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(voronoi_options INTERFACE -fsanitize=${sanitizers})
  # Forty programs of a hundred megabytes: the default linker takes five times as long.
  find_program(VORONOI_LLD ld.lld)
  if(VORONOI_LLD)
    target_link_options(voronoi_options INTERFACE -fuse-ld=lld)
  endif()
endif()
# Rooms without arithmetic over arrays: a third of a release build's time would go into optimising them further.
set(voronoi_ordering_rooms comm export jobs planning run sched stages store validation)
# Rooms that read files which somebody else may have written. They tell the fuzzer which code an input reaches, also in the unit tests, which
# share them; in those that compute this would cost more than the sanitizers.
set(voronoi_fuzzed_rooms core format model export store run validation)
if(VORONOI_FUZZ STREQUAL "OPTIMISED")
  set(voronoi_fuzzed_options -O2)
endif()

# What is compiled several files at a time, in half of the time, since their headers cost more than they do: OFF, tests (eight at a time), all
# (whole rooms as well, for who only wants the program or a build with sanitizers: of four parts of a room each would compile again what is in
# its headers). Files of one room have no names of their own in common for it.
set(VORONOI_UNITY OFF CACHE STRING "Files compiled together: OFF, tests, all")
set_property(CACHE VORONOI_UNITY PROPERTY STRINGS OFF tests all)
if(NOT VORONOI_UNITY MATCHES "^(OFF|tests|all)$")
  message(FATAL_ERROR "VORONOI_UNITY is '${VORONOI_UNITY}'; it may be OFF, tests or all")
endif()
# voronoi_compile_together(TARGET KIND): KIND is tests or rooms.
function(voronoi_compile_together target kind)
  if(VORONOI_UNITY STREQUAL "all" OR VORONOI_UNITY STREQUAL kind)
    set(at_a_time 8)
    if(VORONOI_UNITY STREQUAL "all")
      set(at_a_time 0)
    endif()
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${at_a_time})
    # It takes types of the included files' unnamed namespaces for types of a header.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
endfunction()

# Where whole rooms are compiled together, what most of them and all tests read of other libraries is compiled once: in each of forty programs of
# tests it would take four seconds.
# voronoi_headers(KIND [LIBRARIES ...] [HEADERS ...]), once, then voronoi_share_headers(TARGET KIND) for targets of the same options.
function(voronoi_headers kind)
  cmake_parse_arguments(KIND "" "" "LIBRARIES;HEADERS" ${ARGN})
  if(VORONOI_UNITY STREQUAL "all")
    set(source ${PROJECT_BINARY_DIR}/headers/${kind}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "// What is compiled is the header.\n")
    add_library(headers_of_${kind} OBJECT ${source})
    target_link_libraries(headers_of_${kind} PRIVATE ${KIND_LIBRARIES} voronoi_options)
    target_precompile_headers(headers_of_${kind} PRIVATE ${KIND_HEADERS})
  endif()
endfunction()
function(voronoi_share_headers target kind)
  if(VORONOI_UNITY STREQUAL "all")
    target_precompile_headers(${target} REUSE_FROM headers_of_${kind})
  endif()
endfunction()

# voronoi_add_room(NAME LIBRARIES ...): every source of the current folder's NAME/ as a static library. LIBRARIES is the room's
# row in the table of arrows (docs/architecture.md); a test links its room alone, so a stray use fails to link.
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
  if(NOT name STREQUAL "kernels")  # its files are few, long, and full of names of their own
    voronoi_compile_together(voronoi_${name} rooms)
  endif()
  if(VORONOI_SANITIZE AND name IN_LIST voronoi_computing_rooms)
    target_compile_options(voronoi_${name} PRIVATE -O1)
  endif()
  if(NOT VORONOI_SANITIZE AND name IN_LIST voronoi_ordering_rooms)
    target_compile_options(voronoi_${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  if(VORONOI_FUZZ AND name IN_LIST voronoi_fuzzed_rooms)
    target_compile_options(voronoi_${name} PRIVATE -fsanitize=fuzzer-no-link ${voronoi_fuzzed_options})
  endif()
  # core and kernels are linked into the modules as well.
  set_target_properties(voronoi_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_compile_options(voronoi_${name} PRIVATE -fno-semantic-interposition)
endfunction()

# voronoi_embed_json(TARGET TEMPLATE FOLDER): FOLDER/*.json become part of the target: @VORONOI_JSON_FILES@ of TEMPLATE (NAME.cpp.in), a list of
# {"name", "text"}.
function(voronoi_embed_json target template folder)
  file(GLOB files CONFIGURE_DEPENDS ${folder}/*.json)
  set(VORONOI_JSON_FILES "")
  foreach(file IN LISTS files)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    cmake_path(GET file STEM LAST_ONLY name)
    file(READ ${file} json)
    string(APPEND VORONOI_JSON_FILES "      {\"${name}\", R\"json(${json})json\"},\n")
  endforeach()
  cmake_path(GET template STEM LAST_ONLY source)
  configure_file(${template} ${source} @ONLY)
  target_sources(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${source})
endfunction()
