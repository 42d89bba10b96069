// ONNX Runtime through its C API: sessions, runs whose outputs are observed where they lie, and latency loops without
// JavaScript in them. native/ort.ts validates what comes from JavaScript; here plain structs go to worker threads.
#include "ort_c_api.h"

#include <dlfcn.h>
#include <napi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "observer.h"
#include "register.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;
double Seconds(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

/** ONNX Runtime's own words: becomes an Error with `ortMessage`. */
struct OrtFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/** The library, its environment and what is shared by all sessions: one a process, never unloaded (its threads outlive us). */
struct Library {
  std::string path;
  const ort::ApiBase* base = nullptr;
  const ort::Api* api = nullptr;
  ort::Env* env = nullptr;
  ort::MemoryInfo* memory = nullptr;
  ort::Allocator* allocator = nullptr;
  bool globalThreads = false;
};
std::mutex libraryMutex;
Library library;

void Check(ort::Status* status) {
  if (status == nullptr) return;
  std::string message = library.api->GetErrorMessage(status);
  library.api->ReleaseStatus(status);
  throw OrtFailure(message);
}

/** Opens the library once a process; a second path is refused, since two runtimes would not share threads or arenas. */
const ort::ApiBase* LoadLibraryLocked(const std::string& path) {
  if (library.base != nullptr) {
    if (library.path != path) throw std::runtime_error("ONNX Runtime is loaded already from " + library.path + ", not from " + path);
    return library.base;
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    throw std::runtime_error("ONNX Runtime could not be loaded from " + path + ": " + (why ? why : "unknown error"));
  }
  auto getBase = reinterpret_cast<const ort::ApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  if (getBase == nullptr) throw std::runtime_error(path + " has no OrtGetApiBase: it is not ONNX Runtime");
  const ort::ApiBase* base = getBase();
  const ort::Api* api = base->GetApi(ort::kApiVersion);
  if (api == nullptr) throw std::runtime_error(path + " (ONNX Runtime " + base->GetVersionString() + ") does not offer the C API");
  library.path = path;
  library.base = base;
  library.api = api;
  return base;
}

/** The environment; `globalThreads` > 0 gives it one thread pool for all sessions, which only the first call can ask for. */
void EnsureEnv(const std::string& path, int globalThreads) {
  std::lock_guard<std::mutex> lock(libraryMutex);
  LoadLibraryLocked(path);
  if (library.env != nullptr) {
    if (globalThreads > 0) throw std::runtime_error("the environment exists already; its threads can be set only before");
    return;
  }
  const ort::Api* api = library.api;
  if (globalThreads > 0) {
    ort::ThreadingOptions* threading = nullptr;
    Check(api->CreateThreadingOptions(&threading));
    std::unique_ptr<ort::ThreadingOptions, void (*)(ort::ThreadingOptions*)> owner(threading, api->ReleaseThreadingOptions);
    Check(api->SetGlobalIntraOpNumThreads(threading, globalThreads));
    Check(api->SetGlobalInterOpNumThreads(threading, 1));
    Check(api->CreateEnvWithGlobalThreadPools(ort::kLogFatal, "halftone", threading, &library.env));
    library.globalThreads = true;
  } else {
    // Errors come back as a Status, so the runtime's own log would only say them twice.
    Check(api->CreateEnv(ort::kLogFatal, "halftone", &library.env));
  }
  Check(api->DisableTelemetryEvents(library.env));
  Check(api->CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemTypeDefault, &library.memory));
  Check(api->GetAllocatorWithDefaultOptions(&library.allocator));
}

struct Signature {
  std::string name;
  int type = ort::kUndefined;  // kUndefined when it is no tensor
  std::vector<int64_t> dims;
  std::vector<std::string> symbols;
};

struct Session {
  ort::Session* session = nullptr;
  std::vector<Signature> inputs, outputs;
  double loadMs = 0;
  int threads = 1;
  ~Session() {
    if (session != nullptr) library.api->ReleaseSession(session);
  }
};
using SessionPtr = std::shared_ptr<Session>;

