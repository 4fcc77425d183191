# What `cmake --install` lays down, relative to the prefix (the program finds its module, and slurm/program the program, by these places),
# and the packages that cpack makes of it. The CUDA module is a Debian package of its own: its libraries are NVIDIA's, not Debian's.
set(document ${PROJECT_SOURCE_DIR}/cmake/package/document)
set(voronoi_man ${PROJECT_BINARY_DIR}/package/voronoi.1.gz)
set(voronoi_completion ${PROJECT_BINARY_DIR}/package/voronoi)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/package)
add_custom_command(
  OUTPUT ${voronoi_man} ${voronoi_completion}
  COMMAND ${document} completion $<TARGET_FILE:voronoi> > ${voronoi_completion}
  COMMAND ${document} man $<TARGET_FILE:voronoi> > ${PROJECT_BINARY_DIR}/package/voronoi.1
  COMMAND gzip -9nf ${PROJECT_BINARY_DIR}/package/voronoi.1
  DEPENDS voronoi ${document} ${PROJECT_SOURCE_DIR}/cmake/package/completion.bash
  COMMENT "Man page and completion from --help"
  VERBATIM)
add_custom_target(voronoi_documents ALL DEPENDS ${voronoi_man} ${voronoi_completion})

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME voronoi)
set(CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
# Libraries outside the system's folders, as a cluster's own Open MPI, are found where they were when it was built.
set_target_properties(voronoi PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
install(TARGETS voronoi RUNTIME DESTINATION bin)
install(DIRECTORY configs DESTINATION share/voronoi)
install(DIRECTORY slurm DESTINATION share/voronoi USE_SOURCE_PERMISSIONS)
install(FILES ${voronoi_man} DESTINATION share/man/man1)
install(FILES ${voronoi_completion} DESTINATION share/bash-completion/completions)
install(FILES LICENSE DESTINATION share/doc/voronoi RENAME copyright)
if(TARGET voronoi_cuda)
  set_target_properties(voronoi_cuda PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS voronoi_cuda LIBRARY DESTINATION lib/voronoi COMPONENT cuda)
endif()

set(CPACK_GENERATOR DEB TGZ)
set(CPACK_PACKAGE_VENDOR Voronoi)
set(CPACK_PACKAGE_CONTACT "Voronoi maintainers <maintainers@voronoi.invalid>")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS ${CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS})
set(CPACK_COMPONENTS_ALL voronoi)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_VORONOI_DESCRIPTION "A model goes in (safetensors or GGUF); MPI ranks calibrate and quantize it layer by layer; out come a run directory with the packed
codes, a journal from which a killed run goes on, and a checkpoint in VPTQ's public format.")
set(CPACK_DEBIAN_VORONOI_PACKAGE_NAME voronoi)
# The libraries' own packages bring no mpirun.
set(CPACK_DEBIAN_VORONOI_PACKAGE_DEPENDS openmpi-bin)
set(CPACK_DEBIAN_VORONOI_PACKAGE_SUGGESTS "bash-completion, slurm-client")
if(TARGET voronoi_cuda)
  list(APPEND CPACK_COMPONENTS_ALL cuda)
  set(CPACK_DEBIAN_CUDA_DESCRIPTION "The CUDA module of voronoi, for GPUs of compute capability 8.0 and up. It needs cuBLAS and cuSOLVER of CUDA ${CUDAToolkit_VERSION_MAJOR}.")
  set(CPACK_DEBIAN_CUDA_PACKAGE_NAME voronoi-cuda)
  set(CPACK_DEBIAN_CUDA_PACKAGE_DEPENDS "voronoi (= ${PROJECT_VERSION})")
endif()
include(CPack)
