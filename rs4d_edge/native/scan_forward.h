// The scan's forward pass for one instruction set, tile by tile over all channels of a unit. Included in a namespace
// after scan_registers.h or scan_memory.h.

// Any number of tokens and channels. `wide` is scratch of kWideFloats.
template <int N>
void scan_rows(const Rows& rows, const Channels& channels, float* wide) {
  const int64_t tile = tile_tokens(rows.states);
  for (int64_t done = 0; done < rows.tokens; done += tile) scan_tile<N>(rows.from(done, tile), channels, wide);
}

template <int N>
void forward_unit(const rs4d_scan_inputs& in, float* y, const Unit& unit) {
  alignas(64) float state[kStateFloats], decay[kStateFloats], wide[kWideFloats], limit[kUnitChannels];
  for (int64_t i = 0; i < unit.count; i += kLanes) {
    const int64_t count = unit.count - i < kLanes ? unit.count - i : kLanes;
    prepare_decay(in.a + (unit.first + i) * in.states, in.states, count, decay + i * in.states, limit + i);
    __builtin_memset(state + i * in.states, 0, sizeof(float) * static_cast<std::size_t>(in.states * kLanes));
  }
  const int64_t token = unit.batch * in.length + (in.reverse ? in.length - 1 : 0), step = in.reverse ? -1 : 1;
  const int64_t at = token * in.channels + unit.first, narrow = token * in.states;
  const Rows rows{in.u + at,          in.delta + at,    in.b + narrow, in.c + narrow, y + at,
                  step * in.channels, step * in.states, in.states,     in.length,     tile_tokens(in.states),
                  unit.count};
  scan_rows<N>(rows, {decay, limit, in.d + unit.first, state}, wide);
}

inline void forward(const rs4d_scan_inputs& in, float* y, const Unit& unit) {
  switch (in.states) {
    case 4: return forward_unit<4>(in, y, unit);
    case 8: return forward_unit<8>(in, y, unit);
    case 16: return forward_unit<16>(in, y, unit);
    default: return forward_unit<0>(in, y, unit);
  }
}