size_t ElementSize(int type) {
  switch (type) {
    case ort::kUint8: case ort::kInt8: case ort::kBool: return 1;
    case ort::kUint16: case ort::kInt16: case ort::kFloat16: return 2;
    case ort::kFloat: case ort::kInt32: case ort::kUint32: return 4;
    case ort::kDouble: case ort::kInt64: case ort::kUint64: return 8;
    default: return 0;
  }
}

struct ValueOwner {
  ort::Value* value = nullptr;
  ValueOwner() = default;
  ValueOwner(const ValueOwner&) = delete;
  ValueOwner(ValueOwner&& other) noexcept : value(other.value) { other.value = nullptr; }
  ~ValueOwner() { Reset(); }
  void Reset() {
    if (value != nullptr) library.api->ReleaseValue(value);
    value = nullptr;
  }
};

/** What a value of a finished run is: its memory belongs to the OrtValue. */
struct View {
  int type = ort::kUndefined;
  std::vector<int64_t> dims;
  size_t count = 0;
  void* data = nullptr;
};
View ViewOf(ort::Value* value, const std::string& name) {
  const ort::Api* api = library.api;
  View view;
  int tensor = 0;
  if (value != nullptr) Check(api->IsTensor(value, &tensor));
  if (!tensor) throw std::runtime_error("output '" + name + "' is not a tensor");
  ort::TensorInfo* info = nullptr;
  Check(api->GetTensorTypeAndShape(value, &info));
  std::unique_ptr<ort::TensorInfo, void (*)(ort::TensorInfo*)> owner(info, api->ReleaseTensorInfo);
  size_t rank = 0;
  Check(api->GetTensorElementType(info, &view.type));
  Check(api->GetDimensionsCount(info, &rank));
  view.dims.resize(rank);
  if (rank > 0) Check(api->GetDimensions(info, view.dims.data(), rank));
  Check(api->GetTensorShapeElementCount(info, &view.count));
  if (ElementSize(view.type) == 0) throw std::runtime_error("output '" + name + "' has an element type that cannot be fetched");
  Check(api->GetTensorMutableData(value, &view.data));
  return view;
}

/** One feed as it comes from JavaScript. The bytes stay JavaScript's; `reference` keeps them until the run is over. */
struct Feed {
  std::string name;
  int type = 0;
  std::vector<int64_t> dims;
  uint8_t* data = nullptr;
  size_t bytes = 0;
  Napi::Reference<Napi::Value> reference;
  std::vector<uint64_t> aligned;  // a copy, when the bytes do not lie at a multiple of their element's size
};
struct Feeds {
  std::vector<Feed> feeds;
  std::vector<ValueOwner> values;
  std::vector<const char*> names;
  std::vector<const ort::Value*> pointers;
  /** Wraps the feeds as OrtValues without copying them (worker thread). */
  void Wrap() {
    static uint64_t nothing = 0;
    for (Feed& feed : feeds) {
      void* data = feed.bytes == 0 ? static_cast<void*>(&nothing) : feed.data;
      size_t size = ElementSize(feed.type);
      if (feed.bytes > 0 && reinterpret_cast<uintptr_t>(data) % size != 0) {
        feed.aligned.resize((feed.bytes + 7) / 8);
        std::memcpy(feed.aligned.data(), feed.data, feed.bytes);
        data = feed.aligned.data();
      }
      ValueOwner owner;
      Check(library.api->CreateTensorWithDataAsOrtValue(library.memory, data, feed.bytes, feed.dims.data(), feed.dims.size(), feed.type,
                                                        &owner.value));
      names.push_back(feed.name.c_str());
      pointers.push_back(owner.value);
      values.push_back(std::move(owner));
    }
  }
};

