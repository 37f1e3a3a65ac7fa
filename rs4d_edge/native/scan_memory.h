// The recurrence with the states in the L1 cache, for instruction sets with few registers. Included inside a namespace
// after scan_rows.h.
//
// Advancing a state is one long chain of operations, and what limits it is how many of them the processor can keep in
// flight. So the chains of several states are interleaved at compile time into a pipeline, b and c stand in memory once
// for each lane, ready to be operands, and nothing is clamped where the largest step size of the tile rules it out.

// Operations of a chain, and half the places in the pipeline between two of them (measured: less stalls, more spills).
constexpr int kSteps = 14, kSkew = 7;

template <int Chains>
struct Order {
  int chain[Chains * kSteps], step[Chains * kSteps];
};

// Step s of chain k has the place 2 k kSteps + s kSkew; where places coincide the later chain goes first.
template <int Chains>
constexpr Order<Chains> pipeline_order() {
  Order<Chains> order{};
  for (int place = 0, count = 0; count < Chains * kSteps; ++place)
    for (int k = Chains - 1; k >= 0; --k) {
      const int since = place - 2 * k * kSteps;
      if (since < 0 || since % kSkew || since / kSkew >= kSteps) continue;
      order.chain[count] = k, order.step[count] = since / kSkew, ++count;
    }
  return order;
}

// One token of one block of channels: what its states share.
struct Token {
  F rate, input, sum;
};

// G states of one token in each of V blocks, a chain for each. `block` floats from one block to the next.
template <int V, int G, bool Clamp>
struct Pipeline {
  const float *decay, *b, *c;
  float* state;
  int64_t block;
  F rest[V * G], whole[V * G], power[V * G], added[V * G];
  Simd::I exponent[V * G];

  // 2^x = 2^whole * 2^rest, as in Simd::exp2_product; then h = 2^x * h + input * b, and y = y + c * h.
  template <int K, int Step>
  RS4D_INLINE void run(Token* tokens) {
    constexpr int at = K % G * kLanes;
    Token& token = tokens[K / G];
    float* const h = state + K / G * block + at;
    if constexpr (Step == 0) {
      rest[K] = Simd::mul(token.rate, Simd::load(decay + K / G * block + at));
      if constexpr (Clamp) rest[K] = Simd::max(rest[K], Simd::set(kLowestExponent));
    }
    if constexpr (Step == 1) whole[K] = Simd::nearest(rest[K]);
    if constexpr (Step == 2) exponent[K] = Simd::integer(rest[K]);
    if constexpr (Step == 3) rest[K] = Simd::sub(rest[K], whole[K]);
    if constexpr (Step == 4) power[K] = Simd::fma(Simd::set(kExp2Leading), rest[K], Simd::set(kExp2Rest[0]));
    if constexpr (Step == 5) exponent[K] = Simd::to_exponent(exponent[K]);
    if constexpr (Step >= 6 && Step <= 9) power[K] = Simd::fma(power[K], rest[K], Simd::set(kExp2Rest[Step - 5]));
    if constexpr (Step == 10) added[K] = Simd::mul(token.input, Simd::load(b + at));
    if constexpr (Step == 11) power[K] = Simd::scale(power[K], exponent[K]);
    if constexpr (Step == 12) Simd::store(h, added[K] = Simd::fma(power[K], Simd::load(h), added[K]));
    if constexpr (Step == 13) token.sum = Simd::fma(added[K], Simd::load(c + at), token.sum);
  }

  template <int... I>
  RS4D_INLINE void run_all(Token* tokens, std::integer_sequence<int, I...>) {
    constexpr Order<V * G> order = pipeline_order<V * G>();
    (run<order.chain[I], order.step[I]>(tokens), ...);
  }
};

template <int V, int G, bool Clamp>
RS4D_INLINE void advance(const float* decay, const float* b, const float* c, float* state, int64_t block,
                         Token* tokens) {
  Pipeline<V, G, Clamp> pipeline;
  pipeline.decay = decay, pipeline.b = b, pipeline.c = c, pipeline.state = state, pipeline.block = block;
  pipeline.run_all(tokens, std::make_integer_sequence<int, V * G * kSteps>());
}

