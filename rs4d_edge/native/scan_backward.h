// The scan's backward pass for one instruction set. Included inside a namespace after scan_rows.h.

// Runs the states over one checkpoint interval. With Store, keeps the state before each token and each decay factor.
template <int N, bool Full, bool Store>
void replay_rows(const Rows& rows, const float* decay, const float* limit, float* state, float* before, float* factors) {
  States<N> h(state, rows.states);
  const F largest = Simd::load(limit);
  const int64_t row = rows.row, block = rows.states * kLanes;
  for (int64_t t = 0; t < rows.tokens; ++t) {
    const F x = load_lanes<Full>(rows.u + t * row, rows.count), dt = load_lanes<Full>(rows.delta + t * row, rows.count);
    const F rate = Simd::min(dt, largest), input = Simd::mul(dt, x);
    const float* b = rows.b + t * rows.narrow;
    if constexpr (!Store) {
      __builtin_prefetch(rows.u + (t + kTile) * row, 0, 2);
      __builtin_prefetch(rows.delta + (t + kTile) * row, 0, 2);
    }
    h.each_state([&](auto n) RS4D_INLINE_LAMBDA {
      const F keep = Simd::exp2_product(rate, Simd::load(decay + n * kLanes));
      if constexpr (Store) {
        Simd::store(before + t * block + n * kLanes, h.get(n));
        Simd::store(factors + t * block + n * kLanes, keep);
      }
      h.put(n, Simd::fma(keep, h.get(n), Simd::mul(input, Simd::set(b[n]))));
    });
  }
  if constexpr (Store) {
    h.each_state([&](auto n) RS4D_INLINE_LAMBDA { Simd::store(before + rows.tokens * block + n * kLanes, h.get(n)); });
  }
  h.keep(state);
}

// Outputs and running sums of one block in the backward pass.
struct BackRows {
  const float* grad_y;
  float *grad_u, *grad_delta;  // at the interval's first token
  float *sum_b, *sum_c;        // (tokens, states, kLanes), summed over the unit's blocks
  float *grad_a, *grad_d;      // (states, kLanes) and (kLanes), summed over tokens
};

template <int N, bool Full>
void backward_rows(const Rows& rows, const BackRows& back, const float* decay, const float* skip, float* carried,
                   const float* before, const float* factors) {
  States<N> carry(carried, rows.states);
  const F d = load_lanes<Full>(skip, rows.count);
  F grad_d = Simd::load(back.grad_d);
  float* const grad_a = back.grad_a;
  const int64_t row = rows.row, block = rows.states * kLanes;
  for (int64_t t = rows.tokens - 1; t >= 0; --t) {
    const F x = load_lanes<Full>(rows.u + t * row, rows.count), dt = load_lanes<Full>(rows.delta + t * row, rows.count);
    const F gy = load_lanes<Full>(back.grad_y + t * row, rows.count), input = Simd::mul(dt, x);
    const float *b = rows.b + t * rows.narrow, *c = rows.c + t * rows.narrow;
    const float *h = before + t * block, *keep = factors + t * block;
    float *sum_b = back.sum_b + t * block, *sum_c = back.sum_c + t * block;
    for (const float* p : {rows.u, rows.delta, back.grad_y, static_cast<const float*>(back.grad_u),
                           static_cast<const float*>(back.grad_delta)})
      __builtin_prefetch(p + (t - 2 * kCheckpoint) * row, 0, 2);
    F through_b = Simd::set(0.0f), through_decay = Simd::set(0.0f);
    carry.each_state([&](auto n) RS4D_INLINE_LAMBDA {
      const int64_t at = n * kLanes;
      const F g = Simd::fma(gy, Simd::set(c[n]), carry.get(n));
      Simd::store(sum_c + at, Simd::fma(gy, Simd::load(h + block + at), Simd::load(sum_c + at)));
      Simd::store(sum_b + at, Simd::fma(g, input, Simd::load(sum_b + at)));
      through_b = Simd::fma(g, Simd::set(b[n]), through_b);
      const F kept = Simd::mul(g, Simd::load(keep + at));
      const F moved = Simd::mul(kept, Simd::load(h + at));
      through_decay = Simd::fma(moved, Simd::load(decay + at), through_decay);
      Simd::store(grad_a + at, Simd::fma(moved, dt, Simd::load(grad_a + at)));
      carry.put(n, kept);
    });
    grad_d = Simd::fma(gy, x, grad_d);
    store_lanes<Full>(back.grad_u + t * row, Simd::fma(dt, through_b, Simd::mul(d, gy)), rows.count);
    store_lanes<Full>(back.grad_delta + t * row,
                      Simd::fma(x, through_b, Simd::mul(through_decay, Simd::set(kLn2))), rows.count);
  }
  Simd::store(back.grad_d, grad_d);
  carry.keep(carried);
}

// Scratch of a thread: what one unit's blocks keep between the two passes, then the arrays of one interval.
struct Scratch {
  float *decay, *limit, *carry, *grad_a, *grad_d, *checkpoints, *before, *factors, *sum_b, *sum_c;

  Scratch(float* memory, int64_t intervals, int64_t states) {
    const auto take = [&memory](int64_t floats) {
      float* taken = memory;
      memory += floats;
      return taken;
    };
    const int64_t all = kBackwardGroup * states, block = states * kMaxLanes;
    decay = take(all), carry = take(all), grad_a = take(all);
    limit = take(kBackwardGroup), grad_d = take(kBackwardGroup);
    checkpoints = take(all * intervals);
    before = take(block * (kCheckpoint + 1)), factors = take(block * kCheckpoint);
    sum_b = take(block * kCheckpoint), sum_c = take(block * kCheckpoint);
  }
};

