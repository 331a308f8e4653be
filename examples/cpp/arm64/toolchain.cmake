# 64-bit ARM Linux by Debian's cross compiler; TOOLS is the folder that ../install_tools.sh was given.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TOOLS)

# Libraries are this architecture's only; headers without code are the build machine's.
get_filename_component(ARM64_ROOT "${TOOLS}/arm64" ABSOLUTE BASE_DIR "$ENV{PWD}")
set(CMAKE_FIND_ROOT_PATH ${ARM64_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(OPENSSL_USE_STATIC_LIBS ON)
set(OPENSSL_INCLUDE_DIR ${ARM64_ROOT}/usr/include CACHE PATH "")
set(CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES ${ARM64_ROOT}/usr/include/aarch64-linux-gnu)
# libcrypto.a starts threads.
set(CMAKE_EXE_LINKER_FLAGS_INIT -pthread)
