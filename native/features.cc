// What this processor can do, and which level the kernels use.
#include <atomic>

#include "register.h"
#include "simd.h"

#if HALFTONE_X86
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace halftone {
namespace {

Simd Detect() {
#if HALFTONE_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Simd::kAvx2;
#endif
  return Simd::kScalar;
}

std::atomic<int>& Level() {
  static std::atomic<int> level{static_cast<int>(Detect())};
  return level;
}

struct Feature {
  const char* name;
  unsigned bit;
};

std::vector<std::string> DetectFeatures() {
  std::vector<std::string> found;
#if HALFTONE_X86
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  // A vector set counts only when the operating system saves its registers (XCR0), as in /proc/cpuinfo.
  uint64_t xcr0 = 0;
  if (c & (1u << 27)) {
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    xcr0 = (static_cast<uint64_t>(hi) << 32) | lo;
  }
  const bool ymm = (xcr0 & 0x6) == 0x6;
  const bool zmm = ymm && (xcr0 & 0xe0) == 0xe0;
  const bool tiles = (xcr0 & 0x60000) == 0x60000;
  auto add = [&found](bool usable, unsigned bits, std::initializer_list<Feature> features) {
    for (const Feature& feature : features)
      if (usable && (bits & (1u << feature.bit))) found.push_back(feature.name);
  };
  add(true, d, {{"sse2", 26}});
  add(true, c, {{"pni", 0}, {"ssse3", 9}, {"sse4_1", 19}, {"sse4_2", 20}, {"popcnt", 23}});
  add(ymm, c, {{"fma", 12}, {"avx", 28}, {"f16c", 29}});
  const bool hasLeaf7 = __get_cpuid_count(7, 0, &a, &b, &c, &d);
  if (hasLeaf7) {
    const unsigned subleaves = a;
    add(true, b, {{"bmi1", 3}, {"bmi2", 8}});
    add(ymm, b, {{"avx2", 5}});
    add(zmm, b, {{"avx512f", 16}, {"avx512dq", 17}, {"avx512ifma", 21}, {"avx512cd", 28}, {"avx512bw", 30}, {"avx512vl", 31}});
    add(zmm, c, {{"avx512vbmi", 1}, {"avx512_vbmi2", 6}, {"avx512_vnni", 11}, {"avx512_bitalg", 12}, {"avx512_vpopcntdq", 14}});
    add(ymm, c, {{"gfni", 8}});
    add(tiles, d, {{"amx_bf16", 22}, {"amx_tile", 24}, {"amx_int8", 25}});
    add(zmm, d, {{"avx512_fp16", 23}});
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
      add(ymm, a, {{"avx_vnni", 4}});
      add(zmm, a, {{"avx512_bf16", 5}});
      add(tiles, a, {{"amx_fp16", 21}});
      add(ymm, a, {{"avx_ifma", 23}});
      add(ymm, d, {{"avx_vnni_int8", 4}, {"avx_ne_convert", 5}, {"avx_vnni_int16", 10}});
    }
  }
#elif defined(__aarch64__) && defined(__linux__)
  // Bits of the kernel's uapi/asm/hwcap.h: an interface that only grows.
  const unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
  for (const Feature& feature : {Feature{"fp", 0}, {"asimd", 1}, {"aes", 3}, {"crc32", 7}, {"atomics", 8}, {"fphp", 9}, {"asimdhp", 10},
                                 {"asimdrdm", 12}, {"asimddp", 20}, {"sve", 22}, {"asimdfhm", 23}})
    if (one & (1ul << feature.bit)) found.push_back(feature.name);
  for (const Feature& feature :
       {Feature{"sve2", 1}, {"svei8mm", 9}, {"svebf16", 12}, {"i8mm", 13}, {"bf16", 14}, {"sme", 23}})
    if (two & (1ul << feature.bit)) found.push_back(feature.name);
#elif defined(__APPLE__)
  struct Key {
    const char* name;
    const char* key;
  };
  for (const Key& key : {Key{"asimd", "hw.optional.AdvSIMD"}, {"asimddp", "hw.optional.arm.FEAT_DotProd"},
                         {"fphp", "hw.optional.arm.FEAT_FP16"}, {"asimdhp", "hw.optional.arm.FEAT_FP16"},
                         {"i8mm", "hw.optional.arm.FEAT_I8MM"}, {"bf16", "hw.optional.arm.FEAT_BF16"},
                         {"sme", "hw.optional.arm.FEAT_SME"}}) {
    int value = 0;
    size_t size = sizeof value;
    if (sysctlbyname(key.key, &value, &size, nullptr, 0) == 0 && value) found.push_back(key.name);
  }
#endif
  return found;
}

Napi::Value CpuFeatures(const Napi::CallbackInfo& info) {
  const auto features = DetectFeatures();
  auto result = Napi::Array::New(info.Env(), features.size());
  for (uint32_t i = 0; i < features.size(); i++) result[i] = Napi::String::New(info.Env(), features[i]);
  return result;
}

Napi::Value SimdName(const Napi::CallbackInfo& info) {
  if (SimdLevel() == Simd::kAvx2) return Napi::String::New(info.Env(), "avx2");
#if defined(__aarch64__)
  // NEON is part of the baseline: the plain kernels are vectorized by the compiler.
  return Napi::String::New(info.Env(), "neon");
#else
  return Napi::String::New(info.Env(), "scalar");
#endif
}

/** 'auto' | 'scalar' | 'avx2'; false when this processor lacks the level. */
Napi::Value SetSimd(const Napi::CallbackInfo& info) {
  const std::string level = info[0].As<Napi::String>();
  const Simd best = Detect();
  if (level == "avx2" && best != Simd::kAvx2) return Napi::Boolean::New(info.Env(), false);
  Level() = static_cast<int>(level == "scalar" ? Simd::kScalar : best);
  return Napi::Boolean::New(info.Env(), true);
}

}  // namespace

Simd SimdLevel() { return static_cast<Simd>(Level().load(std::memory_order_relaxed)); }

}  // namespace halftone

void RegisterFeatures(Napi::Env env, Napi::Object exports) {
  exports["cpuFeatures"] = Napi::Function::New(env, halftone::CpuFeatures, "cpuFeatures");
  exports["simdName"] = Napi::Function::New(env, halftone::SimdName, "simdName");
  exports["setSimd"] = Napi::Function::New(env, halftone::SetSimd, "setSimd");
}
