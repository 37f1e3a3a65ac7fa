// RS4D_VECTOR_BYTES wide fp32 lanes through the compiler's vector types: NEON, SSE2, or plain scalar code.
// Included inside a namespace, after any `#pragma GCC target`.

struct Simd {
  typedef float F __attribute__((vector_size(RS4D_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(RS4D_VECTOR_BYTES)));
  static constexpr int kLanes = RS4D_VECTOR_BYTES / 4;

  RS4D_INLINE static F set(float x) { return x - F{}; }
  RS4D_INLINE static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  RS4D_INLINE static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  RS4D_INLINE static F load(const float* p, int64_t count) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  RS4D_INLINE static void store(float* p, F x, int64_t count) {
    float lanes[kLanes];
    store(lanes, x);
    for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
  }
  RS4D_INLINE static F mul(F a, F b) { return a * b; }
  RS4D_INLINE static F add(F a, F b) { return a + b; }
  RS4D_INLINE static F fma(F a, F b, F c) { return a * b + c; }  // contracted by -ffp-contract=fast
  RS4D_INLINE static F min(F a, F b) { return a < b ? a : b; }
  RS4D_INLINE static F max(F a, F b) { return a > b ? a : b; }
  RS4D_INLINE static F div(F a, F b) { return a / b; }
  RS4D_INLINE static float sum(F a) {
    float lanes[kLanes], total = 0.0f;
    store(lanes, a);
    for (int i = 0; i < kLanes; ++i) total += lanes[i];
    return total;
  }

  // 2^(x*y): x*y rounds to an integer n in the low mantissa bits, the remainder goes through the polynomial, and n is
  // added to the exponent. Clamped just below the normal range: what comes out there is flushed to zero.
  RS4D_INLINE static F exp2_product(F x, F y) {
    const F product = x * y;
    const F t = product > set(kLowestExponent) ? product : set(kLowestExponent);
    const F shifted = t + set(kRoundMagic);
    const F r = t - (shifted - set(kRoundMagic));
    return reinterpret_cast<F>(reinterpret_cast<I>(exp2_polynomial<Simd>(r)) +
                               (reinterpret_cast<I>(shifted) << 23));
  }
  // x = 2^(x*y) where x*y is known to lie between kLowestExponent and 127.
  template <int V>
  RS4D_INLINE static void exp2_bounded(F (&x)[V], F y) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = exp2_product(x[v], y);
  }
};
