// QuantizeLinear and DequantizeLinear, bit for bit as ONNX Runtime computes them: clip(roundHalfEven(x / scale) + zeroPoint)
// with the division in float32 (a product with the reciprocal differs in about 3 values of a million), NaN to the lowest code.
#include <cstring>

#include "register.h"
#include "simd.h"

namespace halftone {
namespace {

template <typename T>
struct Limits;
template <>
struct Limits<uint8_t> {
  static constexpr int kMin = 0, kMax = 255;
};
template <>
struct Limits<int8_t> {
  static constexpr int kMin = -128, kMax = 127;
};

/** One run of equal scale. Clamping comes before rounding, so that nothing overflows; the bounds are integers, so it commutes. */
template <typename T>
inline T QuantizeOne(float x, float scale, float low, float high, int zeroPoint) {
  float v = x / scale;
  v = v > low ? v : low;  // NaN: low
  v = v < high ? v : high;
  // Adding 1.5·2^23 leaves no bits for a fraction: the addition itself rounds half to even.
  v += 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return static_cast<T>(bits - 0x4b400000 + zeroPoint);
}

template <typename T>
void QuantizeRunScalar(const float* x, T* out, size_t n, float scale, int zeroPoint) {
  const float low = static_cast<float>(Limits<T>::kMin - zeroPoint), high = static_cast<float>(Limits<T>::kMax - zeroPoint);
  for (size_t i = 0; i < n; i++) out[i] = QuantizeOne<T>(x[i], scale, low, high, zeroPoint);
}

/** inner == 1: the scale changes with every element. */
template <typename T>
void QuantizeRowsScalar(const float* x, T* out, size_t rows, size_t axis, const float* scales, const int32_t* zeroPoints) {
  for (size_t r = 0; r < rows; r++)
    for (size_t c = 0; c < axis; c++) {
      const int zp = zeroPoints[c];
      out[r * axis + c] = QuantizeOne<T>(x[r * axis + c], scales[c], static_cast<float>(Limits<T>::kMin - zp),
                                         static_cast<float>(Limits<T>::kMax - zp), zp);
    }
}

#if HALFTONE_X86
HALFTONE_AVX2 inline __m256i QuantizeVector(const float* x, __m256 scale, __m256 low, __m256 high, __m256i zeroPoint) {
  __m256 v = _mm256_div_ps(_mm256_loadu_ps(x), scale);
  v = _mm256_max_ps(v, low);  // NaN: the second operand
  v = _mm256_min_ps(v, high);
  return _mm256_add_epi32(_mm256_cvtps_epi32(v), zeroPoint);
}

/** 32 int32 codes to bytes, in order. They are in range already, so signed packs followed by a plain byte pack lose nothing. */
template <typename T>
HALFTONE_AVX2 inline __m256i PackBytes(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
  const __m256i bytes = Limits<T>::kMin == 0 ? _mm256_packus_epi16(ab, cd) : _mm256_packs_epi16(ab, cd);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <typename T>
HALFTONE_AVX2 void QuantizeRunAvx2(const float* x, T* out, size_t n, float scale, int zeroPoint) {
  const float lowest = static_cast<float>(Limits<T>::kMin - zeroPoint), highest = static_cast<float>(Limits<T>::kMax - zeroPoint);
  const __m256 s = _mm256_set1_ps(scale), low = _mm256_set1_ps(lowest), high = _mm256_set1_ps(highest);
  const __m256i zp = _mm256_set1_epi32(zeroPoint);
  size_t i = 0;
  for (; i + 32 <= n; i += 32)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        PackBytes<T>(QuantizeVector(x + i, s, low, high, zp), QuantizeVector(x + i + 8, s, low, high, zp),
                                     QuantizeVector(x + i + 16, s, low, high, zp), QuantizeVector(x + i + 24, s, low, high, zp)));
  for (; i < n; i++) out[i] = QuantizeOne<T>(x[i], scale, lowest, highest, zeroPoint);
}

template <typename T>
HALFTONE_AVX2 void QuantizeRowsAvx2(const float* x, T* out, size_t rows, size_t axis, const float* scales, const int32_t* zeroPoints) {
  const __m256i least = _mm256_set1_epi32(Limits<T>::kMin), most = _mm256_set1_epi32(Limits<T>::kMax);
  for (size_t r = 0; r < rows; r++) {
    const float* xs = x + r * axis;
    T* outs = out + r * axis;
    size_t c = 0;
    for (; c + 32 <= axis; c += 32) {
      __m256i q[4];
      for (int k = 0; k < 4; k++) {
        const __m256i zp = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(zeroPoints + c + 8 * k));
        q[k] = QuantizeVector(xs + c + 8 * k, _mm256_loadu_ps(scales + c + 8 * k), _mm256_cvtepi32_ps(_mm256_sub_epi32(least, zp)),
                              _mm256_cvtepi32_ps(_mm256_sub_epi32(most, zp)), zp);
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(outs + c), PackBytes<T>(q[0], q[1], q[2], q[3]));
    }
    for (; c < axis; c++) {
      const int zp = zeroPoints[c];
      outs[c] = QuantizeOne<T>(xs[c], scales[c], static_cast<float>(Limits<T>::kMin - zp), static_cast<float>(Limits<T>::kMax - zp), zp);
    }
  }
}
#endif

template <typename T>
void Quantize(const float* x, T* out, size_t n, const float* scales, const int32_t* zeroPoints, size_t axis, size_t inner) {
  if (n == 0) return;
#if HALFTONE_X86
  const bool avx2 = SimdLevel() == Simd::kAvx2;
#else
  const bool avx2 = false;
#endif
  if (inner == 1 && axis > 1) {
#if HALFTONE_X86
    if (avx2) return QuantizeRowsAvx2(x, out, n / axis, axis, scales, zeroPoints);
#endif
    return QuantizeRowsScalar(x, out, n / axis, axis, scales, zeroPoints);
  }
  const size_t run = axis == 1 ? n : inner;
  for (size_t start = 0, c = 0; start < n; start += run, c = c + 1 == axis ? 0 : c + 1) {
#if HALFTONE_X86
    if (avx2) {
      QuantizeRunAvx2(x + start, out + start, run, scales[c], zeroPoints[c]);
      continue;
    }
#endif
    QuantizeRunScalar(x + start, out + start, run, scales[c], zeroPoints[c]);
  }
  (void)avx2;
}

template <typename T>
void Dequantize(const T* x, float* out, size_t n, const float* scales, const int32_t* zeroPoints, size_t axis, size_t inner) {
  if (inner == 1 && axis > 1) {
    for (size_t start = 0; start < n; start += axis)
      for (size_t c = 0; c < axis; c++) out[start + c] = static_cast<float>(static_cast<int32_t>(x[start + c]) - zeroPoints[c]) * scales[c];
    return;
  }
  const size_t run = axis == 1 ? n : inner;
  for (size_t start = 0, c = 0; start < n; start += run, c = c + 1 == axis ? 0 : c + 1) {
    const float scale = scales[c];
    const int32_t zp = zeroPoints[c];
    for (size_t i = start; i < start + run; i++) out[i] = static_cast<float>(static_cast<int32_t>(x[i]) - zp) * scale;
  }
}

/** (x, out, scales, zeroPoints, axisLength, inner), shapes checked in index.ts. */
std::function<void()> Prepare(const Napi::CallbackInfo& info, bool dequantize) {
  const auto codes = info[dequantize ? 0 : 1].As<Napi::TypedArray>();
  auto floats = info[dequantize ? 1 : 0].As<Napi::Float32Array>();
  const size_t n = floats.ElementLength();
  float* f = floats.Data();
  const float* scales = info[2].As<Napi::Float32Array>().Data();
  const int32_t* zeroPoints = info[3].As<Napi::Int32Array>().Data();
  const size_t axis = info[4].As<Napi::Number>().Int64Value(), inner = info[5].As<Napi::Number>().Int64Value();
  if (codes.TypedArrayType() == napi_int8_array) {
    int8_t* q = info[dequantize ? 0 : 1].As<Napi::Int8Array>().Data();
    if (dequantize) return [=] { Dequantize(q, f, n, scales, zeroPoints, axis, inner); };
    return [=] { Quantize(f, q, n, scales, zeroPoints, axis, inner); };
  }
  uint8_t* q = info[dequantize ? 0 : 1].As<Napi::Uint8Array>().Data();
  if (dequantize) return [=] { Dequantize(q, f, n, scales, zeroPoints, axis, inner); };
  return [=] { Quantize(f, q, n, scales, zeroPoints, axis, inner); };
}

template <bool kDequantize>
Napi::Value RunAsync(const Napi::CallbackInfo& info) {
  return KernelWorker::Queue(info.Env(), {info[0], info[1], info[2], info[3]}, Prepare(info, kDequantize));
}
template <bool kDequantize>
Napi::Value RunSync(const Napi::CallbackInfo& info) {
  FloatEnvironment environment;
  Prepare(info, kDequantize)();
  return info.Env().Undefined();
}

}  // namespace
}  // namespace halftone

void RegisterQuantize(Napi::Env env, Napi::Object exports) {
  using namespace halftone;
  exports["quantizeLinear"] = Napi::Function::New(env, RunAsync<false>, "quantizeLinear");
  exports["quantizeLinearSync"] = Napi::Function::New(env, RunSync<false>, "quantizeLinearSync");
  exports["dequantizeLinear"] = Napi::Function::New(env, RunAsync<true>, "dequantizeLinear");
  exports["dequantizeLinearSync"] = Napi::Function::New(env, RunSync<true>, "dequantizeLinearSync");
}
