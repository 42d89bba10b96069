// Observation: range, moments, histogram and channel statistics in one pass. The tensor is walked in blocks that fit the first
// cache level; each block is read from memory once and then used by every statistic.
//
// Scalar and vector kernels give the same bits: sums run in 16 lanes (element i of a block goes to lane i mod 16) that are added
// in a fixed tree, squares of float32 are exact in float64, and minima are those of the values whatever the order.
#include "observer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "register.h"
#include "simd.h"

namespace halftone {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;
// 16 KB of float32: half of the smallest first-level cache, the sub-histograms have the other half.
constexpr size_t kBlock = 4096;
// Histogram counters next to each other in time go to different tables, else equal neighbours (zeros after a ReLU) wait for
// each other's store.
constexpr size_t kTables = 4;
// Tables lie apart by more than their bins: at a multiple of 4 KB a load of one seems to depend on a store to another.
constexpr size_t kTablePadding = 272;
// Elements that the histogram takes or leaves together. Single elements at a stride cost more to gather, each, than all of them to
// count (measured: 6.9 GB/s of the tensor for every fourth, 11 for all).
constexpr size_t kPiece = 64;
// Bins so narrow that value / width has more than 22 bits would be finer than float32 itself.
constexpr int kIndexBits = 22;

struct Moments {
  float min = kInfinity, max = -kInfinity;
  double sum = 0, sumSquares = 0;
  uint64_t finite = 0, nans = 0;

  void Add(const Moments& other) {
    min = std::min(min, other.min);
    max = std::max(max, other.max);
    sum += other.sum;
    sumSquares += other.sumSquares;
    finite += other.finite;
    nans += other.nans;
  }
};

double SumLanes(double* lanes) {
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}

/** −0 and +0 compare equal, so which of them a minimum keeps would depend on the order; +0 always. */
float NoNegativeZero(float x) { return x + 0.0f; }

Moments MomentsScalar(const float* x, size_t n) {
  Moments m;
  double sum[kLanes] = {}, squares[kLanes] = {};
  float min[kLanes], max[kLanes];
  std::fill_n(min, kLanes, kInfinity);
  std::fill_n(max, kLanes, -kInfinity);
  for (size_t i = 0; i < n; i++) {
    const float v = x[i];
    const size_t lane = i % kLanes;
    if (!(std::fabs(v) < kInfinity)) {
      m.nans += v != v;
      continue;
    }
    m.finite++;
    min[lane] = v < min[lane] ? v : min[lane];
    max[lane] = v > max[lane] ? v : max[lane];
    const double d = v;
    sum[lane] += d;
    squares[lane] += d * d;
  }
  m.min = NoNegativeZero(*std::min_element(min, min + kLanes));
  m.max = NoNegativeZero(*std::max_element(max, max + kLanes));
  m.sum = SumLanes(sum);
  m.sumSquares = SumLanes(squares);
  return m;
}

#if HALFTONE_X86
/** 16 lanes of −1, then 16 of 0: read from 16 − n on, a mask of the first n. */
struct TailMask {
  alignas(32) int32_t bits[2 * kLanes];
  constexpr TailMask() : bits() {
    for (size_t i = 0; i < kLanes; i++) bits[i] = -1;
  }
};
constexpr TailMask kTailMask;

/** `kMasked`: NaN and infinities are left out; otherwise they are let through, and the sum of squares tells afterwards. */
template <bool kMasked>
struct MomentsLanes {
  __m256 min0, min1, max0, max1;
  __m256d sum[4], squares[4];
  uint64_t finite = 0, nans = 0;

