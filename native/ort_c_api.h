// The slots of ONNX Runtime's C API that this addon calls, at their published positions. The npm package ships the library
// without its header, and OrtApi is a table of function pointers that only ever grows (its authors assert the offsets of each
// past version), so a table of our own that names the slots we use works with every library from API version 5 on.
// Source: include/onnxruntime/core/session/onnxruntime_c_api.h of microsoft/onnxruntime (MIT), order cross-checked with
// csharp/src/Microsoft.ML.OnnxRuntime/NativeMethods.shared.cs; test/unit/runtime runs each of them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace halftone::ort {

struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct Value;
struct TypeInfo;
struct TensorInfo;
struct MemoryInfo;
struct Allocator;
struct ThreadingOptions;

// ONNXTensorElementDataType: the same numbers as ONNX's TensorProto.DataType.
enum ElementType : int {
  kUndefined = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kUint16 = 4, kInt16 = 5, kInt32 = 6, kInt64 = 7, kString = 8, kBool = 9,
  kFloat16 = 10, kDouble = 11, kUint32 = 12, kUint64 = 13,
};
constexpr int kLogFatal = 4;         // OrtLoggingLevel
constexpr int kSequential = 0;       // ExecutionMode
constexpr int kArenaAllocator = 1;   // OrtAllocatorType
constexpr int kMemTypeDefault = 0;   // OrtMemType
constexpr uint32_t kApiVersion = 5;  // the version whose slots we use; newer libraries give the same prefix

template <size_t N>
using Unused = void* [N];

