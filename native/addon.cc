#include "register.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  RegisterFiles(env, exports);
  RegisterFeatures(env, exports);
  RegisterQuantize(env, exports);
  RegisterObserver(env, exports);
  RegisterThresholds(env, exports);
  RegisterSaturation(env, exports);
  RegisterGptq(env, exports);
  RegisterOrt(env, exports);
  return exports;
}

NODE_API_MODULE(halftone, Init)