  HALFTONE_AVX2 void Begin() {
    min0 = min1 = _mm256_set1_ps(kInfinity);
    max0 = max1 = _mm256_set1_ps(-kInfinity);
    for (int i = 0; i < 4; i++) sum[i] = squares[i] = _mm256_setzero_pd();
  }
  HALFTONE_AVX2 inline __attribute__((always_inline)) void Half(__m256 v, __m256& min, __m256& max, int lane) {
    if (kMasked) {
      const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
      const __m256 inf = _mm256_set1_ps(kInfinity);
      const __m256 finiteMask = _mm256_cmp_ps(magnitude, inf, _CMP_LT_OQ);
      finite += __builtin_popcount(_mm256_movemask_ps(finiteMask));
      nans += __builtin_popcount(_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
      min = _mm256_min_ps(_mm256_blendv_ps(inf, v, finiteMask), min);
      max = _mm256_max_ps(_mm256_blendv_ps(_mm256_set1_ps(-kInfinity), v, finiteMask), max);
      v = _mm256_and_ps(v, finiteMask);
    } else {
      min = _mm256_min_ps(v, min);
      max = _mm256_max_ps(v, max);
    }
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    sum[lane] = _mm256_add_pd(sum[lane], low);
    sum[lane + 1] = _mm256_add_pd(sum[lane + 1], high);
    squares[lane] = _mm256_fmadd_pd(low, low, squares[lane]);
    squares[lane + 1] = _mm256_fmadd_pd(high, high, squares[lane + 1]);
  }
  HALFTONE_AVX2 inline __attribute__((always_inline)) void Add(__m256 a, __m256 b) {
    Half(a, min0, max0, 0);
    Half(b, min1, max1, 2);
  }
  /** The last n < 16 elements, for the form without a mask: padded with zeros for the sums, kept out of the extremes. */
  HALFTONE_AVX2 inline __attribute__((always_inline)) void AddTail(const float* x, size_t n) {
    const __m256i m0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kTailMask.bits + kLanes - n));
    const __m256i m1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kTailMask.bits + kLanes - n + 8));
    const __m256 a = _mm256_maskload_ps(x, m0), b = _mm256_maskload_ps(x + 8, m1);
    const __m256 low0 = min0, low1 = min1, high0 = max0, high1 = max1;
    Add(a, b);
    const __m256 inf = _mm256_set1_ps(kInfinity), minusInf = _mm256_set1_ps(-kInfinity);
    min0 = _mm256_min_ps(_mm256_blendv_ps(inf, a, _mm256_castsi256_ps(m0)), low0);
    min1 = _mm256_min_ps(_mm256_blendv_ps(inf, b, _mm256_castsi256_ps(m1)), low1);
    max0 = _mm256_max_ps(_mm256_blendv_ps(minusInf, a, _mm256_castsi256_ps(m0)), high0);
    max1 = _mm256_max_ps(_mm256_blendv_ps(minusInf, b, _mm256_castsi256_ps(m1)), high1);
  }
  HALFTONE_AVX2 Moments End() const {
    Moments m;
    m.min = NoNegativeZero(Extreme<false>(_mm256_min_ps(min0, min1)));
    m.max = NoNegativeZero(Extreme<true>(_mm256_max_ps(max0, max1)));
    m.sum = Tree(sum);
    m.sumSquares = Tree(squares);
    m.finite = finite;
    m.nans = nans;
    return m;
  }

 private:
  template <bool kMax>
  HALFTONE_AVX2 static inline __m128 Pick(__m128 a, __m128 b) {
    return kMax ? _mm_max_ps(a, b) : _mm_min_ps(a, b);
  }
  template <bool kMax>
  HALFTONE_AVX2 static inline float Extreme(__m256 v) {
    __m128 w = Pick<kMax>(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    w = Pick<kMax>(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(Pick<kMax>(w, _mm_shuffle_ps(w, w, 1)));
  }
  /** SumLanes in registers: lane i takes i + 8, then i + 4, i + 2, i + 1. */
  HALFTONE_AVX2 static inline double Tree(const __m256d* v) {
    const __m256d four = _mm256_add_pd(_mm256_add_pd(v[0], v[2]), _mm256_add_pd(v[1], v[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
};

HALFTONE_AVX2 Moments MomentsMaskedAvx2(const float* x, size_t n) {
  MomentsLanes<true> lanes;
  lanes.Begin();
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) lanes.Add(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i + 8));
  if (i < n) {
    alignas(32) float tail[kLanes];
    std::fill_n(tail, kLanes, std::numeric_limits<float>::quiet_NaN());
    std::memcpy(tail, x + i, (n - i) * sizeof(float));
    lanes.Add(_mm256_load_ps(tail), _mm256_load_ps(tail + 8));
    lanes.nans -= kLanes - (n - i);  // the padding
  }
  return lanes.End();
}

HALFTONE_AVX2 Moments MomentsAvx2(const float* x, size_t n) {
  MomentsLanes<false> lanes;
  lanes.Begin();
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) lanes.Add(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i + 8));
  if (i < n) lanes.AddTail(x + i, n - i);
  Moments m = lanes.End();
  // Squares of finite float32 cannot overflow a double's sum, so this is exactly "something was not finite".
  if (!(m.sumSquares < std::numeric_limits<double>::infinity())) return MomentsMaskedAvx2(x, n);
  m.finite = n;
  return m;
}
#endif

Moments MomentsOf(const float* x, size_t n, Simd simd) {
#if HALFTONE_X86
  if (simd == Simd::kAvx2) return MomentsAvx2(x, n);
#endif
  (void)simd;
  return MomentsScalar(x, n);
}

// ---------------------------------------------------------------------------------------------------------------- histogram

/** floor(x · 2^-exponent), a whole number; the product is exact in double. As an integer only where it is known to be small. */
inline double GridFloor(float x, double inverse) { return std::floor(static_cast<double>(x) * inverse); }
inline int64_t GridIndex(float x, double inverse) { return static_cast<int64_t>(GridFloor(x, inverse)); }

/** Whether the window of bins holds [min, max] as it lies. */
inline bool Fits(const ObserverState& state, float min, float max) {
  const double inverse = std::ldexp(1.0, -state.exponent), base = static_cast<double>(state.base);
  return state.gridSet && GridFloor(min, inverse) >= base && GridFloor(max, inverse) < base + state.config.bins;
}

/** The least width (as an exponent of two) for which [min, max] takes at most `bins` bins. */
int LeastExponent(float min, float max, uint32_t bins) {
  const float magnitude = std::max(std::fabs(min), std::fabs(max));
  // Reciprocals of the width must be normal float32 numbers: 2^-126 to 2^126.
  int exponent = -126;
  if (magnitude > 0) exponent = std::max(exponent, std::ilogb(magnitude) - kIndexBits);
  const double span = static_cast<double>(max) - min;
  if (span > 0) exponent = std::max(exponent, std::ilogb(span) - std::ilogb(static_cast<double>(bins)) - 1);
  for (;; exponent++) {
    const double inverse = std::ldexp(1.0, -exponent);
    if (GridIndex(max, inverse) - GridIndex(min, inverse) < static_cast<int64_t>(bins)) return exponent;
  }
}

/**
 * Makes room for [min, max]: wider bins, merged pairwise, when they do not fit; else the window moves over its empty bins.
 * Bins are 2^atLeast wide or more.
 */
void FitGrid(ObserverState& state, float min, float max, int atLeast = -126) {
  const int64_t bins = state.config.bins;
  if (!state.gridSet) {
    state.gridSet = true;
    state.exponent = std::max(atLeast, LeastExponent(min, max, state.config.bins));
    state.base = GridIndex(min, std::ldexp(1.0, -state.exponent));
    return;
  }
  auto& counts = state.counts;
  int64_t first = 0, last = bins - 1;  // the bins in use
  while (first < bins && counts[first] == 0) first++;
  while (last >= 0 && counts[last] == 0) last--;
  // With a stride the histogram may have seen nothing yet: then nothing moves.
  const bool empty = first > last;
  const int exponent =
      std::max({atLeast, state.exponent, LeastExponent(std::min(min, state.min), std::max(max, state.max), state.config.bins)});
  const int shift = std::min(62, exponent - state.exponent);
  const double inverse = std::ldexp(1.0, -exponent);
  const int64_t low = GridIndex(std::min(min, state.min), inverse), high = GridIndex(std::max(max, state.max), inverse);
  // Slack goes to the side that grew, for it is likely to grow again.
  const int64_t base = min < state.min ? high - bins + 1 : low;
  std::vector<uint64_t> moved(counts.size(), 0);
  // An arithmetic shift is a floored division, also below zero.
  if (!empty)
    for (int64_t i = first; i <= last; i++) moved[((state.base + i) >> shift) - base] += counts[i];
  counts.swap(moved);
  state.exponent = exponent;
  state.base = base;
}

void CountScalar(const float* x, size_t n, double inverse, int64_t base, uint32_t* table) {
  for (size_t i = 0; i < n; i++) {
    if (!(std::fabs(x[i]) < kInfinity)) continue;
    const double y = static_cast<double>(x[i]) * inverse;
    int32_t index = static_cast<int32_t>(y);
    index -= y < index;
    table[index - base]++;
  }
}

#if HALFTONE_X86
/**
 * Called with the rounding mode set to −∞, where cvtps is floor and the product of a tiny negative value with the reciprocal
 * stays below zero instead of becoming −0. Not inlined, so that no arithmetic moves across the change of mode.
 */
HALFTONE_AVX2 __attribute__((noinline)) void CountAvx2(const float* x, size_t n, float inverse, int32_t base, uint32_t* tables, size_t stride) {
  const __m256 scale = _mm256_set1_ps(inverse);
  const __m256i offset = _mm256_set1_epi32(base);
  uint32_t *t0 = tables, *t1 = tables + stride, *t2 = tables + 2 * stride, *t3 = tables + 3 * stride;
  // Indices by way of memory: taking them out of a vector register one by one costs half as much again.
  constexpr size_t kBatch = 1024;
  alignas(32) uint32_t index[kBatch];
  for (size_t start = 0; start < n; start += kBatch) {
    const size_t count = std::min(kBatch, n - start);
    const float* from = x + start;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
      _mm_prefetch(reinterpret_cast<const char*>(from + i + kBlock), _MM_HINT_T0);
      _mm256_store_si256(reinterpret_cast<__m256i*>(index + i),
                         _mm256_sub_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + i), scale)), offset));
    }
    for (; i < count; i++) index[i] = static_cast<uint32_t>(_mm_cvtss_si32(_mm_mul_ss(_mm_set_ss(from[i]), _mm_set_ss(inverse))) - base);
    for (i = 0; i + 4 <= count; i += 4) {
      t0[index[i]]++;
      t1[index[i + 1]]++;
      t2[index[i + 2]]++;
      t3[index[i + 3]]++;
    }
    for (; i < count; i++) t0[index[i]]++;
  }
}

