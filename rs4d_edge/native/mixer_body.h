// The mixer's core for one instruction set: everything between in_proj and out_proj. Included inside a namespace after
// scan_forward.h and the other mixer headers. Rows of scratch are padded to whole cache lines.

// Weights transposed to (depth, columns) and padded with zeros, once for each call.
inline void mixer_prepare(const rs4d_mixer_inputs& in, const MixerMemory& m) {
  const int64_t channels = in.channels, width = m.channels, narrow = in.rank + 2 * in.states;
  __builtin_memset(m.x_proj, 0, sizeof(float) * static_cast<std::size_t>(m.packed));
  for (int64_t j = 0; j < narrow; ++j)
    for (int64_t e = 0; e < channels; ++e) m.x_proj[e * m.narrow + j] = in.x_proj[j * channels + e];
  for (int64_t e = 0; e < channels; ++e) {
    for (int64_t r = 0; r < in.rank; ++r) m.dt_proj[r * width + e] = in.dt_proj[e * in.rank + r];
    for (int64_t k = 0; k < in.taps; ++k) m.conv_weight[k * width + e] = in.conv_weight[e * in.taps + k];
    m.conv_bias[e] = in.conv_bias[e], m.dt_bias[e] = in.dt_bias[e], m.skip[e] = in.d[e];
  }
  for (int64_t e = 0; e < width; e += kLanes) {
    const int64_t left = channels - e, count = left < 0 ? 0 : left < kLanes ? left : kLanes;
    prepare_decay(in.a + (count ? e : 0) * in.states, in.states, count, m.decay + e * in.states, m.limit + e);
  }
}

// Calls block(e, vectors, full, left) over the channels, four vectors at a time while they last; `left` of the lanes of
// a vector exist where it is not full.
template <class Block>
RS4D_INLINE void each_vector(int64_t channels, int64_t width, Block block) {
  constexpr std::integral_constant<int, 4> four{};
  constexpr std::integral_constant<int, 1> one{};
  int64_t e = 0;
  for (; e + 4 * kLanes <= channels; e += 4 * kLanes) block(e, four, std::true_type(), int64_t{kLanes});
  for (; e + kLanes <= channels; e += kLanes) block(e, one, std::true_type(), int64_t{kLanes});
  for (; e < width; e += kLanes) block(e, one, std::false_type(), channels - e < 0 ? int64_t{0} : channels - e);
}

// SiLU of the convolution of one token, to v; the first tap's token stands at `oldest`, the taps before `skipped` count
// as zero. Taps: their number, 0 where it is not known or some are skipped.
template <int Taps>
RS4D_INLINE void convolve_token(const rs4d_mixer_inputs& in, const MixerMemory& m, const float* oldest, int64_t stride,
                                int64_t skipped, float* v) {
  const float* ahead = oldest + (in.taps + 3) * stride;  // rows are pages apart: nothing else fetches them in time
  each_vector(in.channels, m.channels, [&](int64_t e, auto vectors, auto full, int64_t left) RS4D_INLINE_LAMBDA {
    constexpr int V = decltype(vectors)::value;
    F sum[V];
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      const int64_t at = e + i * kLanes;
      __builtin_prefetch(ahead + at);
      sum[i] = Simd::load(m.conv_bias + at);
#pragma GCC unroll 4
      for (int64_t k = Taps ? 0 : skipped; k < (Taps ? Taps : in.taps); ++k) {
        const F x = load_lanes<decltype(full)::value>(oldest + k * stride + at, left);
        sum[i] = Simd::fma(x, Simd::load(m.conv_weight + k * m.channels + at), sum[i]);
      }
    }
    silu(sum);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) Simd::store(v + e + i * kLanes, sum[i]);
  });
}

// The same of a unit's tokens, to the rows of v.
inline void convolve(const rs4d_mixer_inputs& in, const MixerMemory& m, const MixerUnit& unit, float* v) {
  const int64_t stride = unit.reverse ? -2 * in.channels : 2 * in.channels;
  const float* first = in.uz + (unit.batch * in.length + (unit.reverse ? in.length - 1 : 0)) * 2 * in.channels;
  for (int64_t step = unit.begin; step < unit.end; ++step, v += m.channels) {
    const int64_t skipped = step + 1 < in.taps ? in.taps - 1 - step : 0;
    const float* oldest = first + (step - in.taps + 1) * stride;
    if (in.taps == 4 && !skipped) {
      convolve_token<4>(in, m, oldest, stride, 0, v);
    } else {
      convolve_token<0>(in, m, oldest, stride, skipped, v);
    }
  }
}

