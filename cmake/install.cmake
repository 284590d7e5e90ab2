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