#endif

/** 32-bit counters of one run, in first-level cache whichever observer is fed; emptied into the state before the grid moves. */
class Tables {
 public:
  Tables(ObserverState& state, Simd simd) : state_(state), simd_(simd), bins_(state.config.bins), stride_(bins_ + kTablePadding), lowest_(bins_) {
    static thread_local std::vector<uint32_t> scratch;
    if (scratch.size() < stride_ * kTables) scratch.resize(stride_ * kTables, 0);
    tables_ = scratch.data();
  }
  ~Tables() { Flush(); }

  /** Counts of the n elements of a run that begin with its element `start` those that the histogram looks at. */
  void Count(const float* x, size_t n, bool finite, const Moments& m, size_t start) {
    if (m.finite == 0) return;
    if (!Fits(state_, m.min, m.max)) {
      Flush();
      FitGrid(state_, m.min, m.max);
    }
    if (pending_ > (1u << 30)) Flush();
    pending_ += n;
    const double inverse = std::ldexp(1.0, -state_.exponent);
    lowest_ = std::min(lowest_, static_cast<size_t>(GridIndex(m.min, inverse) - state_.base));
    highest_ = std::max(highest_, static_cast<size_t>(GridIndex(m.max, inverse) - state_.base));
#if HALFTONE_X86
    if (simd_ == Simd::kAvx2 && finite) {
      const unsigned int saved = _mm_getcsr();
      _mm_setcsr((saved & ~_MM_ROUND_MASK) | _MM_ROUND_DOWN);
      const float factor = static_cast<float>(inverse);
      const int32_t base = static_cast<int32_t>(state_.base);
      EachPiece(n, start, [&](size_t from, size_t count) { CountAvx2(x + from, count, factor, base, tables_, stride_); });
      _mm_setcsr(saved);
      return;
    }
#endif
    (void)finite;
    EachPiece(n, start, [&](size_t from, size_t count) { CountScalar(x + from, count, inverse, state_.base, tables_); });
  }

