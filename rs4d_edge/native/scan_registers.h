// The recurrence with the states in registers. Included inside a namespace after scan_rows.h.

// Tokens of a tile: its rows and those of the next one stay in the L2 cache.
inline int64_t tile_tokens(int64_t) { return kTile; }

// One block of rows.count <= kLanes channels, the states in registers.
template <int N, bool Full>
void rows_in_registers(const Rows& rows, const Channels& channels) {
  States<N> h(channels.state, rows.states);
  const F largest = Simd::load(channels.limit);
  const F d = load_lanes<Full>(channels.skip, rows.count);
  const float *u = rows.u, *delta = rows.delta, *b = rows.b, *c = rows.c;
  float* y = rows.y;
  for (int64_t t = 0; t < rows.tokens; ++t) {
    prefetch_rows(rows, u, delta, y);
    const F x = load_lanes<Full>(u, rows.count), dt = load_lanes<Full>(delta, rows.count);
    const F rate = Simd::min(dt, largest), input = Simd::mul(dt, x);
    F even = Simd::mul(d, x), odd = Simd::set(0.0f);
    h.each_state([&](auto n) RS4D_INLINE_LAMBDA {
      const F keep = Simd::exp2_product(rate, Simd::load(channels.decay + n * kLanes));
      const F next = Simd::fma(keep, h.get(n), Simd::mul(input, Simd::set(b[n])));
      h.put(n, next);
      F& sum = n % 2 ? odd : even;
      sum = Simd::fma(next, Simd::set(c[n]), sum);
    });
    store_lanes<Full>(y, Simd::add(even, odd), rows.count);
    u += rows.row, delta += rows.row, y += rows.row, b += rows.narrow, c += rows.narrow;
  }
  h.keep(channels.state);
}

// One tile of any number of channels.
template <int N>
void scan_tile(const Rows& rows, const Channels& channels, float*) {
  int64_t i = 0;
  for (; i + kLanes <= rows.count; i += kLanes)
    rows_in_registers<N, true>(rows.at(i, kLanes), channels.at(i, rows.states));
  if (i < rows.count) rows_in_registers<N, false>(rows.at(i, rows.count - i), channels.at(i, rows.states));
}
