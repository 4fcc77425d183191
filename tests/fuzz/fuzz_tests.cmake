# Fuzz targets: readers of files that somebody else may have written. The preset `fuzz` builds them; in other builds the tests below
# build that preset and run every target for a fixed number of executions from its corpus.
file(GLOB fuzz_targets CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR}/fuzz ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz_*.cpp)
list(TRANSFORM fuzz_targets REPLACE "^fuzz_(.*)\\.cpp$" "\\1")

if(VORONOI_FUZZ)
  # Only what the targets use, in one library, so that it is built in a minute or two: no forward pass, no quantizers, no kernels but decoding.
  set(src ${PROJECT_SOURCE_DIR}/src)
  file(GLOB sources CONFIGURE_DEPENDS ${src}/core/*.cpp ${src}/model/*.cpp ${src}/store/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/model/(transformer.*|generator|block_prefetcher|linear_weight)\\.cpp$")
  foreach(name quant/encoding quant/encoding_arrays quant/footprint quant/vq/layout
               export/checkpoint export/layer_format export/manifest export/profile)
    list(APPEND sources ${src}/${name}.cpp)
  endforeach()
  list(APPEND sources ${PROJECT_SOURCE_DIR}/src/run/run_state.cpp ${PROJECT_SOURCE_DIR}/kernels/cpu/dequant.cpp ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/kernel_table.cpp)
  add_library(voronoi_fuzzed STATIC ${sources})
  target_include_directories(voronoi_fuzzed PUBLIC ${src} ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(voronoi_fuzzed PUBLIC -fsanitize=fuzzer-no-link)
  target_link_libraries(voronoi_fuzzed PUBLIC voronoi_options nlohmann_json::nlohmann_json fmt::fmt spdlog::spdlog OpenSSL::Crypto Threads::Threads
                        PkgConfig::PCRE2 PkgConfig::SENTENCEPIECE PkgConfig::UTF8PROC hdf5::hdf5)
  add_custom_target(fuzz)
  foreach(name IN LISTS fuzz_targets)
    add_executable(fuzz_${name} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz_${name}.cpp)
    target_link_libraries(fuzz_${name} PRIVATE voronoi_fuzzed -fsanitize=fuzzer)
    add_dependencies(fuzz fuzz_${name})
  endforeach()
else()
  # A fixed seed and a fixed number of executions: the same work everywhere.
  set(run ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/run)
  add_test(NAME fuzz.build COMMAND ${run} --build-only)
  set_tests_properties(fuzz.build PROPERTIES FIXTURES_SETUP fuzz TIMEOUT 1200 PROCESSORS 2)
  set(names fuzz.build)
  foreach(name IN LISTS fuzz_targets)
    add_test(NAME fuzz.${name} COMMAND ${run} --no-build --target ${name} --executions 3000 --seed 1)
    set_tests_properties(fuzz.${name} PROPERTIES FIXTURES_REQUIRED fuzz TIMEOUT 300)
    list(APPEND names fuzz.${name})
  endforeach()
  set_tests_properties(${names} PROPERTIES LABELS fuzz SKIP_RETURN_CODE 77)
endif()
