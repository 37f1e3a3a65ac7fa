// 16 fp32 lanes in AVX-512 registers. Included inside a namespace, after `#pragma GCC target`.

struct Simd {
  using F = __m512;
  static constexpr int kLanes = 16;

  RS4D_INLINE static F set(float x) { return _mm512_set1_ps(x); }
  RS4D_INLINE static F load(const float* p) { return _mm512_loadu_ps(p); }
  RS4D_INLINE static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  RS4D_INLINE static F load(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(mask(count), p); }
  RS4D_INLINE static void store(float* p, F x, int64_t count) { _mm512_mask_storeu_ps(p, mask(count), x); }
  RS4D_INLINE static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  RS4D_INLINE static F add(F a, F b) { return _mm512_add_ps(a, b); }
  RS4D_INLINE static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  RS4D_INLINE static F min(F a, F b) { return _mm512_min_ps(a, b); }
  RS4D_INLINE static F max(F a, F b) { return _mm512_max_ps(a, b); }
  RS4D_INLINE static F div(F a, F b) { return _mm512_div_ps(a, b); }
  RS4D_INLINE static float sum(F a) { return _mm512_reduce_add_ps(a); }

  // 2^(x*y): x*y rounds to an integer n in the low mantissa bits, the remainder goes through the polynomial, and
  // scalef applies 2^n with the right underflow. |x*y| must stay below 3e14, see kExponentLimit.
  RS4D_INLINE static F exp2_product(F x, F y) {
    const F n = _mm512_sub_ps(_mm512_fmadd_ps(x, y, set(kRoundMagic)), set(kRoundMagic));
    const F r = _mm512_fmsub_ps(x, y, n);
    return _mm512_scalef_ps(exp2_polynomial<Simd>(r), n);
  }
  // x = 2^(x*y) where x*y is known to lie between kLowestExponent and 127.
  template <int V>
  RS4D_INLINE static void exp2_bounded(F (&x)[V], F y) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = exp2_product(x[v], y);
  }

 private:
  RS4D_INLINE static __mmask16 mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
};
