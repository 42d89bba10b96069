// What GPTQ's rounding needs: the Gram matrix of a layer's inputs (its Hessian up to a factor), patches of a convolution's input
// at sampled positions, and the error-compensated rounding itself.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "geometry.h"
#include "register.h"
#include "simd.h"

namespace halftone {
namespace {

// --------------------------------------------------------------------------------------------------------------------- Gram

constexpr size_t kRows = 128;  // rows of a block: two panels of 128 × 8 doubles are half of a first-level cache
[[maybe_unused]] constexpr size_t kPanel = 8;

/**
 * h[i, j] += Σ_r x[r, i]·x[r, j] for j ≥ i, r in order, in double. A product of two float32 is exact in double, so a fused
 * multiply-add rounds as a product and a sum do, and this loop and the vector one give the same bits.
 */
void GramScalar(const float* x, size_t rows, size_t k, double* h) {
  for (size_t r = 0; r < rows; r++) {
    const float* row = x + r * k;
    for (size_t i = 0; i < k; i++) {
      const double xi = row[i];
      double* out = h + i * k;
      for (size_t j = i; j < k; j++) out[j] += xi * row[j];
    }
  }
}

#if HALFTONE_X86
/** acc[4][8] += Σ_r a[r, 0..4) ⊗ b[r, 0..8); both panels are rows of 8. */
HALFTONE_AVX2 inline void GramTile(const double* a, const double* b, size_t rows, double* acc, size_t stride) {
  __m256d c[4][2];
  for (int i = 0; i < 4; i++) {
    c[i][0] = _mm256_loadu_pd(acc + i * stride);
    c[i][1] = _mm256_loadu_pd(acc + i * stride + 4);
  }
  for (size_t r = 0; r < rows; r++) {
    const __m256d b0 = _mm256_load_pd(b + r * kPanel), b1 = _mm256_load_pd(b + r * kPanel + 4);
    for (int i = 0; i < 4; i++) {
      const __m256d ai = _mm256_broadcast_sd(a + r * kPanel + i);
      c[i][0] = _mm256_fmadd_pd(ai, b0, c[i][0]);
      c[i][1] = _mm256_fmadd_pd(ai, b1, c[i][1]);
    }
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_pd(acc + i * stride, c[i][0]);
    _mm256_storeu_pd(acc + i * stride + 4, c[i][1]);
  }
}

HALFTONE_AVX2 void GramAvx2(const float* x, size_t rows, size_t k, double* h, double* panels) {
  const size_t panelCount = (k + kPanel - 1) / kPanel;
  for (size_t p = 0; p < panelCount; p++) {
    const size_t width = std::min(kPanel, k - p * kPanel);
    double* out = panels + p * kRows * kPanel;
    for (size_t r = 0; r < rows; r++)
      for (size_t c = 0; c < kPanel; c++) out[r * kPanel + c] = c < width ? x[r * k + p * kPanel + c] : 0;
  }
  for (size_t pj = 0; pj < panelCount; pj++)
    for (size_t pi = 0; pi <= pj; pi++)
      for (size_t half = 0; half < kPanel; half += 4) {
        const size_t i0 = pi * kPanel + half, j0 = pj * kPanel;
        if (i0 >= k) break;
        const double *a = panels + pi * kRows * kPanel + half, *b = panels + pj * kRows * kPanel;
        if (i0 + 4 <= k && j0 + kPanel <= k) {
          GramTile(a, b, rows, h + i0 * k + j0, k);
          continue;
        }
        const size_t height = std::min<size_t>(4, k - i0), width = std::min(kPanel, k - j0);
        double edge[4 * kPanel] = {};
        for (size_t i = 0; i < height; i++) std::memcpy(edge + i * kPanel, h + (i0 + i) * k + j0, width * sizeof(double));
        GramTile(a, b, rows, edge, kPanel);
        for (size_t i = 0; i < height; i++) std::memcpy(h + (i0 + i) * k + j0, edge + i * kPanel, width * sizeof(double));
      }
}
#endif

/** Adds the rows to the upper triangle; `Mirror` completes it. */
class Gram {
 public:
  explicit Gram(size_t k) : k_(k) {
#if HALFTONE_X86
    if (SimdLevel() == Simd::kAvx2) {
      storage_.resize((k + kPanel - 1) / kPanel * kPanel * kRows + 4);
      const size_t misaligned = reinterpret_cast<uintptr_t>(storage_.data()) / sizeof(double) % 4;
      panels_ = storage_.data() + (4 - misaligned) % 4;
    }
#endif
  }
  void Add(const float* x, size_t rows, double* h) {
#if HALFTONE_X86
    if (panels_) {
      for (size_t start = 0; start < rows; start += kRows) GramAvx2(x + start * k_, std::min(kRows, rows - start), k_, h, panels_);
      return;
    }
#endif
    GramScalar(x, rows, k_, h);
  }
  void Mirror(double* h) const {
    for (size_t i = 1; i < k_; i++)
      for (size_t j = 0; j < i; j++) h[i * k_ + j] = h[j * k_ + i];
  }

