// 8 fp32 lanes in AVX2 registers. Included inside a namespace, after `#pragma GCC target`.

struct Simd {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;

  RS4D_INLINE static F set(float x) { return _mm256_set1_ps(x); }
  RS4D_INLINE static F load(const float* p) { return _mm256_loadu_ps(p); }
  RS4D_INLINE static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  RS4D_INLINE static F load(const float* p, int64_t count) { return _mm256_maskload_ps(p, mask(count)); }
  RS4D_INLINE static void store(float* p, F x, int64_t count) { _mm256_maskstore_ps(p, mask(count), x); }
  RS4D_INLINE static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  RS4D_INLINE static F add(F a, F b) { return _mm256_add_ps(a, b); }
  RS4D_INLINE static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  RS4D_INLINE static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  RS4D_INLINE static F min(F a, F b) { return _mm256_min_ps(a, b); }
  RS4D_INLINE static F max(F a, F b) { return _mm256_max_ps(a, b); }
  RS4D_INLINE static F div(F a, F b) { return _mm256_div_ps(a, b); }
  RS4D_INLINE static float sum(F a) {
    float lanes[kLanes], total = 0.0f;
    store(lanes, a);
    for (int i = 0; i < kLanes; ++i) total += lanes[i];
    return total;
  }
  RS4D_INLINE static bool all_at_most(F a, F b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ)) == 0; }

  // Nearest integer, as a float and as an integer; n as what it adds to the bits of a float to multiply it by 2^n.
  RS4D_INLINE static F nearest(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  RS4D_INLINE static I integer(F x) { return _mm256_cvtps_epi32(x); }
  RS4D_INLINE static I to_exponent(I n) { return _mm256_slli_epi32(n, 23); }
  RS4D_INLINE static F scale(F x, I exponent) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
  }

  // 2^(x*y). Clamped just below the normal range: what comes out there is flushed to zero.
  RS4D_INLINE static F exp2_product(F x, F y) {
    F product[1] = {max(mul(x, y), set(kLowestExponent))};
    exp2(product);
    return product[0];
  }
  // x = 2^(x*y) where x*y is known to lie between kLowestExponent and 127.
  template <int V>
  RS4D_INLINE static void exp2_bounded(F (&x)[V], F y) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = mul(x[v], y);
    exp2(x);
  }

 private:
  // x = 2^x, the chains of operations side by side.
  template <int V>
  RS4D_INLINE static void exp2(F (&x)[V]) {
    F power[V];
    I exponent[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      exponent[v] = to_exponent(integer(x[v]));
      x[v] = sub(x[v], nearest(x[v]));
      power[v] = set(kExp2Leading);
    }
#pragma GCC unroll 5
    for (int k = 0; k < 5; ++k)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) power[v] = fma(power[v], x[v], set(kExp2Rest[k]));
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = scale(power[v], exponent[v]);
  }
  RS4D_INLINE static I mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};