struct Api {
  Unused<2> u0;
  const char* (*GetErrorMessage)(const Status*);                                               // 2
  Status* (*CreateEnv)(int level, const char* logId, Env** out);                               // 3
  Unused<2> u4;
  Status* (*DisableTelemetryEvents)(const Env*);                                               // 6
  Status* (*CreateSession)(const Env*, const char* path, const SessionOptions*, Session** out);  // 7
  Status* (*CreateSessionFromArray)(const Env*, const void*, size_t, const SessionOptions*, Session** out);  // 8
  Status* (*Run)(Session*, const RunOptions*, const char* const* inputNames, const Value* const* inputs, size_t inputCount,
                 const char* const* outputNames, size_t outputCount, Value** outputs);         // 9
  Status* (*CreateSessionOptions)(SessionOptions** out);                                       // 10
  Status* (*SetOptimizedModelFilePath)(SessionOptions*, const char* path);                     // 11
  Unused<1> u12;
  Status* (*SetSessionExecutionMode)(SessionOptions*, int mode);                               // 13
  Status* (*EnableProfiling)(SessionOptions*, const char* prefix);                             // 14
  Unused<8> u15;
  Status* (*SetSessionGraphOptimizationLevel)(SessionOptions*, int level);                     // 23
  Status* (*SetIntraOpNumThreads)(SessionOptions*, int);                                       // 24
  Status* (*SetInterOpNumThreads)(SessionOptions*, int);                                       // 25
  Unused<4> u26;
  Status* (*SessionGetInputCount)(const Session*, size_t* out);                                // 30
  Status* (*SessionGetOutputCount)(const Session*, size_t* out);                               // 31
  Unused<1> u32;
  Status* (*SessionGetInputTypeInfo)(const Session*, size_t index, TypeInfo** out);            // 33
  Status* (*SessionGetOutputTypeInfo)(const Session*, size_t index, TypeInfo** out);           // 34
  Unused<1> u35;
  Status* (*SessionGetInputName)(const Session*, size_t index, Allocator*, char** out);        // 36
  Status* (*SessionGetOutputName)(const Session*, size_t index, Allocator*, char** out);       // 37
  Unused<11> u38;
  Status* (*CreateTensorWithDataAsOrtValue)(const MemoryInfo*, void* data, size_t bytes, const int64_t* shape, size_t rank, int type,
                                            Value** out);                                      // 49
  Status* (*IsTensor)(const Value*, int* out);                                                 // 50
  Status* (*GetTensorMutableData)(Value*, void** out);                                         // 51
  Unused<3> u52;
  Status* (*CastTypeInfoToTensorInfo)(const TypeInfo*, const TensorInfo** out);                // 55: null when it is no tensor
  Unused<4> u56;
  Status* (*GetTensorElementType)(const TensorInfo*, int* out);                                // 60
  Status* (*GetDimensionsCount)(const TensorInfo*, size_t* out);                               // 61
  Status* (*GetDimensions)(const TensorInfo*, int64_t* dims, size_t rank);                     // 62
  Status* (*GetSymbolicDimensions)(const TensorInfo*, const char** names, size_t rank);        // 63
  Status* (*GetTensorShapeElementCount)(const TensorInfo*, size_t* out);                       // 64
  Status* (*GetTensorTypeAndShape)(const Value*, TensorInfo** out);                            // 65
  Unused<3> u66;
  Status* (*CreateCpuMemoryInfo)(int allocatorType, int memType, MemoryInfo** out);            // 69
  Unused<6> u70;
  Status* (*AllocatorFree)(Allocator*, void*);                                                 // 76
  Unused<1> u77;
  Status* (*GetAllocatorWithDefaultOptions)(Allocator** out);                                  // 78
  Unused<14> u79;
  void (*ReleaseStatus)(Status*);                                                              // 93
  Unused<1> u94;
  void (*ReleaseSession)(Session*);                                                            // 95
  void (*ReleaseValue)(Value*);                                                                // 96
  Unused<1> u97;
  void (*ReleaseTypeInfo)(TypeInfo*);                                                          // 98
  void (*ReleaseTensorInfo)(TensorInfo*);                                                      // 99
  void (*ReleaseSessionOptions)(SessionOptions*);                                              // 100
  Unused<9> u101;
  Status* (*SessionEndProfiling)(Session*, Allocator*, char** out);                            // 110
  Unused<8> u111;
  Status* (*CreateEnvWithGlobalThreadPools)(int level, const char* logId, const ThreadingOptions*, Env** out);  // 119
  Status* (*DisablePerSessionThreads)(SessionOptions*);                                        // 120
  Status* (*CreateThreadingOptions)(ThreadingOptions** out);                                   // 121
  void (*ReleaseThreadingOptions)(ThreadingOptions*);                                          // 122
  Unused<7> u123;
  Status* (*AddSessionConfigEntry)(SessionOptions*, const char* key, const char* value);       // 130
  Unused<16> u131;
  Status* (*SetGlobalIntraOpNumThreads)(ThreadingOptions*, int);                               // 147
  Status* (*SetGlobalInterOpNumThreads)(ThreadingOptions*, int);                               // 148
};

struct ApiBase {
  const Api* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

#define HALFTONE_SLOT(name, position) static_assert(offsetof(Api, name) == (position) * sizeof(void*), #name " is not at its slot")
HALFTONE_SLOT(Run, 9);
HALFTONE_SLOT(EnableProfiling, 14);
HALFTONE_SLOT(SetInterOpNumThreads, 25);
HALFTONE_SLOT(SessionGetOutputCount, 31);
HALFTONE_SLOT(SessionGetOutputTypeInfo, 34);
HALFTONE_SLOT(SessionGetOutputName, 37);
HALFTONE_SLOT(GetTensorMutableData, 51);
HALFTONE_SLOT(CastTypeInfoToTensorInfo, 55);
HALFTONE_SLOT(GetTensorTypeAndShape, 65);
HALFTONE_SLOT(CreateCpuMemoryInfo, 69);
HALFTONE_SLOT(GetAllocatorWithDefaultOptions, 78);
HALFTONE_SLOT(ReleaseSessionOptions, 100);
HALFTONE_SLOT(SessionEndProfiling, 110);
HALFTONE_SLOT(CreateEnvWithGlobalThreadPools, 119);
HALFTONE_SLOT(AddSessionConfigEntry, 130);
HALFTONE_SLOT(SetGlobalInterOpNumThreads, 148);
#undef HALFTONE_SLOT

}  // namespace halftone::ort
