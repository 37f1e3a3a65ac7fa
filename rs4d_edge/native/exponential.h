// 2^r for |r| <= 1/2, and what the kernels of every instruction set agree on. Included inside a namespace.

// Adding it rounds to an integer that then stands in the low bits of the mantissa.
constexpr float kRoundMagic = 12582912.0f;
// Largest |delta * a * log2(e)| that the range reduction is shown; the exponential is 0 (or infinite) far below it.
constexpr float kExponentLimit = 1e14f;
// Faster decays count as this one: with any step above 1e-10 nothing is left either way.
constexpr float kLargestDecay = 1e12f;

// Minimax polynomial 1 + r*Q(r) of degree 5, relative error 1.1e-7. The constant term is exactly 1 and Q(0) = ln 2 to
// 2e-7, so the error vanishes with r: states that decay slowly do not drift.
template <class S>
RS4D_INLINE typename S::F exp2_polynomial(typename S::F r) {
  auto p = S::fma(S::set(0.001326472711f), r, S::set(0.009671512855f));
  p = S::fma(p, r, S::set(0.05550733745f));
  p = S::fma(p, r, S::set(0.2402224208f));
  p = S::fma(p, r, S::set(0.6931469776f));
  return S::fma(p, r, S::set(1.0f));
}
