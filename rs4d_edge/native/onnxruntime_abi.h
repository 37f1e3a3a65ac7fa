// What our operators use of ONNX Runtime's C interface, declared by us: its Python package brings no headers.
//
// The interface only grows: a runtime hands out the table for any version up to its own, and a function keeps its
// position in it for ever. So positions and signatures are facts that can be stated here; the gaps stand for functions
// that we never call. From https://onnxruntime.ai/docs/api/c/struct_ort_api.html and struct_ort_custom_op.html there;
// tests/native/test_onnxruntime_abi.py compares all of it with real headers where some are installed.
//
// Members have the runtime's names. Version 17 (ONNX Runtime 1.17) is the first that has all of them: ParallelFor and
// the shape inference of custom operators came with it. A function returns nullptr, or an error that the caller
// releases.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define RS4D_ORT_CALL __stdcall
#else
#define RS4D_ORT_CALL
#endif

// Known to us by address alone. In the global namespace, as the runtime's own, so that signatures can be compared.
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

namespace rs4d::ort {

constexpr uint32_t kApiVersion = 17;
constexpr int kRuntimeMinor = 17;  // that version is ONNX Runtime 1.17's

// C enums there, as wide as int.
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };  // OrtErrorCode
enum ElementType : int { kFloat = 1 };                     // ONNXTensorElementDataType
enum Characteristic : int { kRequired = 0 };               // OrtCustomOpInputOutputCharacteristic
enum MemoryType : int { kDefaultMemory = 0 };              // OrtMemType

struct CustomOp;
using Skipped = void (*)();
using Work = void (*)(void* data, size_t index);
using Info = OrtTensorTypeAndShapeInfo;
template <typename... Arguments>
using Function = OrtStatus*(RS4D_ORT_CALL*)(Arguments...) noexcept;
template <typename Object>
using Release = void(RS4D_ORT_CALL*)(Object*);

// OrtApi up to the last function that we call. The number behind each is its position; up to 101 since version 1.
struct Api {
  Function<ErrorCode, const char*> CreateStatus;  // 0: (code, message)
  Skipped to_26[26 - 1];
  Function<const char*, OrtCustomOpDomain**> CreateCustomOpDomain;  // 26: (name, out)
  Function<OrtCustomOpDomain*, const CustomOp*> CustomOpDomain_Add;  // 27; the operator must outlive the domain
  Function<OrtSessionOptions*, OrtCustomOpDomain*> AddCustomOpDomain;  // 28; and the domain the session
  Skipped to_51[51 - 29];
  Function<OrtValue*, void**> GetTensorMutableData;  // 51
  Skipped to_57[57 - 52];
  Function<Info**> CreateTensorTypeAndShapeInfo;  // 57; the caller releases what it gets
  Function<Info*, ElementType> SetTensorElementType;  // 58
  Function<Info*, const int64_t*, size_t> SetDimensions;  // 59: (info, sizes, axes)
  Skipped to_61[61 - 60];
  Function<const Info*, size_t*> GetDimensionsCount;  // 61
  Function<const Info*, int64_t*, size_t> GetDimensions;  // 62: (info, sizes, axes); -1: not known
  Skipped to_65[65 - 63];
  Function<const OrtValue*, Info**> GetTensorTypeAndShape;  // 65; the caller releases what it gets
  Skipped to_86[86 - 66];
  Function<const OrtKernelInfo*, const char*, int64_t*> KernelInfoGetAttribute_int64;  // 86: (info, name, out)
  Skipped to_90[90 - 87];
  Function<const OrtKernelContext*, size_t, const OrtValue**> KernelContext_GetInput;  // 90: (context, index, out)
  // 91: (context, index, sizes, axes, out)
  Function<OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**> KernelContext_GetOutput;
  Skipped to_93[93 - 92];
  Release<OrtStatus> ReleaseStatus;  // 93
  Skipped to_99[99 - 94];
  Release<Info> ReleaseTensorTypeAndShapeInfo;  // 99
  Skipped to_101[101 - 100];
  Release<OrtCustomOpDomain> ReleaseCustomOpDomain;  // 101
  Skipped to_268[268 - 102];
  // 268, since 17: (context, index, out); the context keeps what it gives
  Function<const OrtShapeInferContext*, size_t, Info**> ShapeInferContext_GetInputTypeShape;
  Skipped to_270[270 - 269];
  // 270, since 17: (context, index, info)
  Function<const OrtShapeInferContext*, size_t, const Info*> ShapeInferContext_SetOutputTypeShape;
  // 271, since 17: (info, names, axes); the name "" where the size from SetDimensions holds
  Function<Info*, const char**, size_t> SetSymbolicDimensions;
  Skipped to_274[274 - 272];
  // 274, since 17: (context, work, total, batches, data) calls work(data, index) for each index in [0, total) on the
  // session's threads and returns when all have been; batches 0 leaves the cut to them
  Function<const OrtKernelContext*, Work, size_t, size_t, void*> KernelContext_ParallelFor;
};

