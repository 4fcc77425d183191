# The CUDA twins against their CPU twins (tests/gpu): on a GPU, where there is one, and on the emulator. The emulated module is the
# same device code compiled as C++ (tests/emulation/emulator.h), so it needs neither a toolkit nor a GPU.
if(VORONOI_SANITIZE)
  message(STATUS "tests of the CUDA twins: left out, the emulator's fibers and the address sanitizer do not go together")
  return()
endif()
file(GLOB emulation_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/emulation/*.cpp)
list(FILTER emulation_sources EXCLUDE REGEX "_test\\.cpp$")
set(emulated_cuda ${VORONOI_CUDA_SOURCES})
list(FILTER emulated_cuda EXCLUDE REGEX "/(blas|sort)\\.cu$")
set_source_files_properties(${emulated_cuda} PROPERTIES LANGUAGE CXX)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")  # its fused multiply-adds are calls of the C library otherwise
  set_source_files_properties(${PROJECT_SOURCE_DIR}/kernels/cuda/gemm_chain.cu PROPERTIES COMPILE_OPTIONS -mfma)
endif()

# voronoi_emulated(NAME SOURCES...): compiled against the emulator's headers. What a GPU would answer with a fault ends the test: vector
# access off its alignment, indices past a fixed array.
function(voronoi_emulated name)
  target_include_directories(${name} BEFORE PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emulation)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  set(checks alignment,bounds,shift,signed-integer-overflow)
  target_compile_options(${name} PRIVATE -O2 -x c++ -Wall -Wextra -Wno-unknown-pragmas -ffp-contract=off -fvisibility=hidden
                         -fsanitize=${checks} -fno-sanitize-recover=${checks})
  if(VORONOI_WERROR)
    target_compile_options(${name} PRIVATE -Werror)
  endif()
  target_link_libraries(${name} PRIVATE voronoi_kernels ubsan)
endfunction()

add_library(voronoi_cuda_emulated MODULE ${emulated_cuda} ${emulation_sources})
voronoi_emulated(voronoi_cuda_emulated)
target_compile_definitions(voronoi_cuda_emulated PRIVATE VORONOI_NCCL)
target_link_options(voronoi_cuda_emulated PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)

add_executable(test_emulation ${CMAKE_CURRENT_SOURCE_DIR}/emulation/emulator_test.cpp ${emulation_sources}
               ${PROJECT_SOURCE_DIR}/kernels/cuda/native.cu ${PROJECT_SOURCE_DIR}/kernels/cuda/uploads.cu)
voronoi_emulated(test_emulation)
target_link_libraries(test_emulation PRIVATE GTest::gtest_main GTest::gmock)
gtest_discover_tests(test_emulation DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300 LABELS unit TEST_PREFIX emulation.)

# Every line of the benchmarks, at sizes of a moment.
add_test(NAME emulated.bench COMMAND bench_gpu --tiny --out ${CMAKE_CURRENT_BINARY_DIR}/bench_gpu_emulated)
set_tests_properties(emulated.bench PROPERTIES LABELS emulated TIMEOUT 300
                     ENVIRONMENT "VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda_emulated>")
# The script for a GPU machine.
add_test(NAME emulated.run COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/run_test.sh ${CMAKE_CURRENT_SOURCE_DIR}/gpu/run ${PROJECT_BINARY_DIR})
set_tests_properties(emulated.run PROPERTIES LABELS emulated TIMEOUT 300)

# The program itself, from calibration to perplexity. Of the small models one, and of that a block, is enough for the emulator, which
# takes half a minute for it.
foreach(name whole_run tiny_models)
  add_test(NAME emulated.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/${name}.sh)
  set_tests_properties(emulated.${name} PROPERTIES LABELS emulated TIMEOUT 1200 PROCESSORS 2 COST 900 SKIP_RETURN_CODE 77 ENVIRONMENT
    "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA};MODELS=phi3;BLOCKS=1;VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda_emulated>")
  if(VORONOI_CUDA_FOUND)
    add_test(NAME gpu.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/${name}.sh)
    set_tests_properties(gpu.${name} PROPERTIES LABELS gpu TIMEOUT 600 RESOURCE_LOCK gpu SKIP_RETURN_CODE 77 ENVIRONMENT
      "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA};VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda>")
  endif()
endforeach()

file(GLOB gpu_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/gpu/*_test.cpp)
foreach(source IN LISTS gpu_tests)
  get_filename_component(name ${source} NAME_WE)
  add_executable(gpu_${name} ${source})
  voronoi_test_code(gpu_${name})
  target_link_libraries(gpu_${name} PRIVATE voronoi_quant voronoi_calib voronoi_options GTest::gtest_main GTest::gmock)
  add_dependencies(gpu_${name} voronoi_cuda_emulated)
  add_test(NAME emulated.${name} COMMAND gpu_${name})
  set_tests_properties(emulated.${name} PROPERTIES LABELS emulated TIMEOUT 300 PROCESSORS 2 COST 300
                       ENVIRONMENT "VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda_emulated>;VORONOI_NCCL_FOUND=ON")
  if(VORONOI_CUDA_FOUND)
    add_test(NAME gpu.${name} COMMAND gpu_${name})
    set_tests_properties(gpu.${name} PROPERTIES LABELS gpu TIMEOUT 600 SKIP_REGULAR_EXPRESSION "no GPU here"
                         RESOURCE_LOCK gpu
                         ENVIRONMENT "VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda>;VORONOI_NCCL_FOUND=${VORONOI_NCCL_FOUND}")
  endif()
endforeach()

add_test(NAME emulated.distillation_test COMMAND distillation_test)
set_tests_properties(emulated.distillation_test PROPERTIES LABELS emulated TIMEOUT 300 PROCESSORS 2 COST 300 ENVIRONMENT
  "VORONOI_TEST_DEVICE=cuda;VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda_emulated>")
if(VORONOI_CUDA_FOUND)
  add_test(NAME gpu.distillation_test COMMAND distillation_test)
  set_tests_properties(gpu.distillation_test PROPERTIES LABELS gpu TIMEOUT 600 SKIP_REGULAR_EXPRESSION "no GPU here" RESOURCE_LOCK gpu
    ENVIRONMENT "VORONOI_TEST_DEVICE=cuda;VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda>")
endif()

# Without driver and GPU the real module loads, finds no device, and the program says so.
add_test(NAME house.cuda_absent COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/absent.sh)
set_tests_properties(house.cuda_absent PROPERTIES LABELS house TIMEOUT 60 SKIP_RETURN_CODE 77
  ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA}")
if(VORONOI_CUDA_FOUND)
  add_test(NAME house.cuda_module COMMAND gpu_collective_test --gtest_filter=Module.*)
  set_tests_properties(house.cuda_module PROPERTIES LABELS house TIMEOUT 60
    ENVIRONMENT "VORONOI_CUDA_MODULE=$<TARGET_FILE:voronoi_cuda>;VORONOI_NCCL_FOUND=${VORONOI_NCCL_FOUND}")
  add_test(NAME house.cuda_resources COMMAND ${CMAKE_COMMAND} "-DOBJECTS=$<TARGET_OBJECTS:voronoi_cuda>"
           -P ${CMAKE_CURRENT_SOURCE_DIR}/cuda_resources.cmake)
  set_tests_properties(house.cuda_resources PROPERTIES LABELS house)
endif()
