// Which instruction set the kernels use, chosen at run time; and the worker that runs a kernel off the main thread.
#pragma once
#include <napi.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define HALFTONE_X86 1
#define HALFTONE_AVX2 __attribute__((target("avx2,fma")))
#else
#define HALFTONE_X86 0
#endif

namespace halftone {

enum class Simd : int { kScalar = 0, kAvx2 = 1 };

/** The level in force; `setSimd` lowers it for tests. A kernel reads it once, when it starts. */
Simd SimdLevel();

/**
 * Default rounding, denormals honoured, for the life of the object. ONNX Runtime's `set_denormal_as_zero` leaves flush-to-zero
 * set on threads it was called from, which would change what an observer sees.
 */
class FloatEnvironment {
 public:
#if HALFTONE_X86
  FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FloatEnvironment() { _mm_setcsr(saved_); }

 private:
  unsigned int saved_;
#else
  FloatEnvironment() {}
#endif
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;
};

/**
 * Runs `execute` on libuv's pool and settles a promise with what `result` makes of it on the main thread. `keep` are the
 * JavaScript objects whose memory `execute` reads or writes; they stay alive until the promise is settled.
 */
class KernelWorker : public Napi::AsyncWorker {
 public:
  static Napi::Promise Queue(Napi::Env env, const std::vector<Napi::Value>& keep, std::function<void()> execute,
                             std::function<Napi::Value(Napi::Env)> result = nullptr) {
    auto* worker = new KernelWorker(env, std::move(execute), std::move(result));
    for (const auto& value : keep) worker->keep_.push_back(Napi::Persistent(value.As<Napi::Object>()));
    Napi::Promise promise = worker->deferred_.Promise();
    worker->Napi::AsyncWorker::Queue();
    return promise;
  }

 protected:
  void Execute() override {
    FloatEnvironment environment;
    execute_();
  }
  void OnOK() override { deferred_.Resolve(result_ ? result_(Env()) : Env().Undefined()); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  KernelWorker(Napi::Env env, std::function<void()> execute, std::function<Napi::Value(Napi::Env)> result)
      : Napi::AsyncWorker(env), deferred_(env), execute_(std::move(execute)), result_(std::move(result)) {}
  Napi::Promise::Deferred deferred_;
  std::function<void()> execute_;
  std::function<Napi::Value(Napi::Env)> result_;
  std::vector<Napi::ObjectReference> keep_;
};

}  // namespace halftone
