// The mixer's core for one instruction set, on top of scan_forward.h: everything between in_proj and out_proj, tile by tile
// in the caches. Included inside a namespace after scan_forward.h. Rows of scratch are padded to whole blocks of channels.

constexpr int kGemmRows = kLanes == 16 ? 8 : 4;  // with three vectors of columns: the accumulators fit the registers
constexpr int kGemmVectors = 3;

RS4D_INLINE F exponential(F x) {
  const F clamped = Simd::min(Simd::max(x, Simd::set(-87.0f)), Simd::set(87.0f));
  return Simd::exp2_product(clamped, Simd::set(kLog2E));
}

RS4D_INLINE F silu(F x) {
  return Simd::div(x, Simd::add(Simd::set(1.0f), exponential(Simd::mul(x, Simd::set(-1.0f)))));
}

// log(1 + e^x) = max(x, 0) + log1p(e), e = exp(-|x|), and log1p(e) = 2 atanh(e / (2 + e)) as a series in the square:
// accurate relative to the result for any x, since a step size far below 1 multiplies everything that follows.
RS4D_INLINE F softplus(F x) {
  const F zero = Simd::set(0.0f), negative = Simd::mul(x, Simd::set(-1.0f));
  const F e = exponential(Simd::min(x, negative));
  const F s = Simd::div(e, Simd::add(Simd::set(2.0f), e)), q = Simd::mul(s, s);
  F series = Simd::fma(Simd::set(1.0f / 15.0f), q, Simd::set(1.0f / 13.0f));
  for (const float factor : {1.0f / 11.0f, 1.0f / 9.0f, 1.0f / 7.0f, 1.0f / 5.0f, 1.0f / 3.0f, 1.0f})
    series = Simd::fma(series, q, Simd::set(factor));
  return Simd::fma(Simd::add(s, s), series, Simd::max(x, zero));
}