 private:
  size_t k_;
  std::vector<double> storage_;
  [[maybe_unused]] double* panels_ = nullptr;
};

/** One patch in the order of ONNX's weights (input channel of the group, kernel row, kernel column); padding is 0. */
void GatherPatch(const Layer& layer, const float* x, int64_t group, int64_t position, float* patch) {
  const int64_t perGroup = layer.channels / layer.group;
  const int64_t at[3] = {position / (layer.out[1] * layer.out[2]), position / layer.out[2] % layer.out[1], position % layer.out[2]};
  int64_t origin[3];
  for (int d = 0; d < 3; d++) origin[d] = at[d] * layer.stride[d] - layer.padBegin[d];
  for (int64_t c = group * perGroup; c < (group + 1) * perGroup; c++) {
    const float* plane = x + c * layer.in[0] * layer.in[1] * layer.in[2];
    for (int64_t a = 0; a < layer.kernel[0]; a++) {
      const int64_t i0 = origin[0] + a * layer.dilation[0];
      for (int64_t b = 0; b < layer.kernel[1]; b++) {
        const int64_t i1 = origin[1] + b * layer.dilation[1];
        const bool inside = i0 >= 0 && i0 < layer.in[0] && i1 >= 0 && i1 < layer.in[1];
        for (int64_t e = 0; e < layer.kernel[2]; e++) {
          const int64_t i2 = origin[2] + e * layer.dilation[2];
          *patch++ = inside && i2 >= 0 && i2 < layer.in[2] ? plane[(i0 * layer.in[1] + i1) * layer.in[2] + i2] : 0.0f;
        }
      }
    }
  }
}

void ConvGram(const Layer& layer, const float* x, const int32_t* positions, size_t count, double* h) {
  const size_t k = static_cast<size_t>(layer.PairedLength());
  Gram gram(k);
  std::vector<float> patches(std::min(kRows, count) * k);
  for (int64_t g = 0; g < layer.group; g++, h += k * k) {
    for (size_t start = 0; start < count; start += kRows) {
      const size_t rows = std::min(kRows, count - start);
      for (size_t r = 0; r < rows; r++) GatherPatch(layer, x, g, positions[start + r], patches.data() + r * k);
      gram.Add(patches.data(), rows, h);
    }
    gram.Mirror(h);
  }
}

// ----------------------------------------------------------------------------------------------------------------- rounding

/**
 * Four doubles by the compiler's vector extension: the same source becomes AVX in a function with that target and two SSE2 or
 * NEON operations elsewhere, with the same bits (no contraction: binding.gyp).
 */
typedef double Four __attribute__((vector_size(32), aligned(8)));
#define HALFTONE_INLINE inline __attribute__((always_inline))

/** out[i][j] = a row i · b row j over n, for kA × kB rows. */
template <int kA, int kB>
HALFTONE_INLINE void Dots(const double* const* a, const double* const* b, size_t n, double (*out)[kB]) {
  Four acc[kA][kB];
  for (int i = 0; i < kA; i++)
    for (int j = 0; j < kB; j++) acc[i][j] = Four{0, 0, 0, 0};
  size_t t = 0;
  for (; t + 4 <= n; t += 4) {
    Four bs[kB];
    for (int j = 0; j < kB; j++) bs[j] = *reinterpret_cast<const Four*>(b[j] + t);
    for (int i = 0; i < kA; i++) {
      const Four as = *reinterpret_cast<const Four*>(a[i] + t);
      for (int j = 0; j < kB; j++) acc[i][j] += as * bs[j];
    }
  }
  for (int i = 0; i < kA; i++)
    for (int j = 0; j < kB; j++) {
      double sum = (acc[i][j][0] + acc[i][j][2]) + (acc[i][j][1] + acc[i][j][3]);
      for (size_t r = t; r < n; r++) sum += a[i][r] * b[j][r];
      out[i][j] = sum;
    }
}

/** Lower Cholesky factor of c [k, k] (its lower triangle) in place, block column by block column. False: not positive definite. */
HALFTONE_INLINE bool CholeskyBody(double* c, size_t k) {
  constexpr size_t kBlock = 32;
  for (size_t j0 = 0; j0 < k; j0 += kBlock) {
    const size_t j1 = std::min(k, j0 + kBlock);
    // Subtract what the finished columns explain: rows i ≥ j0 of this block column.
    size_t i = j0;
    for (; i + 4 <= k && j0 > 0; i += 4) {
      const double* as[4] = {c + i * k, c + (i + 1) * k, c + (i + 2) * k, c + (i + 3) * k};
      for (size_t j = j0; j < std::min(j1, i + 4); j += 2) {
        const size_t second = std::min(j + 1, j1 - 1);
        const double* bs[2] = {c + j * k, c + second * k};
        double dots[4][2];
        Dots<4, 2>(as, bs, j0, dots);
        for (int a = 0; a < 4; a++) {
          c[(i + a) * k + j] -= dots[a][0];
          if (second != j) c[(i + a) * k + second] -= dots[a][1];
        }
      }
    }
    for (; i < k && j0 > 0; i++)
      for (size_t j = j0; j < std::min(j1, i + 1); j++) {
        const double *a = c + i * k, *b = c + j * k;
        double dot[1][1];
        Dots<1, 1>(&a, &b, j0, dot);
        c[i * k + j] -= dot[0][0];
      }
    // Factor the diagonal block and solve the rows below it.
    for (size_t j = j0; j < j1; j++) {
      double pivot = c[j * k + j];
      for (size_t t = j0; t < j; t++) pivot -= c[j * k + t] * c[j * k + t];
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      c[j * k + j] = std::sqrt(pivot);
      for (size_t r = j + 1; r < j1; r++) {
        double sum = c[r * k + j];
        for (size_t t = j0; t < j; t++) sum -= c[r * k + t] * c[j * k + t];
        c[r * k + j] = sum / c[j * k + j];
      }
    }
    for (size_t r = j1; r < k; r++)
      for (size_t j = j0; j < j1; j++) {
        double sum = c[r * k + j];
        for (size_t t = j0; t < j; t++) sum -= c[r * k + t] * c[j * k + t];
        c[r * k + j] = sum / c[j * k + j];
      }
  }
  return true;
}

struct RoundOptions {
  double dampening;
  int min, max;
};

/** Rounds kOut rows of weights; `error` has room for kOut × k doubles. */
template <int kOut>
HALFTONE_INLINE void RoundRows(const float* w, const double* l, const float* scales, size_t k, const RoundOptions& options, double* error, int8_t* q) {
  const double* errors[kOut];
  for (int o = 0; o < kOut; o++) errors[o] = error + o * k;
  for (size_t c = 0; c < k; c++) {
    const double* row = l + c * k;
    double carried[1][kOut];
    Dots<1, kOut>(&row, errors, c, carried);
    for (int o = 0; o < kOut; o++) {
      const double weight = w[o * k + c], scale = scales[o];
      const double code = std::min<double>(options.max, std::max<double>(options.min, std::nearbyint((weight + carried[0][o] / row[c]) / scale)));
      q[o * k + c] = static_cast<int8_t>(code);
      error[o * k + c] = weight - code * scale;
    }
  }
}

HALFTONE_INLINE void RoundBody(const float* w, const double* l, const float* scales, size_t outputs, size_t k, const RoundOptions& options, int8_t* q) {
  std::vector<double> error(4 * k);
  size_t o = 0;
  for (; o + 4 <= outputs; o += 4) RoundRows<4>(w + o * k, l, scales + o, k, options, error.data(), q + o * k);
  for (; o < outputs; o++) RoundRows<1>(w + o * k, l, scales + o, k, options, error.data(), q + o * k);
}

bool CholeskyScalar(double* c, size_t k) { return CholeskyBody(c, k); }
void RoundScalar(const float* w, const double* l, const float* scales, size_t outputs, size_t k, const RoundOptions& options, int8_t* q) {
  RoundBody(w, l, scales, outputs, k, options, q);
}
#if HALFTONE_X86
HALFTONE_AVX2 bool CholeskyAvx2(double* c, size_t k) { return CholeskyBody(c, k); }
HALFTONE_AVX2 void RoundAvx2(const float* w, const double* l, const float* scales, size_t outputs, size_t k, const RoundOptions& options, int8_t* q) {
  RoundBody(w, l, scales, outputs, k, options, q);
}
#endif

/**
 * E. Frantar et al., "GPTQ" (ICLR 2023): columns are rounded one after the other, and each one's error is made up for in the
 * columns still to come, by the Cholesky factor U of the inverse Hessian (H⁻¹ = UᵀU): w_k −= Σ_{j<k} e_j·U[j,k], with
 * e_j = (w_j − q_j)/U[j,j]. Here without the inverse: with H = LᵀL, L lower (so U = L⁻ᵀ), and d = the original weights less the
 * rounded ones, the same weight is w_k + (Σ_{j<k} d_j·L[k,j]) / L[k,k]; one factorization, and each column is a dot product.
 * (That is Babai's nearest plane, as J. Chen et al., "The Geometry of LLM Quantization", 2025, noticed.)
 *
 * H gets dampening × the mean of its diagonal, ten times more (up to 1) while it is not positive definite. A column that no
 * sample excites has a zero row in H: nothing is carried into or out of it, so it is rounded to nearest.
 * Cost: k³/6 + outputs·k²/2 multiply-adds.
 */
void GptqRound(const float* w, const double* hessian, const float* scales, size_t outputs, size_t k, const RoundOptions& options, int8_t* q) {
  double mean = 0;
  for (size_t i = 0; i < k; i++) mean += hessian[i * k + i];
  mean /= static_cast<double>(k);
  if (!std::isfinite(mean) || mean < 0) throw std::runtime_error("gptqRound: the Hessian's diagonal is not finite and positive");

  auto cholesky = CholeskyScalar;
  auto round = RoundScalar;
#if HALFTONE_X86
  if (SimdLevel() == Simd::kAvx2) {
    cholesky = CholeskyAvx2;
    round = RoundAvx2;
  }
#endif
  // H = LᵀL is the ordinary factorization C·Cᵀ of H with rows and columns reversed: L[i, j] = C[k−1−j, k−1−i].
  std::vector<double> l(k * k);
  for (double dampening = options.dampening;; dampening = std::max(1e-6, dampening * 10)) {
    const double damp = mean > 0 ? dampening * mean : 1;
    for (size_t i = 0; i < k; i++) {
      for (size_t j = 0; j <= i; j++) l[i * k + j] = hessian[(k - 1 - i) * k + (k - 1 - j)];
      l[i * k + i] += damp;
    }
    if (cholesky(l.data(), k)) break;
    if (dampening >= 1) throw std::runtime_error("gptqRound: the Hessian is not positive definite, nor with its mean diagonal added");
  }
  for (size_t i = 0; i < k; i++)
    for (size_t j = 0; j <= i && i + j + 1 < k; j++) std::swap(l[i * k + j], l[(k - 1 - j) * k + (k - 1 - i)]);
  round(w, l.data(), scales, outputs, k, options, q);
}

// ----------------------------------------------------------------------------------------------------------------- bindings

/** (x, rows, k, into) */
Napi::Value GramAsync(const Napi::CallbackInfo& info) {
  const float* x = info[0].As<Napi::Float32Array>().Data();
  const size_t rows = info[1].As<Napi::Number>().Int64Value(), k = info[2].As<Napi::Number>().Int64Value();
  double* into = info[3].As<Napi::Float64Array>().Data();
  return KernelWorker::Queue(info.Env(), {info[0], info[3]}, [=] {
    Gram gram(k);
    gram.Add(x, rows, into);
    gram.Mirror(into);
  });
}

/** (x, geometry, positions, into) */
Napi::Value ConvGramAsync(const Napi::CallbackInfo& info) {
  const float* x = info[0].As<Napi::Float32Array>().Data();
  const Layer layer = ReadLayer(info[1]);
  auto positions = info[2].As<Napi::Int32Array>();
  const int32_t* at = positions.Data();
  const size_t count = positions.ElementLength();
  double* into = info[3].As<Napi::Float64Array>().Data();
  return KernelWorker::Queue(info.Env(), {info[0], info[2], info[3]}, [=] { ConvGram(layer, x, at, count, into); });
}

/** (x, geometry, positions, group, patches) */
Napi::Value ConvPatches(const Napi::CallbackInfo& info) {
  const float* x = info[0].As<Napi::Float32Array>().Data();
  const Layer layer = ReadLayer(info[1]);
  auto positions = info[2].As<Napi::Int32Array>();
  const int32_t* at = positions.Data();
  const size_t count = positions.ElementLength();
  const int64_t group = info[3].As<Napi::Number>().Int64Value();
  float* patches = info[4].As<Napi::Float32Array>().Data();
  return KernelWorker::Queue(info.Env(), {info[0], info[2], info[4]}, [=] {
    for (size_t p = 0; p < count; p++) GatherPatch(layer, x, group, at[p], patches + p * static_cast<size_t>(layer.PairedLength()));
  });
}

/** (w, hessians, scales, k, dampening, min, max, out): as many Hessians as there are groups of rows. */
Napi::Value GptqRoundAsync(const Napi::CallbackInfo& info) {
  const float* w = info[0].As<Napi::Float32Array>().Data();
  auto hessians = info[1].As<Napi::Float64Array>();
  const double* hessian = hessians.Data();
  auto scales = info[2].As<Napi::Float32Array>();
  const float* perRow = scales.Data();
  const size_t k = info[3].As<Napi::Number>().Int64Value();
  const size_t groups = hessians.ElementLength() / (k * k), outputs = scales.ElementLength() / groups;
  const RoundOptions options{info[4].As<Napi::Number>().DoubleValue(), info[5].As<Napi::Number>().Int32Value(), info[6].As<Napi::Number>().Int32Value()};
  int8_t* out = info[7].As<Napi::Int8Array>().Data();
  return KernelWorker::Queue(info.Env(), {info[0], info[1], info[2], info[7]}, [=] {
    for (size_t g = 0; g < groups; g++)
      GptqRound(w + g * outputs * k, hessian + g * k * k, perRow + g * outputs, outputs, k, options, out + g * outputs * k);
  });
}

}  // namespace
}  // namespace halftone

void RegisterGptq(Napi::Env env, Napi::Object exports) {
  exports["gram"] = Napi::Function::New(env, halftone::GramAsync, "gram");
  exports["convGram"] = Napi::Function::New(env, halftone::ConvGramAsync, "convGram");
  exports["convPatches"] = Napi::Function::New(env, halftone::ConvPatches, "convPatches");
  exports["gptqRound"] = Napi::Function::New(env, halftone::GptqRoundAsync, "gptqRound");
}
