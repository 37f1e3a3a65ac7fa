// Greedy non-maximum suppression on CUDA, without a sort and without a loop that the host would have to end.
//
//   rs4d_nms_overlaps   for each box that takes part, a bit for each better one that overlaps it: what may suppress it
//   rs4d_nms_settle     one block for each group, by rounds: a box is out once one of its suppressors is kept, and kept
//                       once all of them are out; so every round settles the best box of every chain of overlaps
//
// What is kept is what `rs4d_edge.reference.nms` keeps, and the IoUs are rounded as ONNX Runtime rounds those of the
// node's body: the products are written so that the compiler does not fuse them with sums.
#ifndef RS4D_NATIVE_CUDA_SELECTION_CUH
#define RS4D_NATIVE_CUDA_SELECTION_CUH

#include "cuda_device.cuh"

namespace rs4d_cuda {

constexpr int kOverlapThreads = 128;  // a block's boxes, each against one word of others
constexpr int kSettleThreads = 256;
constexpr int kWordBits = 32;  // of the bits, and a warp's lanes
constexpr int kMostBoxes = 4096;
constexpr int kMostWords = kMostBoxes / kWordBits;

// The order of a group: better is a higher score, or the same with a lower index.
RS4D_DEVICE bool better(float score, int index, float than_score, int than_index) {
  return score > than_score || (score == than_score && index < than_index);
}

// The boxes of one word, by coordinate. Those that do not exist have a score that takes no part.
struct OverlapTile {
  float x1[kWordBits], y1[kWordBits], x2[kWordBits], y2[kWordBits], area[kWordBits], score[kWordBits];
};

RS4D_DEVICE float box_area(float x1, float y1, float x2, float y2) {
  return __fmul_rn(__fsub_rn(x2, x1), __fsub_rn(y2, y1));
}

// boxes (groups, count, 4) xyxy, scores (groups, count), overlaps (groups, words, count): bit i of word w of box j says
// that box 32 w + i suppresses j. Written for boxes that take part alone.
RS4D_DEVICE void find_overlaps(OverlapTile& tile, const float* __restrict__ boxes, const float* __restrict__ scores,
                               const float* __restrict__ iou_threshold, const float* __restrict__ score_threshold,
                               unsigned* __restrict__ overlaps, int count) {
  const int lane = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.y) * kWordBits;
  const int box = static_cast<int>(blockIdx.x) * kOverlapThreads + lane;
  const long long group = blockIdx.z, begin = group * count;
  const float lowest = *score_threshold, most_overlap = *iou_threshold;
  if (lane < kWordBits) {
    const int other = first + lane;
    tile.score[lane] = lowest;
    if (other < count) {
      const float* at = boxes + 4 * (begin + other);
      tile.x1[lane] = at[0], tile.y1[lane] = at[1], tile.x2[lane] = at[2], tile.y2[lane] = at[3];
      tile.area[lane] = box_area(at[0], at[1], at[2], at[3]);
      tile.score[lane] = scores[begin + other];
    }
  }
  __syncthreads();
  if (box >= count || !(scores[begin + box] > lowest)) return;
  const float* at = boxes + 4 * (begin + box);
  const float x1 = at[0], y1 = at[1], x2 = at[2], y2 = at[3], score = scores[begin + box];
  const float area = box_area(x1, y1, x2, y2);
  unsigned bits = 0;
  for (int i = 0; i < kWordBits; ++i) {
    if (!(tile.score[i] > lowest) || !better(tile.score[i], first + i, score, box)) continue;
    const float width = fmaxf(__fsub_rn(fminf(x2, tile.x2[i]), fmaxf(x1, tile.x1[i])), 0.0f);
    const float height = fmaxf(__fsub_rn(fminf(y2, tile.y2[i]), fmaxf(y1, tile.y1[i])), 0.0f);
    const float overlap = __fmul_rn(width, height);
    const float both = __fsub_rn(__fadd_rn(area, tile.area[i]), overlap);
    if (__fdiv_rn(overlap, both > 0.0f ? both : 1.0f) > most_overlap) bits |= 1u << i;
  }
  const long long words = gridDim.y;
  overlaps[(group * words + blockIdx.y) * count + box] = bits;
}