void RunSession(Session& session, Feeds& feeds, const std::vector<const char*>& outputs, std::vector<ort::Value*>& values) {
  values.assign(outputs.size(), nullptr);
  Check(library.api->Run(session.session, nullptr, feeds.names.data(), feeds.pointers.data(), feeds.names.size(), outputs.data(),
                         outputs.size(), values.data()));
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {  // zero or subnormal: mantissa · 2^-24 is exact in float32
    float value = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

template <typename T>
std::vector<float> Converted(const View& view) {
  const T* from = static_cast<const T*>(view.data);
  std::vector<float> to(view.count);
  for (size_t i = 0; i < view.count; i++) to[i] = static_cast<float>(from[i]);
  return to;
}

/** Feeds a value to its observer: float32 where it lies, other numbers converted to float32. */
void Observe(ObserverState& observer, const View& view) {
  if (view.type == ort::kFloat) {
    ObserverUpdate(observer, static_cast<const float*>(view.data), view.count, view.dims.data(), view.dims.size());
    return;
  }
  std::vector<float> x;
  switch (view.type) {
    case ort::kFloat16: {
      const uint16_t* from = static_cast<const uint16_t*>(view.data);
      x.resize(view.count);
      for (size_t i = 0; i < view.count; i++) x[i] = HalfToFloat(from[i]);
      break;
    }
    case ort::kDouble: x = Converted<double>(view); break;
    case ort::kInt8: x = Converted<int8_t>(view); break;
    case ort::kUint8: case ort::kBool: x = Converted<uint8_t>(view); break;
    case ort::kInt16: x = Converted<int16_t>(view); break;
    case ort::kUint16: x = Converted<uint16_t>(view); break;
    case ort::kInt32: x = Converted<int32_t>(view); break;
    case ort::kUint32: x = Converted<uint32_t>(view); break;
    case ort::kInt64: x = Converted<int64_t>(view); break;
    case ort::kUint64: x = Converted<uint64_t>(view); break;
    default: throw std::runtime_error("a value of this element type cannot be observed");
  }
  ObserverUpdate(observer, x.data(), view.count, view.dims.data(), view.dims.size());
}

// --- JavaScript side

/** A worker whose promise is rejected with an Error; the runtime's own message stands in `ortMessage`. */
class PromiseWorker : public Napi::AsyncWorker {
 public:
  explicit PromiseWorker(Napi::Env env) : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  virtual void Work() = 0;
  virtual Napi::Value Result(Napi::Env env) = 0;
  void Execute() override {
    try {
      Work();
    } catch (const OrtFailure& failure) {
      fromRuntime_ = true;
      SetError(failure.what());
    } catch (const std::bad_alloc&) {
      SetError("out of memory");
    } catch (const std::exception& failure) {
      SetError(failure.what());
    }
  }
  void OnOK() override {
    try {
      deferred_.Resolve(Result(Env()));
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    } catch (const std::exception& error) {
      deferred_.Reject(Napi::Error::New(Env(), error.what()).Value());
    }
  }
  void OnError(const Napi::Error& error) override {
    if (fromRuntime_) error.Value().Set("ortMessage", Napi::String::New(Env(), error.Message()));
    deferred_.Reject(error.Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  bool fromRuntime_ = false;
};

Napi::Array Dims(Napi::Env env, const std::vector<int64_t>& dims) {
  Napi::Array array = Napi::Array::New(env, dims.size());
  for (size_t i = 0; i < dims.size(); i++) array.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(dims[i])));
  return array;
}

Napi::Array Signatures(Napi::Env env, const std::vector<Signature>& signatures) {
  Napi::Array array = Napi::Array::New(env, signatures.size());
  for (size_t i = 0; i < signatures.size(); i++) {
    const Signature& from = signatures[i];
    Napi::Object to = Napi::Object::New(env);
    Napi::Array dims = Dims(env, from.dims);
    for (size_t d = 0; d < from.dims.size(); d++)
      if (from.dims[d] < 0 && !from.symbols[d].empty()) dims.Set(static_cast<uint32_t>(d), Napi::String::New(env, from.symbols[d]));
    to.Set("name", Napi::String::New(env, from.name));
    to.Set("type", Napi::Number::New(env, from.type));
    to.Set("dims", dims);
    array.Set(static_cast<uint32_t>(i), to);
  }
  return array;
}

/** The session behind a handle; throws when it was closed. */
SessionPtr Unwrap(const Napi::Value& value) {
  if (!value.IsExternal()) throw Napi::TypeError::New(value.Env(), "not a session");
  SessionPtr session = *value.As<Napi::External<SessionPtr>>().Data();
  if (!session) throw Napi::Error::New(value.Env(), "the session is closed");
  return session;
}

std::vector<std::string> Strings(const Napi::Value& value) {
  Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> strings(array.Length());
  for (uint32_t i = 0; i < strings.size(); i++) strings[i] = array.Get(i).As<Napi::String>().Utf8Value();
  return strings;
}

/** Feeds come as an array of [name, type, dims, bytes]. */
Feeds ReadFeeds(const Napi::Value& value) {
  Napi::Array array = value.As<Napi::Array>();
  Feeds feeds;
  feeds.feeds.resize(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) {
    Napi::Array entry = array.Get(i).As<Napi::Array>();
    Feed& feed = feeds.feeds[i];
    feed.name = entry.Get(0u).As<Napi::String>().Utf8Value();
    feed.type = entry.Get(1u).As<Napi::Number>().Int32Value();
    Napi::Array dims = entry.Get(2u).As<Napi::Array>();
    size_t count = 1;
    for (uint32_t d = 0; d < dims.Length(); d++) {
      feed.dims.push_back(dims.Get(d).As<Napi::Number>().Int64Value());
      count *= static_cast<size_t>(feed.dims.back());
    }
    Napi::Value bytes = entry.Get(3u);
    if (!bytes.IsTypedArray()) throw Napi::TypeError::New(value.Env(), "feed '" + feed.name + "': bytes must be a Uint8Array");
    Napi::Uint8Array view = bytes.As<Napi::Uint8Array>();
    feed.data = view.Data();
    feed.bytes = view.ByteLength();
    if (ElementSize(feed.type) == 0 || feed.bytes != count * ElementSize(feed.type))
      throw Napi::TypeError::New(value.Env(), "feed '" + feed.name + "': the bytes do not fit type and dims");
    feed.reference = Napi::Reference<Napi::Value>::New(bytes, 1);
  }
  return feeds;
}

class OpenWorker : public PromiseWorker {
 public:
  OpenWorker(Napi::Env env, const Napi::CallbackInfo& info) : PromiseWorker(env) {
    libraryPath_ = info[0].As<Napi::String>().Utf8Value();
    if (info[1].IsString()) {
      modelPath_ = info[1].As<Napi::String>().Utf8Value();
    } else {
      Napi::Uint8Array bytes = info[1].As<Napi::Uint8Array>();
      data_ = bytes.Data();
      size_ = bytes.ByteLength();
      fromBytes_ = true;
      reference_ = Napi::Reference<Napi::Value>::New(info[1], 1);
    }
    Napi::Object options = info[2].As<Napi::Object>();
    threads_ = options.Get("threads").As<Napi::Number>().Int32Value();
    level_ = options.Get("level").As<Napi::Number>().Int32Value();
    config_ = Strings(options.Get("config"));
    if (options.Get("profilePrefix").IsString()) profilePrefix_ = options.Get("profilePrefix").As<Napi::String>().Utf8Value();
    if (options.Get("optimizedModelPath").IsString())
      optimizedModelPath_ = options.Get("optimizedModelPath").As<Napi::String>().Utf8Value();
  }

 protected:
  void Work() override {
    EnsureEnv(libraryPath_, 0);
    const ort::Api* api = library.api;
    ort::SessionOptions* options = nullptr;
    Check(api->CreateSessionOptions(&options));
    std::unique_ptr<ort::SessionOptions, void (*)(ort::SessionOptions*)> owner(options, api->ReleaseSessionOptions);
    if (library.globalThreads) {
      Check(api->DisablePerSessionThreads(options));
    } else {
      Check(api->SetIntraOpNumThreads(options, threads_));
      Check(api->SetInterOpNumThreads(options, 1));
    }
    Check(api->SetSessionExecutionMode(options, ort::kSequential));
    Check(api->SetSessionGraphOptimizationLevel(options, level_));
    for (size_t i = 0; i + 1 < config_.size(); i += 2) Check(api->AddSessionConfigEntry(options, config_[i].c_str(), config_[i + 1].c_str()));
    if (!profilePrefix_.empty()) Check(api->EnableProfiling(options, profilePrefix_.c_str()));
    if (!optimizedModelPath_.empty()) Check(api->SetOptimizedModelFilePath(options, optimizedModelPath_.c_str()));

    session_ = std::make_shared<Session>();
    session_->threads = threads_;
    auto start = Clock::now();
    if (fromBytes_) {
      Check(api->CreateSessionFromArray(library.env, data_, size_, options, &session_->session));
    } else {
      Check(api->CreateSession(library.env, modelPath_.c_str(), options, &session_->session));
    }
    session_->loadMs = Seconds(start, Clock::now()) * 1e3;
    session_->inputs = Describe(true);
    session_->outputs = Describe(false);
  }
  Napi::Value Result(Napi::Env env) override {
    Napi::Object result = Napi::Object::New(env);
    result.Set("inputs", Signatures(env, session_->inputs));
    result.Set("outputs", Signatures(env, session_->outputs));
    result.Set("loadMs", Napi::Number::New(env, session_->loadMs));
    result.Set("handle", Napi::External<SessionPtr>::New(env, new SessionPtr(std::move(session_)), [](Napi::Env, SessionPtr* p) { delete p; }));
    return result;
  }

 private:
  std::vector<Signature> Describe(bool inputs) {
    const ort::Api* api = library.api;
    ort::Session* session = session_->session;
    size_t count = 0;
    Check(inputs ? api->SessionGetInputCount(session, &count) : api->SessionGetOutputCount(session, &count));
    std::vector<Signature> signatures(count);
    for (size_t i = 0; i < count; i++) {
      Signature& signature = signatures[i];
      char* name = nullptr;
      Check((inputs ? api->SessionGetInputName : api->SessionGetOutputName)(session, i, library.allocator, &name));
      signature.name = name;
      Check(api->AllocatorFree(library.allocator, name));
      ort::TypeInfo* type = nullptr;
      Check((inputs ? api->SessionGetInputTypeInfo : api->SessionGetOutputTypeInfo)(session, i, &type));
      std::unique_ptr<ort::TypeInfo, void (*)(ort::TypeInfo*)> owner(type, api->ReleaseTypeInfo);
      const ort::TensorInfo* tensor = nullptr;
      Check(api->CastTypeInfoToTensorInfo(type, &tensor));
      if (tensor == nullptr) continue;
      size_t rank = 0;
      Check(api->GetTensorElementType(tensor, &signature.type));
      Check(api->GetDimensionsCount(tensor, &rank));
      signature.dims.resize(rank);
      std::vector<const char*> symbols(rank, nullptr);
      if (rank > 0) {
        Check(api->GetDimensions(tensor, signature.dims.data(), rank));
        Check(api->GetSymbolicDimensions(tensor, symbols.data(), rank));
      }
      for (const char* symbol : symbols) signature.symbols.emplace_back(symbol == nullptr ? "" : symbol);
    }
    return signatures;
  }

  std::string libraryPath_, modelPath_, profilePrefix_, optimizedModelPath_;
  const void* data_ = nullptr;
  size_t size_ = 0;
  bool fromBytes_ = false;
  Napi::Reference<Napi::Value> reference_;
  int threads_ = 1, level_ = 99;
  std::vector<std::string> config_;
  SessionPtr session_;
};

class RunWorker : public PromiseWorker {
 public:
  /** (session, feeds, output names, fetched: how many of them are returned, observers: null or the observer of each output) */
  RunWorker(Napi::Env env, const Napi::CallbackInfo& info) : PromiseWorker(env) {
    session_ = Unwrap(info[0]);
    feeds_ = ReadFeeds(info[1]);
    names_ = Strings(info[2]);
    fetched_ = std::min<size_t>(info[3].As<Napi::Number>().Uint32Value(), names_.size());
    Napi::Array observers = info[4].As<Napi::Array>();
    observers_.resize(names_.size());
    for (uint32_t i = 0; i < names_.size() && i < observers.Length(); i++)
      if (observers.Get(i).IsObject() || observers.Get(i).IsExternal()) observers_[i] = UnwrapObserver(observers.Get(i));
  }
  ~RunWorker() override {
    for (ort::Value* value : values_)
      if (value != nullptr) library.api->ReleaseValue(value);
  }

 protected:
  void Work() override {
    feeds_.Wrap();
    std::vector<const char*> names;
    for (const std::string& name : names_) names.push_back(name.c_str());
    RunSession(*session_, feeds_, names, values_);
    views_.resize(names_.size());
    for (size_t i = 0; i < names_.size(); i++) views_[i] = ViewOf(values_[i], names_[i]);
    ObserveAll();
  }
  Napi::Value Result(Napi::Env env) override {
    Napi::Array result = Napi::Array::New(env, fetched_);
    for (size_t i = 0; i < fetched_; i++) {
      const View& view = views_[i];
      size_t size = view.count * ElementSize(view.type);
      Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, size);
      if (size > 0) std::memcpy(buffer.Data(), view.data, size);
      Napi::Array entry = Napi::Array::New(env, 3);
      entry.Set(0u, Napi::Number::New(env, view.type));
      entry.Set(1u, Dims(env, view.dims));
      entry.Set(2u, Napi::Uint8Array::New(env, size, buffer, 0));
      result.Set(static_cast<uint32_t>(i), entry);
      library.api->ReleaseValue(values_[i]);  // one output's memory is held twice at most
      values_[i] = nullptr;
    }
    return result;
  }

 private:
  /** Each observer is its own, so they share out among as many threads as the session computes with. */
  void ObserveAll() {
    struct Shared {
      std::vector<std::pair<std::shared_ptr<ObserverState>, const View*>> jobs;
      std::vector<const std::string*> names;
      std::atomic<size_t> next{0};
      std::mutex mutex;
      std::condition_variable finished;
      size_t done = 0;
      std::string failure;
      void Work() {
        for (size_t j = next++; j < jobs.size(); j = next++) {
          std::string failed;
          try {
            Observe(*jobs[j].first, *jobs[j].second);
          } catch (const std::exception& error) {
            failed = "output '" + *names[j] + "': " + error.what();
          }
          std::lock_guard<std::mutex> lock(mutex);
          if (failure.empty()) failure = std::move(failed);
          if (++done == jobs.size()) finished.notify_all();
        }
      }
    };
    auto shared = std::make_shared<Shared>();
    size_t elements = 0;
    for (size_t i = 0; i < names_.size(); i++) {
      if (!observers_[i]) continue;
      shared->jobs.emplace_back(observers_[i], &views_[i]);
      shared->names.push_back(&names_[i]);
      elements += views_[i].count;
    }
    const size_t jobs = shared->jobs.size();
    if (jobs == 0) return;
    // A thread costs some 20 µs to start, about what 50 000 elements cost to observe. It is not joined: on a busy machine one may
    // be scheduled only milliseconds later, when all is done and there is nothing left in `shared` for it to touch but `next`.
    const size_t helpers = elements < 100000 ? 0 : std::min<size_t>(std::max(session_->threads, 1), jobs) - 1;
    for (size_t i = 0; i < helpers; i++) {
      try {
        std::thread([shared] { shared->Work(); }).detach();
      } catch (const std::system_error&) {
        break;  // no more threads to be had: this one does it all
      }
    }
    shared->Work();
    std::unique_lock<std::mutex> lock(shared->mutex);
    shared->finished.wait(lock, [&] { return shared->done == jobs; });
    if (!shared->failure.empty()) throw std::runtime_error(shared->failure);
  }

  SessionPtr session_;
  Feeds feeds_;
  std::vector<std::string> names_;
  size_t fetched_ = 0;
  std::vector<std::shared_ptr<ObserverState>> observers_;
  std::vector<ort::Value*> values_;
  std::vector<View> views_;
};

class EndProfilingWorker : public PromiseWorker {
 public:
  EndProfilingWorker(Napi::Env env, const Napi::CallbackInfo& info) : PromiseWorker(env), session_(Unwrap(info[0])) {}

 protected:
  void Work() override {
    char* path = nullptr;
    Check(library.api->SessionEndProfiling(session_->session, library.allocator, &path));
    path_ = path;
    Check(library.api->AllocatorFree(library.allocator, path));
  }
  Napi::Value Result(Napi::Env env) override { return Napi::String::New(env, path_); }

 private:
  SessionPtr session_;
  std::string path_;
};

/**
 * Latency of several sessions side by side. Sessions take turns in bursts of equal length and the order turns round from one
 * round to the next, so that a slow spell of the machine, or its drift, falls on all alike. Within a burst runs follow each
 * other as in use; its first run is not counted where it is short, because it pays for the caches that the other session left.
 */
class BenchWorker : public PromiseWorker {
 public:
  /** (sessions, feed sets, {blocks, secondsPerBlock, minRuns, maxRuns, burstSeconds, discardBelowSeconds}) */
  BenchWorker(Napi::Env env, const Napi::CallbackInfo& info) : PromiseWorker(env) {
    Napi::Array sessions = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < sessions.Length(); i++) sessions_.push_back(Unwrap(sessions.Get(i)));
    Napi::Array sets = info[1].As<Napi::Array>();
    for (uint32_t i = 0; i < sets.Length(); i++) sets_.push_back(ReadFeeds(sets.Get(i)));
    Napi::Object options = info[2].As<Napi::Object>();
    auto number = [&](const char* name) { return options.Get(name).As<Napi::Number>().DoubleValue(); };
    blocks_ = static_cast<size_t>(number("blocks"));
    secondsPerBlock_ = number("secondsPerBlock");
    minRuns_ = std::max<size_t>(1, static_cast<size_t>(number("minRuns")));
    maxRuns_ = std::max(minRuns_, static_cast<size_t>(number("maxRuns")));
    burstSeconds_ = number("burstSeconds");
    discardBelow_ = number("discardBelowSeconds");
    if (sessions_.empty() || sets_.empty()) throw Napi::TypeError::New(env, "at least one session and one set of feeds are needed");
  }

 protected:
  void Work() override {
    const size_t n = sessions_.size();
    for (Feeds& set : sets_) set.Wrap();
    outputs_.resize(n);
    for (size_t s = 0; s < n; s++)
      for (const Signature& output : sessions_[s]->outputs) outputs_[s].push_back(output.name.c_str());
    times_.assign(n, std::vector<std::vector<double>>(blocks_));
    std::vector<double> last(n, 0);
    size_t sample = 0;
    bool reverse = false;
    for (size_t block = 0; block < blocks_; block++) {
      const auto start = Clock::now();
      size_t runs = 0;
      while (runs < minRuns_ || (runs < maxRuns_ && Seconds(start, Clock::now()) < secondsPerBlock_)) {
        const double slowest = *std::max_element(last.begin(), last.end());
        size_t length = slowest > 0 ? static_cast<size_t>(burstSeconds_ / slowest) : 1;
        length = std::max<size_t>(1, std::min(length, maxRuns_ - runs));
        const bool discard = slowest < discardBelow_;
        for (size_t turn = 0; turn < n; turn++) {
          const size_t s = reverse ? n - 1 - turn : turn;
          if (discard) Once(s, sample + length - 1);
          for (size_t i = 0; i < length; i++) {
            last[s] = Once(s, sample + i);
            times_[s][block].push_back(last[s] * 1e3);
          }
        }
        reverse = !reverse;
        sample += length;
        runs += length;
      }
    }
  }
  Napi::Value Result(Napi::Env env) override {
    Napi::Array result = Napi::Array::New(env, times_.size());
    for (uint32_t s = 0; s < times_.size(); s++) {
      Napi::Array blocks = Napi::Array::New(env, times_[s].size());
      for (uint32_t b = 0; b < times_[s].size(); b++) {
        const std::vector<double>& from = times_[s][b];
        Napi::Float64Array to = Napi::Float64Array::New(env, from.size());
        if (!from.empty()) std::memcpy(to.Data(), from.data(), from.size() * sizeof(double));
        blocks.Set(b, to);
      }
      result.Set(s, blocks);
    }
    return result;
  }

 private:
  /** Seconds of one run; freeing the outputs is not in it. */
  double Once(size_t s, size_t sample) {
    auto start = Clock::now();
    RunSession(*sessions_[s], sets_[sample % sets_.size()], outputs_[s], values_);
    double seconds = Seconds(start, Clock::now());
    for (ort::Value* value : values_)
      if (value != nullptr) library.api->ReleaseValue(value);
    return seconds;
  }

  std::vector<SessionPtr> sessions_;
  std::vector<Feeds> sets_;
  size_t blocks_ = 0, minRuns_ = 1, maxRuns_ = 1;
  double secondsPerBlock_ = 0, burstSeconds_ = 0, discardBelow_ = 0;
  std::vector<std::vector<const char*>> outputs_;
  std::vector<ort::Value*> values_;
  std::vector<std::vector<std::vector<double>>> times_;
};