 private:
  /** Calls `count` with each piece of [start, start + n) that the histogram looks at, as an offset from `start` and a length. */
  template <typename Counter>
  void EachPiece(size_t n, size_t start, const Counter& count) const {
    const size_t step = size_t{state_.config.histogramStride} * kPiece;
    if (step == kPiece) return count(0, n);
    for (size_t at = start / step * step; at < start + n; at += step) {
      const size_t from = std::max(at, start), to = std::min(at + kPiece, start + n);
      if (from < to) count(from - start, to - from);
    }
  }
  void Flush() {
    if (pending_ == 0) return;
    // Only what may have been counted into: a run of few counted elements costs less than a walk over all bins of all tables.
    for (size_t i = lowest_; i <= highest_; i++) {
      uint64_t total = 0;
      for (size_t t = 0; t < kTables; t++) total += tables_[t * stride_ + i];
      state_.counts[i] += total;
    }
    for (size_t t = 0; t < kTables; t++) std::memset(tables_ + t * stride_ + lowest_, 0, (highest_ - lowest_ + 1) * sizeof(uint32_t));
    pending_ = 0;
    lowest_ = bins_;
    highest_ = 0;
  }
  ObserverState& state_;
  [[maybe_unused]] Simd simd_;
  size_t bins_, stride_;
  uint32_t* tables_;
  uint64_t pending_ = 0;
  size_t lowest_, highest_ = 0;  // bins that may have been counted into
};

