# What is installed and packaged (cmake/VoronoiInstall.cmake). The build's own programs are laid down; nothing is built here.
add_test(NAME package.spack COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/spack_recipe.py
         ${PROJECT_SOURCE_DIR}/cmake/package/spack/package.py ${PROJECT_SOURCE_DIR}/cmake/VoronoiDependencies.cmake)
set_tests_properties(package.spack PROPERTIES LABELS package TIMEOUT 60)
if(VORONOI_SANITIZE)  # installs nothing
  return()
endif()
foreach(name install deb definition)
  add_test(NAME package.${name} COMMAND ${CMAKE_CURRENT_LIST_DIR}/${name}.sh)
  set_tests_properties(package.${name} PROPERTIES LABELS package TIMEOUT 900 COST 900 SKIP_RETURN_CODE 77
    ENVIRONMENT "BUILD=${PROJECT_BINARY_DIR};ROOT=${PROJECT_SOURCE_DIR};EMULATED_CUDA=${emulated_module}")
endforeach()
# They share the packages that apt has fetched.
set_tests_properties(package.deb package.definition PROPERTIES RESOURCE_LOCK package_chroot)