template <typename Worker>
Napi::Value Queue(const Napi::CallbackInfo& info) {
  auto worker = std::make_unique<Worker>(info.Env(), info);
  Napi::Promise promise = worker->Promise();
  worker.release()->Queue();  // a worker deletes itself when it is done
  return promise;
}

Napi::Value Version(const Napi::CallbackInfo& info) {
  try {
    std::lock_guard<std::mutex> lock(libraryMutex);
    return Napi::String::New(info.Env(), LoadLibraryLocked(info[0].As<Napi::String>().Utf8Value())->GetVersionString());
  } catch (const std::runtime_error& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
}

/** (library path, threads ≥ 0): makes the environment now; with threads > 0 all sessions share one pool of so many threads. */
Napi::Value Prepare(const Napi::CallbackInfo& info) {
  try {
    EnsureEnv(info[0].As<Napi::String>().Utf8Value(), info[1].As<Napi::Number>().Int32Value());
    return info.Env().Undefined();
  } catch (const std::runtime_error& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  if (info[0].IsExternal()) info[0].As<Napi::External<SessionPtr>>().Data()->reset();  // a run in flight holds it until it is over
  return info.Env().Undefined();
}

}  // namespace
}  // namespace halftone

void RegisterOrt(Napi::Env env, Napi::Object exports) {
  using namespace halftone;
  exports.Set("ortVersion", Napi::Function::New(env, Version, "ortVersion"));
  exports.Set("ortPrepare", Napi::Function::New(env, Prepare, "ortPrepare"));
  exports.Set("ortOpen", Napi::Function::New(env, Queue<OpenWorker>, "ortOpen"));
  exports.Set("ortRun", Napi::Function::New(env, Queue<RunWorker>, "ortRun"));
  exports.Set("ortBench", Napi::Function::New(env, Queue<BenchWorker>, "ortBench"));
  exports.Set("ortEndProfiling", Napi::Function::New(env, Queue<EndProfilingWorker>, "ortEndProfiling"));
  exports.Set("ortClose", Napi::Function::New(env, Close, "ortClose"));
}