// ----------------------------------------------------------------------------------------------------------------- channels

/** [rows, channels] with the channel innermost: four rows at a time, so that the totals are written a quarter as often. */
void ChannelRowsScalar(const float* x, size_t rows, size_t channels, bool finite, ObserverState& state) {
  float *min = state.channelMin.data(), *max = state.channelMax.data();
  double* sum = state.channelSum.data();
  for (size_t r = 0; r < rows; r += 4) {
    const size_t group = std::min<size_t>(4, rows - r);
    for (size_t c = 0; c < channels; c++) {
      double part[4] = {};
      for (size_t k = 0; k < group; k++) {
        const float v = x[(r + k) * channels + c];
        if (!finite && !(std::fabs(v) < kInfinity)) continue;
        part[k] = v;
        min[c] = v < min[c] ? v : min[c];
        max[c] = v > max[c] ? v : max[c];
        state.channelCount[c] += !finite;
      }
      sum[c] += (part[0] + part[1]) + (part[2] + part[3]);
    }
  }
  if (finite)
    for (size_t c = 0; c < channels; c++) state.channelCount[c] += rows;
}

#if HALFTONE_X86
HALFTONE_AVX2 void ChannelRowsAvx2(const float* x, size_t rows, size_t channels, ObserverState& state) {
  float *min = state.channelMin.data(), *max = state.channelMax.data();
  double* sum = state.channelSum.data();
  size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float *a = x + r * channels, *b = a + channels, *c = b + channels, *d = c + channels;
    size_t i = 0;
    for (; i + 8 <= channels; i += 8) {
      const __m256 va = _mm256_loadu_ps(a + i), vb = _mm256_loadu_ps(b + i), vc = _mm256_loadu_ps(c + i), vd = _mm256_loadu_ps(d + i);
      const __m256 least = _mm256_min_ps(_mm256_min_ps(va, vb), _mm256_min_ps(vc, vd));
      const __m256 most = _mm256_max_ps(_mm256_max_ps(va, vb), _mm256_max_ps(vc, vd));
      _mm256_storeu_ps(min + i, _mm256_min_ps(least, _mm256_loadu_ps(min + i)));
      _mm256_storeu_ps(max + i, _mm256_max_ps(most, _mm256_loadu_ps(max + i)));
      const __m256d low = _mm256_add_pd(_mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(va)), _mm256_cvtps_pd(_mm256_castps256_ps128(vb))),
                                        _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(vc)), _mm256_cvtps_pd(_mm256_castps256_ps128(vd))));
      const __m256d high = _mm256_add_pd(_mm256_add_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(va, 1)), _mm256_cvtps_pd(_mm256_extractf128_ps(vb, 1))),
                                         _mm256_add_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(vc, 1)), _mm256_cvtps_pd(_mm256_extractf128_ps(vd, 1))));
      _mm256_storeu_pd(sum + i, _mm256_add_pd(_mm256_loadu_pd(sum + i), low));
      _mm256_storeu_pd(sum + i + 4, _mm256_add_pd(_mm256_loadu_pd(sum + i + 4), high));
    }
    for (; i < channels; i++) {
      for (const float v : {a[i], b[i], c[i], d[i]}) {
        min[i] = v < min[i] ? v : min[i];
        max[i] = v > max[i] ? v : max[i];
      }
      sum[i] += (static_cast<double>(a[i]) + b[i]) + (static_cast<double>(c[i]) + d[i]);
    }
  }
  for (size_t i = 0; i < channels; i++) state.channelCount[i] += r;
  if (r < rows) ChannelRowsScalar(x + r * channels, rows - r, channels, true, state);
}
#endif