// Convolution and projections of a unit's tokens, to rows of v, delta and narrow.
inline void mixer_project(const rs4d_mixer_inputs& in, const MixerMemory& m, const MixerUnit& unit,
                          const MixerRows& rows) {
  const int64_t tokens = unit.end - unit.begin, columns = (in.rank + 2 * in.states + kLanes - 1) / kLanes * kLanes;
  convolve(in, m, unit, rows.v);
  multiply({rows.v, m.x_proj, m.zeros, rows.narrow, m.channels, m.narrow, m.narrow, m.channels, tokens, columns},
           [](auto&) RS4D_INLINE_LAMBDA {});
  multiply({rows.narrow, m.dt_proj, m.dt_bias, rows.delta, m.narrow, m.channels, m.channels, in.rank, tokens,
            m.channels},
           [](auto& x) RS4D_INLINE_LAMBDA { softplus(x); });
}

// A unit's rows of the scan's output, to memory as they are (first pass over these tokens), or joined with what the
// other direction left there: the mean of both, times SiLU(z).
template <bool Join>
inline void write_rows(const rs4d_mixer_inputs& in, const MixerMemory& m, const MixerUnit& unit, const float* rows,
                       float* y) {
  const int64_t direction = unit.reverse ? -1 : 1, left_over = in.channels - unit.first;
  const int64_t count = unit.channels < left_over ? unit.channels : left_over;
  for (int64_t step = unit.begin; step < unit.end; ++step, rows += m.channels) {
    const int64_t token = unit.batch * in.length + (unit.reverse ? in.length - 1 - step : step);
    const float *z = in.uz + (2 * token + 1) * in.channels + unit.first, *own = rows + unit.first;
    float* out = y + token * in.channels + unit.first;
    each_vector(count, count, [&](int64_t e, auto vectors, auto full, int64_t left) RS4D_INLINE_LAMBDA {
      constexpr int V = decltype(vectors)::value;
      constexpr bool Full = decltype(full)::value;
      F gate[V];
#pragma GCC unroll 4
      for (int i = 0; Join && i < V; ++i) {
        const int64_t at = e + i * kLanes;
        __builtin_prefetch(z + direction * 8 * in.channels + at);
        gate[i] = load_lanes<Full>(z + at, left);
      }
      if constexpr (Join) silu(gate);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        const int64_t at = e + i * kLanes;
        __builtin_prefetch(out + direction * 4 * in.channels + at);
        F value = Simd::load(own + at);
        if constexpr (Join) {
          const F mean = Simd::mul(Simd::add(value, load_lanes<Full>(out + at, left)), Simd::set(0.5f));
          value = Simd::mul(mean, gate[i]);
        }
        store_lanes<Full>(out + at, value, left);
      }
    });
  }
}

// The scan of a unit's channels over its tokens, in place of v, and the result to y. `state` (channels, states) starts
// as zeros or as it was left.
template <int N>
void scan_unit(const rs4d_mixer_inputs& in, float* y, const MixerMemory& m, const MixerUnit& unit,
               const MixerRows& rows, float* state) {
  alignas(64) float wide[kWideFloats];
  const float *b = rows.narrow + in.rank, *c = b + in.states;
  float* v = rows.v + unit.first;
  const Rows all{v,         rows.delta + unit.first, b, c,           v, m.channels, m.narrow, in.states,
                 unit.end - unit.begin, 0,           unit.channels};
  const Channels channels{m.decay, m.limit, m.skip, state};
  scan_rows<N>(all, channels.at(unit.first, in.states), wide);
  if (unit.second_half) {
    write_rows<true>(in, m, unit, rows.v, y);
  } else {
    write_rows<false>(in, m, unit, rows.v, y);
  }
}

inline void mixer_scan(const rs4d_mixer_inputs& in, float* y, const MixerMemory& m, const MixerUnit& unit,
                       const MixerRows& rows, float* state) {
  switch (in.states) {
    case 4: return scan_unit<4>(in, y, m, unit, rows, state);
    case 8: return scan_unit<8>(in, y, m, unit, rows, state);
    case 16: return scan_unit<16>(in, y, m, unit, rows, state);
    default: return scan_unit<0>(in, y, m, unit, rows, state);
  }
}
