// The mixer's element-wise functions for one instruction set, of V vectors side by side: each is a long chain of
// operations, and the processor sees only so far ahead. Included inside a namespace after scan_rows.h.

template <int V>
RS4D_INLINE void exponential(F (&x)[V]) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) x[v] = Simd::min(Simd::max(x[v], Simd::set(-87.0f)), Simd::set(87.0f));
  Simd::exp2_bounded(x, Simd::set(kLog2E));
}

template <int V>
RS4D_INLINE void silu(F (&x)[V]) {
  F e[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) e[v] = Simd::mul(x[v], Simd::set(-1.0f));
  exponential(e);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) x[v] = Simd::div(x[v], Simd::add(Simd::set(1.0f), e[v]));
}

// atanh(s) / s over s * s in [0, 1/9], relative error 5e-9, from the highest power down.
constexpr float kAtanh[] = {0.1400599454f, 0.1400090238f, 0.2001076364f, 0.3333320814f, 1.0f};

// log(1 + e^x) = max(x, 0) + log1p(e), e = exp(-|x|), and log1p(e) = 2 atanh(e / (2 + e)): accurate relative to the
// result for any x, since a step size far below 1 multiplies everything that follows.
template <int V>
RS4D_INLINE void softplus(F (&x)[V]) {
  F s[V], square[V], series[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) s[v] = Simd::min(x[v], Simd::mul(x[v], Simd::set(-1.0f)));
  exponential(s);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    s[v] = Simd::div(s[v], Simd::add(Simd::set(2.0f), s[v]));
    square[v] = Simd::mul(s[v], s[v]);
    series[v] = Simd::set(kAtanh[0]);
  }
#pragma GCC unroll 4
  for (int k = 1; k < 5; ++k)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) series[v] = Simd::fma(series[v], square[v], Simd::set(kAtanh[k]));
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v)
    x[v] = Simd::fma(Simd::add(s[v], s[v]), series[v], Simd::max(x[v], Simd::set(0.0f)));
}
