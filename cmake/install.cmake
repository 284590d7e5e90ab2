# `cmake --install build/release --prefix DIR`: bin/ with the programs and lib/ with the part of torch that they need,
# found beside them; other libraries are the system's. The CUDA plugin stays out: without torch's own CUDA libraries
# it could not be loaded.
set(_programs bflow bflow-server bflow-train)
set_target_properties(${_programs} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
install(TARGETS ${_programs} RUNTIME DESTINATION bin)
file(GLOB _libraries
  ${BFLOW_TORCH_ROOT}/lib/libgomp*.so*
  ${BFLOW_TORCH_ROOT}/../nvidia/*/lib/libcudart.so.*  # libtorch_cpu is linked to these two
  ${BFLOW_TORCH_ROOT}/../nvidia/*/lib/libcupti.so.*)
install(FILES ${BFLOW_TORCH_ROOT}/lib/libc10.so ${BFLOW_TORCH_ROOT}/lib/libtorch_cpu.so ${_libraries}
  DESTINATION lib PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
install(FILES LICENSE NOTICE DESTINATION share/doc/butterflyflow)
# The importer of the reference's checkpoints, which finds bin/bflow-train from where it lies: docs/import.md. Alone
# with --component importer.
set(_importer share/butterflyflow/import_reference)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/import_reference/VERSION CONTENT "@PROJECT_VERSION@\n" @ONLY)
install(PROGRAMS model/checkpoint/import_reference.py DESTINATION ${_importer} COMPONENT importer)
install(FILES ${CMAKE_BINARY_DIR}/import_reference/VERSION DESTINATION ${_importer} COMPONENT importer)
install(DIRECTORY model/checkpoint/reference_import DESTINATION ${_importer} COMPONENT importer
  FILES_MATCHING PATTERN "*.py" PATTERN __pycache__ EXCLUDE)
