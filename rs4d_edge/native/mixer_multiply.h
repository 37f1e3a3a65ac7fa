// Narrow matrix products for one instruction set: the mixer's projections of a tile. Included inside a namespace after
// scan_rows.h.

constexpr int kGemmRows = kLanes == 16 ? 8 : 4;  // with three vectors of columns: the accumulators fit the registers
constexpr int kGemmVectors = 3;

// out (rows, columns) = start + left (rows, depth) * right (depth, columns); floats from one row to the next. Columns
// are a whole number of vectors.
struct Product {
  const float *left, *right, *start;
  float* out;
  int64_t left_row, right_row, out_row, depth, rows, columns;
};

// T rows from `t` and V vectors from column `j` of the product; finish maps the results of each row in place.
template <int T, int V, class Finish>
RS4D_INLINE void multiply_block(const Product& p, int64_t t, int64_t j, Finish finish) {
  const float *left = p.left + t * p.left_row, *right = p.right + j;
  F sums[T][V];
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sums[i][v] = Simd::load(p.start + j + v * kLanes);
  for (int64_t k = 0; k < p.depth; ++k) {
    F column[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) column[v] = Simd::load(right + k * p.right_row + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      const F x = Simd::set(left[i * p.left_row + k]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[i][v] = Simd::fma(x, column[v], sums[i][v]);
    }
  }
  float* out = p.out + t * p.out_row + j;
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i) {
    finish(sums[i]);
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) Simd::store(out + i * p.out_row + v * kLanes, sums[i][v]);
  }
}

template <int V, class Finish>
inline void multiply_columns(const Product& p, int64_t j, Finish finish) {
  int64_t t = 0;
  for (; t + kGemmRows <= p.rows; t += kGemmRows) multiply_block<kGemmRows, V>(p, t, j, finish);
  for (; t < p.rows; ++t) multiply_block<1, V>(p, t, j, finish);
}

template <class Finish>
inline void multiply(const Product& p, Finish finish) {
  const int64_t wide = kGemmVectors * kLanes, columns = p.columns;
  int64_t j = 0;
  for (; columns - j >= wide && columns - j != wide + kLanes; j += wide) multiply_columns<3>(p, j, finish);
  for (; columns - j >= 2 * kLanes; j += 2 * kLanes) multiply_columns<2>(p, j, finish);
  if (j < columns) multiply_columns<1>(p, j, finish);
}
