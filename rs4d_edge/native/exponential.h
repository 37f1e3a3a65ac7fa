// 2^r for |r| <= 1/2, and what the kernels of every instruction set agree on. Included inside a namespace.

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.693147180559945309417f;
// Adding it rounds to an integer that then stands in the low bits of the mantissa.
constexpr float kRoundMagic = 12582912.0f;
// Largest |delta * a * log2(e)| that the range reduction is shown; the exponential is 0 (or infinite) far below it.
constexpr float kExponentLimit = 1e14f;
// Faster decays count as this one: with any step above 1e-10 nothing is left either way.
constexpr float kLargestDecay = 1e12f;
// From here on 2^x can be put together from its exponent and 2^r as a normal number. What lies lower counts as zero.
constexpr float kLowestExponent = -126.5f;

// Minimax polynomial 1 + r*Q(r) of degree 5, relative error 1.1e-7, from the highest power down. The constant term is
// exactly 1 and Q(0) = ln 2 to 2e-7, so the error vanishes with r: states that decay slowly do not drift.
constexpr float kExp2Leading = 0.001326472711f;
constexpr float kExp2Rest[] = {0.009671512855f, 0.05550733745f, 0.2402224208f, 0.6931469776f, 1.0f};

template <class S>
RS4D_INLINE typename S::F exp2_polynomial(typename S::F r) {
  auto p = S::set(kExp2Leading);
  for (const float coefficient : kExp2Rest) p = S::fma(p, r, S::set(coefficient));
  return p;
}
