// One registration function a .cc file; addon.cc calls each once when the addon is loaded.
#pragma once
#include <napi.h>

void RegisterFiles(Napi::Env env, Napi::Object exports);
void RegisterFeatures(Napi::Env env, Napi::Object exports);
void RegisterQuantize(Napi::Env env, Napi::Object exports);
void RegisterObserver(Napi::Env env, Napi::Object exports);
void RegisterThresholds(Napi::Env env, Napi::Object exports);
void RegisterSaturation(Napi::Env env, Napi::Object exports);
void RegisterGptq(Napi::Env env, Napi::Object exports);
void RegisterOrt(Napi::Env env, Napi::Object exports);
