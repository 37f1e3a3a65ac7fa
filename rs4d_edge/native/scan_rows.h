// What the scan's passes share, for one instruction set. Included inside a namespace after its `struct Simd`.

using F = Simd::F;
constexpr int kLanes = Simd::kLanes;

// States of one block of kLanes channels: registers when their number is known, memory otherwise (N = 0).
template <int N>
struct States {
  F value[N];
  RS4D_INLINE States(float* memory, int64_t) {
    each([&](auto n) RS4D_INLINE_LAMBDA { value[n] = Simd::load(memory + n * kLanes); });
  }
  RS4D_INLINE F get(int n) const { return value[n]; }
  RS4D_INLINE void put(int n, F x) { value[n] = x; }
  RS4D_INLINE void keep(float* memory) const {
    each([&](auto n) RS4D_INLINE_LAMBDA { Simd::store(memory + n * kLanes, value[n]); });
  }
  template <class Body>
  RS4D_INLINE static void each(Body body) {
    unrolled(body, std::make_integer_sequence<int, N>());
  }
  template <class Body>
  RS4D_INLINE void each_state(Body body) const {
    each(body);
  }

 private:
  template <class Body, int... I>
  RS4D_INLINE static void unrolled(Body body, std::integer_sequence<int, I...>) {
    (body(std::integral_constant<int, I>()), ...);
  }
};

template <>
struct States<0> {
  float* memory;
  int64_t count;
  RS4D_INLINE States(float* state_memory, int64_t states) : memory(state_memory), count(states) {}
  RS4D_INLINE F get(int64_t n) const { return Simd::load(memory + n * kLanes); }
  RS4D_INLINE void put(int64_t n, F x) { Simd::store(memory + n * kLanes, x); }
  RS4D_INLINE void keep(float*) const {}
  template <class Body>
  RS4D_INLINE void each_state(Body body) const {
    for (int64_t n = 0; n < count; ++n) body(n);
  }
};

template <bool Full>
RS4D_INLINE F load_lanes(const float* p, int64_t count) {
  if constexpr (Full) return Simd::load(p);
  return Simd::load(p, count);
}

template <bool Full>
RS4D_INLINE void store_lanes(float* p, F x, int64_t count) {
  if constexpr (Full) {
    Simd::store(p, x);
  } else {
    Simd::store(p, x, count);
  }
}

// a * log2(e) of `count` channels, transposed to (states, kLanes), and how large delta may get before its product with
// a leaves the range of exp2_product (the exponential is 0 long before). Lanes beyond count hold 0.
inline void prepare_decay(const float* a, int64_t states, int64_t count, float* decay, float* limit) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    float largest = 1e-20f;
    for (int64_t n = 0; n < states; ++n) {
      float value = lane < count ? a[lane * states + n] * kLog2E : 0.0f;
      if (value < -kLargestDecay) value = -kLargestDecay;
      decay[n * kLanes + lane] = value;
      if (largest < -value) largest = -value;
    }
    limit[lane] = kExponentLimit / largest;
  }
}

// What the scan knows about a run of channels: decay (blocks, states, kLanes) and limit as prepare_decay leaves them,
// D, and the states (blocks, states, kLanes).
struct Channels {
  const float *decay, *limit, *skip;
  float* state;

  RS4D_INLINE Channels at(int64_t first, int64_t states) const {
    return {decay + first * states, limit + first, skip + first, state + first * states};
  }
};

// `count` channels over `tokens` tokens; floats from one token to the next: `row` in u, delta and y, `narrow` in b and
// c. `ahead` is how many rows ahead the tokens lie that will be asked for next, 0 where everything is in the caches.
struct Rows {
  const float *u, *delta, *b, *c;
  float* y;
  int64_t row, narrow, states, tokens, ahead, count;

  // `width` channels from `first` on.
  RS4D_INLINE Rows at(int64_t first, int64_t width) const {
    return {u + first, delta + first, b, c, y + first, row, narrow, states, tokens, ahead, width};
  }
  // At most `most` tokens from the token `done` on.
  RS4D_INLINE Rows from(int64_t done, int64_t most) const {
    const int64_t left = tokens - done < most ? tokens - done : most;
    return {u + done * row, delta + done * row, b + done * narrow, c + done * narrow, y + done * row, row, narrow,
            states,         left,               ahead,             count};
  }
};

// Rows lie far apart, so the processor does not foresee them: the next tile into L2, the next token into L1.
RS4D_INLINE void prefetch_rows(const Rows& rows, const float* u, const float* delta, const float* y) {
  __builtin_prefetch(u + rows.ahead * rows.row, 0, 2);
  __builtin_prefetch(delta + rows.ahead * rows.row, 0, 2);
  __builtin_prefetch(y + rows.ahead * rows.row, 0, 2);
  __builtin_prefetch(u + rows.row);
  __builtin_prefetch(delta + rows.row);
}
