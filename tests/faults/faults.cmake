# Real processes on a disk that fails: each group in a file of its own.
add_library(faulty_disk MODULE ${CMAKE_CURRENT_SOURCE_DIR}/faults/faulty_disk.cpp)
target_link_libraries(faulty_disk PRIVATE voronoi_options ${CMAKE_DL_LIBS})
include(${CMAKE_CURRENT_SOURCE_DIR}/faults/crash_tests.cmake)
include(${CMAKE_CURRENT_SOURCE_DIR}/faults/storage_tests.cmake)
include(${CMAKE_CURRENT_SOURCE_DIR}/faults/numeric_tests.cmake)
