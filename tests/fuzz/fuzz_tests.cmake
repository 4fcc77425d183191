# Fuzz targets: readers of files that somebody else may have written. The preset `asan` builds them beside the unit tests; in other builds
# the tests below run every target for a fixed number of executions from its corpus.
file(GLOB fuzz_targets CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR}/fuzz ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz_*.cpp)
list(TRANSFORM fuzz_targets REPLACE "^fuzz_(.*)\\.cpp$" "\\1")

if(VORONOI_FUZZ)
  add_custom_target(fuzz)
  foreach(name IN LISTS fuzz_targets)
    add_executable(fuzz_${name} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz_${name}.cpp)
    target_include_directories(fuzz_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer-no-link)
    target_link_libraries(fuzz_${name} PRIVATE voronoi_validation voronoi_options -fsanitize=fuzzer)
    add_dependencies(fuzz fuzz_${name})
  endforeach()
else()
  # A fixed seed and a fixed number of executions: the same work everywhere.
  set(run ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/run)
  foreach(name IN LISTS fuzz_targets)
    add_test(NAME fuzz.${name} COMMAND ${run} --no-build --target ${name} --executions 3000 --seed 1)
    set_tests_properties(fuzz.${name} PROPERTIES FIXTURES_REQUIRED asan TIMEOUT 300)
    list(APPEND names fuzz.${name})
  endforeach()
  set_tests_properties(${names} PROPERTIES LABELS fuzz SKIP_RETURN_CODE 77)
endif()