void ChannelRows(const float* x, size_t rows, size_t channels, bool finite, ObserverState& state, Simd simd) {
#if HALFTONE_X86
  // Rows of a block that holds NaN or infinities are rare; they take the plain loop.
  if (simd == Simd::kAvx2 && finite) return ChannelRowsAvx2(x, rows, channels, state);
#endif
  (void)simd;
  ChannelRowsScalar(x, rows, channels, finite, state);
}

/**
 * Elements [start, start + n) of a tensor [outer, channels, inner]: runs of one channel each, the first and last may be partial.
 * Returns the moments of all of them, so that the block is not read again.
 */
Moments ChannelRuns(const float* x, size_t start, size_t n, size_t channels, size_t inner, ObserverState& state, Simd simd) {
  Moments total;
  size_t position = start;
  const size_t end = start + n;
  size_t c = (start / inner) % channels;
  while (position < end) {
    const size_t stop = std::min(end, position - position % inner + inner);
    const Moments m = MomentsOf(x + position, stop - position, simd);
    state.channelMin[c] = std::min(state.channelMin[c], m.min);
    state.channelMax[c] = std::max(state.channelMax[c], m.max);
    state.channelSum[c] += m.sum;
    state.channelCount[c] += m.finite;
    total.Add(m);
    position = stop;
    if (++c == channels) c = 0;
  }
  return total;
}

}  // namespace

ObserverState::ObserverState(const ObserverConfig& options) : config(options), min(kInfinity), max(-kInfinity), counts(options.bins, 0) {}

void ObserverUpdate(ObserverState& state, const float* data, size_t n, const int64_t* dims, size_t rank) {
  const std::lock_guard<std::mutex> lock(state.mutex);
  const FloatEnvironment environment;
  const Simd simd = SimdLevel();

  uint64_t product = 1;
  for (size_t i = 0; i < rank; i++) product *= static_cast<uint64_t>(dims[i]);
  if (product != n) throw std::invalid_argument("observe: the dims give " + std::to_string(product) + " elements, the data has " + std::to_string(n));
  size_t channels = 0, inner = 1;
  if (state.config.hasChannelAxis) {
    const int64_t signedRank = static_cast<int64_t>(rank);
    const int64_t axis = state.config.channelAxis < 0 ? state.config.channelAxis + signedRank : state.config.channelAxis;
    if (axis < 0 || axis >= signedRank)
      throw std::invalid_argument("observe: channel axis " + std::to_string(state.config.channelAxis) + " is outside a tensor of rank " + std::to_string(rank));
    channels = static_cast<size_t>(dims[axis]);
    for (size_t i = static_cast<size_t>(axis) + 1; i < rank; i++) inner *= static_cast<size_t>(dims[i]);
    if (state.channels == 0 && channels > 0) {
      state.channels = static_cast<int64_t>(channels);
      state.channelMin.assign(channels, kInfinity);
      state.channelMax.assign(channels, -kInfinity);
      state.channelSum.assign(channels, 0);
      state.channelCount.assign(channels, 0);
    } else if (static_cast<int64_t>(channels) != state.channels) {
      throw std::invalid_argument("observe: " + std::to_string(channels) + " channels, the first run had " + std::to_string(state.channels));
    }
  }
  if (n == 0) return;

  size_t block = kBlock;
  if (channels > 0 && inner == 1) block = std::max<size_t>(1, kBlock / channels) * channels;
  Moments run;
  {
    Tables tables(state, simd);
    for (size_t start = 0; start < n; start += block) {
      const float* x = data + start;
      const size_t length = std::min(block, n - start);
      const bool byRuns = channels > 0 && inner > 1;
      const Moments m = byRuns ? ChannelRuns(data, start, length, channels, inner, state, simd) : MomentsOf(x, length, simd);
      if (channels > 0 && !byRuns) ChannelRows(x, length / channels, channels, m.finite == length, state, simd);
      if (state.config.bins > 0) tables.Count(x, length, m.finite == length, m, start);
      run.Add(m);
      state.min = std::min(state.min, m.min);
      state.max = std::max(state.max, m.max);
    }
  }
  state.count += n;
  state.nans += run.nans;
  state.infs += n - run.finite - run.nans;
  state.sum += run.sum;
  state.sumSquares += run.sumSquares;
  if (run.finite > 0) {
    state.runs++;
    state.sumRunMin += run.min;
    state.sumRunMax += run.max;
  }
}

