voronoi_add_bench(bench_kmeans QUICK "n:28672" LIBRARIES voronoi_quant)
voronoi_add_bench(bench_forward QUICK "_block/1" LIBRARIES voronoi_model)

# The GPU's figures (tests/gpu/run). It needs none of the packages that the other benchmarks do, so that a bundle stays small; ctest runs
# every part of it at sizes of a moment, on the CPU's kernels and on the emulated device.
add_executable(bench_gpu)
file(GLOB bench_gpu_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/bench/bench_gpu*.cpp)
target_sources(bench_gpu PRIVATE ${bench_gpu_sources})
target_include_directories(bench_gpu PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(bench_gpu PRIVATE voronoi_jobs voronoi_options)
add_test(NAME bench.gpu_on_cpu COMMAND bench_gpu --tiny --device cpu --out ${CMAKE_CURRENT_BINARY_DIR}/bench_gpu_on_cpu)
set_tests_properties(bench.gpu_on_cpu PROPERTIES LABELS bench TIMEOUT 120)

# The coordinator's cost; tests/bench/many_layers runs it, and the program on a model of 10,000 tasks.
add_executable(bench_scheduler ${CMAKE_CURRENT_SOURCE_DIR}/bench/bench_scheduler.cpp)
target_link_libraries(bench_scheduler PRIVATE voronoi_sched voronoi_store voronoi_options)

# How long a stop may wait in the middle of a task; tests/bench/stop_time measures a whole run.
add_executable(bench_stop ${CMAKE_CURRENT_SOURCE_DIR}/bench/bench_stop.cpp)
target_link_libraries(bench_stop PRIVATE voronoi_quant voronoi_options)
add_test(NAME bench.stop COMMAND bench_stop vptq 64 128)
set_tests_properties(bench.stop PROPERTIES LABELS bench TIMEOUT 60)