// Boxes of a group as bits, before a round and after it, in turns: `open` are not settled yet.
struct SettleBits {
  unsigned open[2][kMostWords], kept[2][kMostWords];
};

// Settles what can be settled from `now` and returns whether this thread's warp has open boxes left.
RS4D_DEVICE bool settle_round(SettleBits& bits, int now, const unsigned* __restrict__ overlaps, int count, int words) {
  bool left = false;
  for (int box = static_cast<int>(threadIdx.x); box < words * kWordBits; box += kSettleThreads) {
    const int word = box / kWordBits;
    const bool open = (bits.open[now][word] >> (box % kWordBits)) & 1u;
    unsigned blocked = 0, waits = 0;
    for (int w = 0; open && !blocked && w < words; ++w) {
      const unsigned kept = bits.kept[now][w], others = bits.open[now][w];
      if (!(kept | others)) continue;
      const unsigned suppressors = overlaps[static_cast<long long>(w) * count + box];
      blocked = suppressors & kept;
      waits |= suppressors & others;
    }
    const unsigned keeps = __ballot_sync(0xffffffffu, open && !blocked && !waits);
    const unsigned stays = __ballot_sync(0xffffffffu, open && !blocked && waits);
    if (box % kWordBits == 0) {
      bits.kept[1 - now][word] = bits.kept[now][word] | keeps;
      bits.open[1 - now][word] = stays;
    }
    left = left || stays;
  }
  return left;
}

// How many kept boxes are better than `box`.
RS4D_DEVICE int kept_ahead(const unsigned* kept, const float* __restrict__ scores, int box, int words) {
  int ahead = 0;
  for (int w = 0; w < words; ++w) {
    for (unsigned rest = kept[w]; rest; rest &= rest - 1) {
      const int other = w * kWordBits + __ffs(static_cast<int>(rest)) - 1;
      ahead += better(scores[other], other, scores[box], box);
    }
  }
  return ahead;
}

// keep (groups, count), 0 or 1. At most `most` are kept of a group, the best ones.
RS4D_DEVICE void settle(SettleBits& bits, const float* __restrict__ scores, const int* __restrict__ most,
                        const float* __restrict__ score_threshold, const unsigned* __restrict__ overlaps,
                        int* __restrict__ keep, int count) {
  const int words = (count + kWordBits - 1) / kWordBits, thread = static_cast<int>(threadIdx.x);
  const long long group = blockIdx.x;
  const float lowest = *score_threshold;
  scores += group * count, keep += group * count, overlaps += group * words * count;
  for (int box = thread; box < words * kWordBits; box += kSettleThreads) {
    const unsigned open = __ballot_sync(0xffffffffu, box < count && scores[box] > lowest);
    if (box % kWordBits == 0) bits.open[0][box / kWordBits] = open, bits.kept[0][box / kWordBits] = 0;
  }
  __syncthreads();
  int now = 0;
  for (int left = 1, rounds = count; left && rounds; --rounds, now = 1 - now) {  // no bits could make it go on for ever
    left = __syncthreads_or(settle_round(bits, now, overlaps, count, words));
  }
  int total = 0;
  for (int w = 0; w < words; ++w) total += __popc(bits.kept[now][w]);
  const int limit = *most;
  for (int box = thread; box < count; box += kSettleThreads) {
    bool kept = (bits.kept[now][box / kWordBits] >> (box % kWordBits)) & 1u;
    if (kept && total > limit) kept = kept_ahead(bits.kept[now], scores, box, words) < limit;
    keep[box] = kept;
  }
}

}  // namespace rs4d_cuda

#endif