// out (rows, V vectors) = start + left (rows, depth) * right (depth, V vectors); Finish maps each result.
template <int T, int V, class Finish>
RS4D_INLINE void multiply_block(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t depth,
                                const float* start, float* out, int64_t out_row, Finish finish) {
  F sums[T][V];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sums[t][v] = Simd::load(start + v * kLanes);
  for (int64_t k = 0; k < depth; ++k) {
    F column[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) column[v] = Simd::load(right + k * right_row + v * kLanes);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const F x = Simd::set(left[t * left_row + k]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[t][v] = Simd::fma(x, column[v], sums[t][v]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) Simd::store(out + t * out_row + v * kLanes, finish(sums[t][v]));
}

template <int V, class Finish>
inline void multiply_rows(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t depth,
                          const float* start, float* out, int64_t out_row, int64_t rows, Finish finish) {
  int64_t t = 0;
  for (; t + kGemmRows <= rows; t += kGemmRows)
    multiply_block<kGemmRows, V>(left + t * left_row, left_row, right, right_row, depth, start, out + t * out_row,
                                 out_row, finish);
  for (; t < rows; ++t)
    multiply_block<1, V>(left + t * left_row, left_row, right, right_row, depth, start, out + t * out_row, out_row,
                         finish);
}

// Columns are a whole number of vectors.
template <class Finish>
inline void multiply(const float* left, int64_t left_row, const float* right, int64_t columns, int64_t depth,
                     const float* start, float* out, int64_t rows, Finish finish) {
  int64_t j = 0;
  for (; j + kGemmVectors * kLanes <= columns; j += kGemmVectors * kLanes)
    multiply_rows<kGemmVectors>(left, left_row, right + j, columns, depth, start + j, out + j, columns, rows, finish);
  for (; j < columns; j += kLanes)
    multiply_rows<1>(left, left_row, right + j, columns, depth, start + j, out + j, columns, rows, finish);
}

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

// SiLU of the convolution of the `tokens` tokens from `step0` in scan order, to rows of v.
inline void convolve_tile(const rs4d_mixer_inputs& in, const MixerMemory& m, const MixerUnit& unit, int64_t step0,
                          int64_t tokens, float* v) {
  const int64_t stride = unit.reverse ? -2 * in.channels : 2 * in.channels;
  const int64_t first = unit.batch * in.length + (unit.reverse ? in.length - 1 : 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t step = step0 + t, skipped = step + 1 < in.taps ? in.taps - 1 - step : 0;
    const float* oldest = in.uz + first * 2 * in.channels + (step - in.taps + 1) * stride;
    for (int64_t e = 0; e < m.channels; e += kLanes) {
      const int64_t left = in.channels - e;
      F sum = Simd::load(m.conv_bias + e);
      for (int64_t k = skipped; k < in.taps; ++k) {
        const float* u = oldest + k * stride + e;
        const F x = left >= kLanes ? Simd::load(u) : Simd::load(u, left < 0 ? 0 : left);
        sum = Simd::fma(x, Simd::load(m.conv_weight + k * m.channels + e), sum);
      }
      Simd::store(v + t * m.channels + e, silu(sum));
    }
  }
}

// The rows of y of one tile, to memory as they are (first pass over these tokens), or joined with what the other
// direction left there: the mean of both, times SiLU(z).
inline void write_tile(const rs4d_mixer_inputs& in, const MixerMemory& m, const MixerUnit& unit, int64_t step0,
                       int64_t tokens, const float* y, float* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t step = step0 + t, token = unit.batch * in.length + (unit.reverse ? in.length - 1 - step : step);
    const float* z = in.uz + token * 2 * in.channels + in.channels;
    float* row = out + token * in.channels;
    for (int64_t e = 0; e < in.channels; e += kLanes) {
      const int64_t count = in.channels - e < kLanes ? in.channels - e : kLanes;
      F value = Simd::load(y + t * m.channels + e);
      if (unit.second_half) {
        const F other = count == kLanes ? Simd::load(row + e) : Simd::load(row + e, count);
        const F gate = silu(count == kLanes ? Simd::load(z + e) : Simd::load(z + e, count));
        value = Simd::mul(Simd::mul(Simd::add(value, other), Simd::set(0.5f)), gate);
      }
      if (count == kLanes) {
        Simd::store(row + e, value);
      } else {
        Simd::store(row + e, value, count);
      }
    }
  }
}

template <int N>
void mixer_tiles(const rs4d_mixer_inputs& in, float* y, const MixerMemory& m, const MixerUnit& unit,
                 const MixerTile& tile, float* state) {
  alignas(64) float wide[kWideFloats];
  const auto same = [](F x) RS4D_INLINE_LAMBDA { return x; };
  const auto step_size = [](F x) RS4D_INLINE_LAMBDA { return softplus(x); };
  for (int64_t step = unit.begin; step < unit.end; step += kMixerTile) {
    const int64_t tokens = unit.end - step < kMixerTile ? unit.end - step : kMixerTile;
    convolve_tile(in, m, unit, step, tokens, tile.v);
    multiply(tile.v, m.channels, m.x_proj, m.narrow, m.channels, m.zeros, tile.narrow, tokens, same);
    multiply(tile.narrow, m.narrow, m.dt_proj, m.channels, in.rank, m.dt_bias, tile.delta, tokens, step_size);
    const float* narrow = tile.narrow + in.rank;
    const Rows rows{tile.v,   tile.delta, narrow,    narrow + in.states, tile.y, m.channels,
                    m.narrow, in.states,  tokens,    0,                  m.channels};
    scan_rows<N>(rows, {m.decay, m.limit, m.skip, state}, wide);
    write_tile(in, m, unit, step, tokens, tile.y, y);
  }
}

// One direction of one sequence over the tokens [begin, end) in scan order. `state` starts as zeros or as it was left.
inline void mixer(const rs4d_mixer_inputs& in, float* y, const MixerMemory& m, const MixerUnit& unit,
                  const MixerTile& tile, float* state) {
  switch (in.states) {
    case 4: return mixer_tiles<4>(in, y, m, unit, tile, state);
    case 8: return mixer_tiles<8>(in, y, m, unit, tile, state);
    case 16: return mixer_tiles<16>(in, y, m, unit, tile, state);
    default: return mixer_tiles<0>(in, y, m, unit, tile, state);
  }
}