void ObserverMerge(ObserverState& state, ObserverState& other) {
  if (&state == &other) throw std::invalid_argument("merge: an observer cannot take in itself");
  const std::scoped_lock lock(state.mutex, other.mutex);
  const FloatEnvironment environment;
  const ObserverConfig &a = state.config, &b = other.config;
  if (a.bins != b.bins || a.histogramStride != b.histogramStride || a.hasChannelAxis != b.hasChannelAxis || a.channelAxis != b.channelAxis)
    throw std::invalid_argument("merge: the observers have different options");
  if (other.count == 0) return;
  if (state.channels != 0 && other.channels != 0 && state.channels != other.channels)
    throw std::invalid_argument("merge: " + std::to_string(other.channels) + " channels, this observer has " + std::to_string(state.channels));
  if (a.bins > 0 && other.gridSet) {
    // Once this grid holds what the other saw, and in bins as wide, each of the other's bins falls into one of it.
    if (!Fits(state, other.min, other.max) || state.exponent < other.exponent) FitGrid(state, other.min, other.max, other.exponent);
    const int shift = std::min(62, state.exponent - other.exponent);
    for (int64_t i = 0; i < static_cast<int64_t>(b.bins); i++)
      if (other.counts[i] != 0) state.counts[((other.base + i) >> shift) - state.base] += other.counts[i];
  }
  state.min = std::min(state.min, other.min);
  state.max = std::max(state.max, other.max);
  state.runs += other.runs;
  state.count += other.count;
  state.nans += other.nans;
  state.infs += other.infs;
  state.sumRunMin += other.sumRunMin;
  state.sumRunMax += other.sumRunMax;
  state.sum += other.sum;
  state.sumSquares += other.sumSquares;
  if (other.channels == 0) return;
  if (state.channels == 0) {
    state.channels = other.channels;
    state.channelMin = other.channelMin;
    state.channelMax = other.channelMax;
    state.channelSum = other.channelSum;
    state.channelCount = other.channelCount;
    return;
  }
  for (size_t c = 0; c < state.channelMin.size(); c++) {
    state.channelMin[c] = std::min(state.channelMin[c], other.channelMin[c]);
    state.channelMax[c] = std::max(state.channelMax[c], other.channelMax[c]);
    state.channelSum[c] += other.channelSum[c];
    state.channelCount[c] += other.channelCount[c];
  }
}

namespace {

// Distinguishes our objects from any other, so that a wrong `handle` is a TypeError and not a wild pointer.
constexpr napi_type_tag kObserverTag = {0x68616c66746f6e65, 0x6f62736572766572};

class ObserverObject : public Napi::ObjectWrap<ObserverObject> {
 public:
  static void Register(Napi::Env env, Napi::Object exports) {
    exports["Observer"] = DefineClass(env, "Observer", {InstanceMethod<&ObserverObject::Observe>("observe"), InstanceMethod<&ObserverObject::Merge>("merge"),
                                                       InstanceMethod<&ObserverObject::Result>("result")});
  }
  /** (bins, channelAxis | undefined, histogramStride) */
  explicit ObserverObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ObserverObject>(info) {
    ObserverConfig config;
    config.bins = info[0].As<Napi::Number>().Uint32Value();
    config.hasChannelAxis = info[1].IsNumber();
    if (config.hasChannelAxis) config.channelAxis = info[1].As<Napi::Number>().Int64Value();
    config.histogramStride = info[2].As<Napi::Number>().Uint32Value();
    state_ = std::make_shared<ObserverState>(config);
    info.This().As<Napi::Object>().TypeTag(&kObserverTag);
  }
  std::shared_ptr<ObserverState> state() const { return state_; }

 private:
  /** (x: Float32Array, dims: Float64Array) */
  Napi::Value Observe(const Napi::CallbackInfo& info) {
    auto x = info[0].As<Napi::Float32Array>();
    auto dims = info[1].As<Napi::Float64Array>();
    std::vector<int64_t> shape(dims.Data(), dims.Data() + dims.ElementLength());
    const float* data = x.Data();
    const size_t n = x.ElementLength();
    return KernelWorker::Queue(info.Env(), {x}, [state = state_, data, n, shape] { ObserverUpdate(*state, data, n, shape.data(), shape.size()); });
  }