inline Rows interval_rows(const rs4d_scan_inputs& in, const Unit& unit, int64_t interval, int64_t i) {
  const int64_t done = interval * kCheckpoint, left = in.length - done, step = in.reverse ? -1 : 1;
  const int64_t token = unit.batch * in.length + (in.reverse ? in.length - 1 - done : done);
  const int64_t at = token * in.channels + unit.first + i;
  return {in.u + at,
          in.delta + at,
          in.b + token * in.states,
          in.c + token * in.states,
          nullptr,
          step * in.channels,
          step * in.states,
          in.states,
          left < kCheckpoint ? left : kCheckpoint,
          0,
          unit.count - i < kLanes ? unit.count - i : kLanes};
}

// Sums over the lanes: (tokens, states, kLanes) to the rows of (length, states) that the interval covers.
inline void fold_lanes(const float* sums, float* out, const Rows& rows) {
  for (int64_t t = 0; t < rows.tokens; ++t)
    for (int64_t n = 0; n < rows.states; ++n)
      out[t * rows.narrow + n] = Simd::sum(Simd::load(sums + (t * rows.states + n) * kLanes));
}

template <int N, bool Full>
void backward_block(const rs4d_scan_inputs& in, const float* grad_y, const rs4d_scan_gradients& grads, const Unit& unit,
                    const Scratch& s, int64_t interval, int64_t i) {
  const Rows rows = interval_rows(in, unit, interval, i);
  const int64_t at = rows.u - in.u, block = i * in.states, intervals = (in.length + kCheckpoint - 1) / kCheckpoint;
  float* checkpoint = s.checkpoints + block * intervals + interval * in.states * kLanes;
  replay_rows<N, Full, true>(rows, s.decay + block, s.limit + i, checkpoint, s.before, s.factors);
  const BackRows back{grad_y + at, grads.u + at, grads.delta + at, s.sum_b, s.sum_c, s.grad_a + block, s.grad_d + i};
  backward_rows<N, Full>(rows, back, s.decay + block, in.d + unit.first + i, s.carry + block, s.before, s.factors);
}

// First pass: the state at the start of each interval of one block.
template <int N, bool Full>
void store_checkpoints(const rs4d_scan_inputs& in, const Unit& unit, const Scratch& s, int64_t intervals, int64_t i) {
  const int64_t block = in.states * kLanes;
  float* checkpoints = s.checkpoints + i * in.states * intervals;
  __builtin_memset(checkpoints, 0, sizeof(float) * static_cast<std::size_t>(block));
  for (int64_t k = 0; k + 1 < intervals; ++k) {
    float* next = checkpoints + (k + 1) * block;
    __builtin_memcpy(next, checkpoints + k * block, sizeof(float) * static_cast<std::size_t>(block));
    replay_rows<N, Full, false>(interval_rows(in, unit, k, i), s.decay + i * in.states, s.limit + i, next, nullptr,
                                nullptr);
  }
}

template <int N>
void backward_unit(const rs4d_scan_inputs& in, const float* grad_y, const rs4d_scan_gradients& grads, const Unit& unit,
                   const Partials& partials) {
  const int64_t states = in.states, intervals = (in.length + kCheckpoint - 1) / kCheckpoint;
  const Scratch s(partials.scratch, intervals, states);
  const auto zero = [](float* p, int64_t n) { __builtin_memset(p, 0, sizeof(float) * static_cast<std::size_t>(n)); };
  zero(s.carry, kBackwardGroup * states), zero(s.grad_a, kBackwardGroup * states), zero(s.grad_d, kBackwardGroup);
  for (int64_t i = 0; i < unit.count; i += kLanes) {
    const int64_t count = unit.count - i < kLanes ? unit.count - i : kLanes;
    prepare_decay(in.a + (unit.first + i) * states, states, count, s.decay + i * states, s.limit + i);
    if (count == kLanes) {
      store_checkpoints<N, true>(in, unit, s, intervals, i);
    } else {
      store_checkpoints<N, false>(in, unit, s, intervals, i);
    }
  }
  for (int64_t interval = intervals - 1; interval >= 0; --interval) {
    const Rows rows = interval_rows(in, unit, interval, 0);
    zero(s.sum_b, rows.tokens * states * kLanes), zero(s.sum_c, rows.tokens * states * kLanes);
    for (int64_t i = 0; i < unit.count; i += kLanes) {
      if (unit.count - i >= kLanes) {
        backward_block<N, true>(in, grad_y, grads, unit, s, interval, i);
      } else {
        backward_block<N, false>(in, grad_y, grads, unit, s, interval, i);
      }
    }
    const int64_t offset = rows.b - in.b - unit.batch * in.length * states;
    fold_lanes(s.sum_b, partials.b + offset, rows);
    fold_lanes(s.sum_c, partials.c + offset, rows);
  }
  for (int64_t e = 0; e < unit.count; ++e) {
    const float* sums = s.grad_a + e / kLanes * kLanes * states + e % kLanes;
    for (int64_t n = 0; n < states; ++n) partials.a[(unit.first + e) * states + n] = sums[n * kLanes];
    partials.d[unit.first + e] = s.grad_d[e];
  }
}

inline void backward(const rs4d_scan_inputs& in, const float* grad_y, const rs4d_scan_gradients& grads,
                     const Unit& unit, const Partials& partials) {
  switch (in.states) {
    case 4: return backward_unit<4>(in, grad_y, grads, unit, partials);
    case 8: return backward_unit<8>(in, grad_y, grads, unit, partials);
    case 16: return backward_unit<16>(in, grad_y, grads, unit, partials);
    default: return backward_unit<0>(in, grad_y, grads, unit, partials);
  }
}
