// A stand-in for the CUDA toolkit's header of this name: what rs4d_edge/native/tensorrt_launch.cu uses, and no more.
#ifndef RS4D_TESTS_CUDA_RUNTIME_STAND_IN
#define RS4D_TESTS_CUDA_RUNTIME_STAND_IN

#include <cstddef>

struct CUstream_st;
using cudaStream_t = CUstream_st*;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};

enum cudaError_t { cudaSuccess = 0 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

extern "C" {
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t stream);
const char* cudaGetErrorString(cudaError_t error);
}

#endif