  /** (other: Observer's own object) */
  Napi::Value Merge(const Napi::CallbackInfo& info) {
    try {
      ObserverMerge(*state_, *UnwrapObserver(info[0]));
    } catch (const std::invalid_argument& error) {
      throw Napi::Error::New(info.Env(), error.what());
    }
    return info.Env().Undefined();
  }

  Napi::Value Result(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const std::lock_guard<std::mutex> lock(state_->mutex);
    const ObserverState& s = *state_;
    auto number = [env](double value) { return Napi::Number::New(env, value); };
    auto result = Napi::Object::New(env);
    result["count"] = number(static_cast<double>(s.count));
    result["nans"] = number(static_cast<double>(s.nans));
    result["infs"] = number(static_cast<double>(s.infs));
    result["min"] = number(s.min);
    result["max"] = number(s.max);
    result["meanMin"] = number(s.sumRunMin / static_cast<double>(s.runs));
    result["meanMax"] = number(s.sumRunMax / static_cast<double>(s.runs));
    result["sum"] = number(s.sum);
    result["sumSquares"] = number(s.sumSquares);
    result["histogram"] = env.Null();
    if (s.config.bins > 0 && s.gridSet) {
      const double width = std::ldexp(1.0, s.exponent);
      // Bins start at the one that holds the minimum, wherever the window lies.
      const int64_t low = GridIndex(s.min, std::ldexp(1.0, -s.exponent));
      const size_t shift = static_cast<size_t>(low - s.base);
      auto counts = Napi::Float64Array::New(env, s.config.bins);
      for (size_t i = 0; i + shift < s.config.bins; i++) counts[i] = static_cast<double>(s.counts[i + shift]);
      auto histogram = Napi::Object::New(env);
      histogram["lo"] = number(static_cast<double>(low) * width);
      histogram["width"] = number(width);
      histogram["counts"] = counts;
      result["histogram"] = histogram;
    }
    result["channels"] = env.Null();
    if (s.channels > 0) {
      const size_t n = static_cast<size_t>(s.channels);
      auto min = Napi::Float64Array::New(env, n), max = Napi::Float64Array::New(env, n), mean = Napi::Float64Array::New(env, n);
      for (size_t c = 0; c < n; c++) {
        min[c] = NoNegativeZero(s.channelMin[c]);
        max[c] = NoNegativeZero(s.channelMax[c]);
        mean[c] = s.channelSum[c] / static_cast<double>(s.channelCount[c]);
      }
      auto channels = Napi::Object::New(env);
      channels["min"] = min;
      channels["max"] = max;
      channels["mean"] = mean;
      result["channels"] = channels;
    }
    return result;
  }

  std::shared_ptr<ObserverState> state_;
};

/** (x: Float32Array) → Promise<{min, max, nans, infs}> of its finite values. */
Napi::Value Range(const Napi::CallbackInfo& info) {
  auto x = info[0].As<Napi::Float32Array>();
  const float* data = x.Data();
  const size_t n = x.ElementLength();
  auto total = std::make_shared<Moments>();
  return KernelWorker::Queue(
      info.Env(), {x},
      [=] {
        const Simd simd = SimdLevel();
        for (size_t start = 0; start < n; start += kBlock) {
          const Moments m = MomentsOf(data + start, std::min(kBlock, n - start), simd);
          total->min = std::min(total->min, m.min);
          total->max = std::max(total->max, m.max);
          total->finite += m.finite;
          total->nans += m.nans;
        }
      },
      [=](Napi::Env env) {
        auto result = Napi::Object::New(env);
        result["min"] = Napi::Number::New(env, total->min);
        result["max"] = Napi::Number::New(env, total->max);
        result["nans"] = Napi::Number::New(env, static_cast<double>(total->nans));
        result["infs"] = Napi::Number::New(env, static_cast<double>(n - total->finite - total->nans));
        return result;
      });
}

}  // namespace

std::shared_ptr<ObserverState> UnwrapObserver(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kObserverTag)) throw Napi::TypeError::New(value.Env(), "not an Observer's handle");
  return Napi::ObjectWrap<ObserverObject>::Unwrap(value.As<Napi::Object>())->state();
}

}  // namespace halftone

void RegisterObserver(Napi::Env env, Napi::Object exports) {
  halftone::ObserverObject::Register(env, exports);
  exports["range"] = Napi::Function::New(env, halftone::Range, "range");
}