struct ApiBase {
  const Api*(RS4D_ORT_CALL* GetApi)(uint32_t version) noexcept;  // nullptr where the runtime is older than that
  const char*(RS4D_ORT_CALL* GetVersionString)() noexcept;       // such as "1.20.1"
};

// OrtCustomOp as version 17 knows it: what a runtime calls to learn of an operator and to run it. Later versions read
// further members only where `version` says that they are there.
struct CustomOp {
  uint32_t version;
  void*(RS4D_ORT_CALL* CreateKernel)(const CustomOp* op, const Api* api, const OrtKernelInfo* info);  // see V2
  const char*(RS4D_ORT_CALL* GetName)(const CustomOp* op);
  const char*(RS4D_ORT_CALL* GetExecutionProviderType)(const CustomOp* op);  // nullptr: the CPU's
  ElementType(RS4D_ORT_CALL* GetInputType)(const CustomOp* op, size_t index);
  size_t(RS4D_ORT_CALL* GetInputTypeCount)(const CustomOp* op);
  ElementType(RS4D_ORT_CALL* GetOutputType)(const CustomOp* op, size_t index);
  size_t(RS4D_ORT_CALL* GetOutputTypeCount)(const CustomOp* op);
  void(RS4D_ORT_CALL* KernelCompute)(void* kernel, OrtKernelContext* context);  // see V2
  void(RS4D_ORT_CALL* KernelDestroy)(void* kernel);
  Characteristic(RS4D_ORT_CALL* GetInputCharacteristic)(const CustomOp* op, size_t index);   // since 8
  Characteristic(RS4D_ORT_CALL* GetOutputCharacteristic)(const CustomOp* op, size_t index);  // since 8
  MemoryType(RS4D_ORT_CALL* GetInputMemoryType)(const CustomOp* op, size_t index);           // since 13
  int(RS4D_ORT_CALL* GetVariadicInputMinArity)(const CustomOp* op);                          // since 14, as the next 3
  int(RS4D_ORT_CALL* GetVariadicInputHomogeneity)(const CustomOp* op);
  int(RS4D_ORT_CALL* GetVariadicOutputMinArity)(const CustomOp* op);
  int(RS4D_ORT_CALL* GetVariadicOutputHomogeneity)(const CustomOp* op);
  // Since 16; called in place of those without V2, which may then be nullptr.
  OrtStatus*(RS4D_ORT_CALL* CreateKernelV2)(const CustomOp* op, const Api* api, const OrtKernelInfo* info, void** out);
  OrtStatus*(RS4D_ORT_CALL* KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus*(RS4D_ORT_CALL* InferOutputShapeFn)(const CustomOp* op, OrtShapeInferContext* context);  // since 17
  int(RS4D_ORT_CALL* GetStartVersion)(const CustomOp* op);                                           // since 17
  int(RS4D_ORT_CALL* GetEndVersion)(const CustomOp* op);                                             // since 17
};

}  // namespace rs4d::ort