// All states of one token in V blocks; b and then c stand at `wide`. N: their number, 0 if it is not known.
template <int N, int V, bool Clamp>
RS4D_INLINE void advance_token(const Channels& channels, const float* wide, int64_t states, Token* tokens) {
  const int64_t all = states * kLanes;
  const float *decay = channels.decay, *b = wide, *c = wide + all;
  if constexpr (N > 0) return advance<V, N, Clamp>(decay, b, c, channels.state, all, tokens);
  int64_t n = 0;
  for (; n + 4 * kLanes <= all; n += 4 * kLanes)
    advance<V, 4, Clamp>(decay + n, b + n, c + n, channels.state + n, all, tokens);
  for (; n < all; n += kLanes) advance<V, 1, Clamp>(decay + n, b + n, c + n, channels.state + n, all, tokens);
}

// kMaxLanes channels (one cache line of each row), or the rows.count < kMaxLanes that are left, block by block. Sixteen
// chains fill the pipeline: of blocks with fewer states two go together. Not inlined: it needs all registers.
template <int N, bool Full, bool Clamp>
__attribute__((noinline)) void rows_in_memory(const Rows& rows, const Channels& channels, const float* wide) {
  constexpr int V = Full && N < 16 ? 2 : 1;
  const int64_t states = N ? N : rows.states;
  const float *u = rows.u, *delta = rows.delta;
  float* y = rows.y;
  for (int64_t t = 0; t < rows.tokens; ++t) {
    prefetch_rows(rows, u, delta, y);
#pragma GCC unroll 2
    for (int64_t i = 0; Full ? i < kMaxLanes : i < rows.count; i += V * kLanes) {
      const Channels block = channels.at(i, states);
      Token tokens[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const int64_t lane = i + v * kLanes, left = rows.count - lane;
        const F x = load_lanes<Full>(u + lane, left), dt = load_lanes<Full>(delta + lane, left);
        tokens[v].rate = Clamp ? Simd::min(dt, Simd::load(channels.limit + lane)) : dt;
        tokens[v].input = Simd::mul(dt, x);
        tokens[v].sum = Simd::mul(load_lanes<Full>(channels.skip + lane, left), x);
      }
      advance_token<N, V, Clamp>(block, wide, states, tokens);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) store_lanes<Full>(y + i + v * kLanes, tokens[v].sum, rows.count - i - v * kLanes);
    }
    u += rows.row, delta += rows.row, y += rows.row, wide += 2 * states * kLanes;
  }
}

// Whether 2^(delta * decay) stays in the normal range all over the rows.
template <bool Full>
inline bool within_range(const Rows& rows, const Channels& channels) {
  for (int64_t i = 0; i < rows.count; i += kLanes) {
    F most = Simd::set(0.0f);
    for (int64_t t = 0; t < rows.tokens; ++t)
      most = Simd::max(most, load_lanes<Full>(rows.delta + t * rows.row + i, rows.count - i));
    const F bound = Simd::mul(Simd::load(channels.limit + i), Simd::set(-kLowestExponent / kExponentLimit));
    if (!Simd::all_at_most(most, bound)) return false;
  }
  return true;
}

template <int N, bool Full>
inline void scan_columns(const Rows& rows, const Channels& channels, const float* wide) {
  if (within_range<Full>(rows, channels)) {
    rows_in_memory<N, Full, false>(rows, channels, wide);
  } else {
    rows_in_memory<N, Full, true>(rows, channels, wide);
  }
}

// b and c of each token, each value repeated kLanes times: (tokens, 2, states, kLanes) in scan order.
inline void widen(const Rows& rows, float* wide) {
  for (int64_t t = 0; t < rows.tokens; ++t)
    for (const float* p : {rows.b + t * rows.narrow, rows.c + t * rows.narrow})
      for (int64_t n = 0; n < rows.states; ++n, wide += kLanes) Simd::store(wide, Simd::set(p[n]));
}

// Tokens of a tile: b and c for each lane leave room in the L1 cache.
inline int64_t tile_tokens(int64_t states) {
  const int64_t tokens = kWideStates / states;
  return tokens < 1 ? 1 : tokens < kTile ? tokens : kTile;
}

// At most tile_tokens tokens of any number of channels. `wide` is scratch of kWideFloats.
template <int N>
void scan_tile(const Rows& rows, const Channels& channels, float* wide) {
  widen(rows, wide);
  int64_t i = 0;
  for (; i + kMaxLanes <= rows.count; i += kMaxLanes)
    scan_columns<N, true>(rows.at(i, kMaxLanes), channels.at(i, rows.states), wide);
  if (i < rows.count) scan_columns<N, false>(rows.at(i, rows.count - i), channels.at(i, rows.states), wide);
}
