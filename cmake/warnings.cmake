# Flags that every target of ours gets through bflow_warnings: warnings as errors, sanitizers, and
# the linker. Value-changing floating-point options stay off: log p must honour NaN and infinity.
add_library(bflow_warnings INTERFACE)
target_compile_options(bflow_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wvla -Walloca
  -Wimplicit-fallthrough -fno-fast-math -ffp-contract=off -fno-omit-frame-pointer>)
if(BFLOW_SANITIZE)
  target_compile_options(bflow_warnings INTERFACE
    -fsanitize=${BFLOW_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(bflow_warnings INTERFACE -fsanitize=${BFLOW_SANITIZE})
endif()
if(BFLOW_FAULTS)
  target_compile_definitions(bflow_warnings INTERFACE BFLOW_FAULTS=1)
endif()
find_program(BFLOW_CCACHE ccache)
if(BFLOW_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${BFLOW_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${BFLOW_CCACHE})
endif()
find_program(BFLOW_MOLD mold)
if(BFLOW_MOLD)
  # mold 1.10 can end the RELRO segment in a page that no segment maps, and the program does not start:
  # segments on pages of their own rule that out.
  add_link_options(-fuse-ld=mold -Wl,-z,separate-loadable-segments)
endif()
