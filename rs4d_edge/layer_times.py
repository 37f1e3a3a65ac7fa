"""Where the time of a frame goes: the nodes that an engine timed, put together by layer group and by operator kind.

Groups come from the nodes' names, which say the module that they were exported from (`backbone.layers.3.in_proj/MatMul`
is in_proj of layer 3). What the model computes outside of any module is called `graph/...`, and engines invent names of
their own (`MVN_301`): such a node is put where its neighbours are, by the order in which the nodes ran. A name that
tells of an unknown module is counted as `other`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from rs4d_edge.runtimes.contract import Runtime

LARGE_BYTES = 1 << 18  # a copy of less is over in tens of microseconds
OTHER = "other"


class NodeTime(NamedTuple):
    """One node of one run.

    `kind` is the operator in the engine's words, `ms` the node's own time without that of nodes inside it, `shape` and
    `item_bytes` are those of its first output, (1,) and 0 where the engine does not say. `outer` is the outermost node
    around it, for nodes of inner graphs.
    """

    name: str
    kind: str
    ms: float
    shape: tuple[int, ...] = (1,)
    item_bytes: int = 0
    outer: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its first output."""
        return math.prod(self.shape) * self.item_bytes


class ProfiledRuntime(Runtime, Protocol):
    """A runtime that keeps the time of every node."""

    def finish(self) -> list[list[NodeTime]]:
        """Close the runtime; the nodes of each run so far, in the order in which they ran."""
        ...


class Share(NamedTuple):
    """Milliseconds a frame and number of nodes of a group or a kind."""

    label: str
    ms: float
    nodes: int


class Move(NamedTuple):
    """A large tensor that is moved or converted without arithmetic, by `alike` nodes of as many layers."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size_bytes: int
    alike: int
    ms: float


_NORM, _IN, _CORE, _OUT, _REST = (
    f"encoder: {part}" for part in ("norm", "in_proj", "mixer core", "out_proj", "residual, position")
)
_PROPOSALS, _DETECTIONS = "proposals: selection, NMS", "detections: selection, NMS"
# In the order of computation; the first pattern that fits the beginning of a name wins. Names without a slash are those
# of intermediate results, which an engine may give to the last of the nodes that it fused.
_RULES = (
    ("normalise", r"normalised$"),
    ("stem", r"backbone\.stem\b|stem\.\d"),
    ("patch embedding", r"backbone\.patch_embed\b"),
    (_NORM, r"backbone\.(pre_norm|ln1)\b"),
    (_IN, r"backbone\.layers\.\d+\.in_proj\b"),
    (_CORE, r"backbone\.layers\.\d+(?!\.(in|out)_proj\b)|backbone\.gate_layers\b"),
    (_OUT, r"backbone\.layers\.\d+\.out_proj\b"),
    (_REST, r"backbone/|encoder\.\d"),
    ("neck", r"(neck|extra_pe)\b"),
    ("rpn", r"rpn_head\b|rpn_(cls|reg)\.\d"),
    (_PROPOSALS, r"proposals$|proposal_scores$"),
    ("RoIAlign", r"roi_features\b"),
    ("box head", r"roi_head\.bbox_head\b|class_logits$|box_deltas$"),
    (_DETECTIONS, r"(boxes|scores|labels)\b"),
    ("mask head", r"roi_head\.mask_head\b|shared_image_embedding\b|masks\b|mask_rows/"),
)
GROUPS = (*(group for group, _ in _RULES), OTHER)
_PATTERNS = tuple((group, re.compile(pattern)) for group, pattern in _RULES)
_FIRST = "normalise"
# What follows these modules without being in one: their results are split, selected or added.
_FOLLOWS = {"rpn": _PROPOSALS, "box head": _DETECTIONS, _IN: _CORE, _OUT: _REST}
HOLDERS = {"If", "Loop", "Scan", "TensorIterator"}  # kinds of nodes with a graph inside
_NORM_KINDS = {"MVN", "LayerNormalization"}
_MOVES = {
    *("Transpose", "Reorder", "ReorderInput", "ReorderOutput", "Convert", "Cast", "Split", "VariadicSplit"),
    *("Slice", "StridedSlice", "Concat", "Pad", "Expand", "Broadcast", "Tile"),
}


def group_of(node: NodeTime) -> str | None:
    """The group that the node's name and kind tell; None if they do not."""
    name = (node.outer or node.name).removeprefix("fused ")  # what ONNX Runtime puts before some
    if node.kind.lower() == "roialign":
        return "RoIAlign"
    for group, pattern in _PATTERNS:
        if pattern.match(name):
            return group
    module, slash, _ = name.partition("/")
    return OTHER if slash and module not in ("", "graph") else None


def place(nodes: Sequence[NodeTime]) -> list[tuple[NodeTime, str, bool]]:
    """Each node, in the order of computation, with its group, and whether its own name told it."""
    placed, last = [], _FIRST
    for node in nodes:
        told = group_of(node)
        group = told or _FOLLOWS.get(last, last)
        if told is None and node.kind in _NORM_KINDS and group.startswith("encoder"):
            group = _NORM
        placed.append((node, group, told is not None))
        last = last if group == OTHER else group
    return placed


def by_group(nodes: Sequence[NodeTime]) -> list[Share]:
    """The groups that occur, in the order of computation."""
    shares = _shares((group, node) for node, group, _ in place(nodes))
    return [shares[group] for group in GROUPS if group in shares]


def by_kind(nodes: Sequence[NodeTime]) -> list[Share]:
    """The operator kinds, those that take longest first."""
    shares = _shares((node.kind, node) for node in nodes)
    return sorted(shares.values(), key=lambda share: -share.ms)


def placed_by_order(nodes: Sequence[NodeTime]) -> float:
    """The part of the time, 0 to 1, in nodes whose names told no group."""
    total = sum(node.ms for node in nodes)
    return sum(node.ms for node, _, told in place(nodes) if not told) / total if total else 0.0


def large_moves(nodes: Sequence[NodeTime]) -> list[Move]:
    """What moves or converts tensors from `LARGE_BYTES` on; layers that are alike together, the longest first."""
    found: dict[tuple[str, str, tuple[int, ...]], list[NodeTime]] = {}
    for node in nodes:
        if node.kind in _MOVES and node.size_bytes >= LARGE_BYTES:
            name = re.sub(r"layers\.\d+", "layers.*", node.name)
            name = re.sub(r"_(token_)?\d+$", "", name)
            found.setdefault((name, node.kind, node.shape), []).append(node)
    moves = [
        Move(name, kind, shape, same[0].size_bytes, len(same), sum(node.ms for node in same))
        for (name, kind, shape), same in found.items()
    ]
    return sorted(moves, key=lambda move: -move.ms)


def middle_mean(runs: Sequence[Sequence[NodeTime]]) -> list[NodeTime]:
    """The nodes with the mean of their times over the middle half of the runs, by total time.

    Times of single nodes have long tails, so that medians of each would add up to less than any run took.
    """
    ordered = sorted(runs, key=lambda run: sum(node.ms for node in run))
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    nodes: dict[tuple[str, int], NodeTime] = {}
    totals: defaultdict[tuple[str, int], float] = defaultdict(float)
    for run in middle:
        for key, node in _numbered(run):
            nodes.setdefault(key, node)
            totals[key] += node.ms
    return [node._replace(ms=totals[key] / len(middle)) for key, node in nodes.items()]


def _numbered(run: Sequence[NodeTime]) -> list[tuple[tuple[str, int], NodeTime]]:
    """Each node with its name and how many of that name (loop bodies run often) came before it."""
    seen: Counter[str] = Counter()
    numbered = []
    for node in run:
        numbered.append(((node.name, seen[node.name]), node))
        seen[node.name] += 1
    return numbered


def _shares(pairs: Iterable[tuple[str, NodeTime]]) -> dict[str, Share]:
    shares: dict[str, Share] = {}
    for label, node in pairs:
        before = shares.get(label, Share(label, 0.0, 0))
        shares[label] = Share(label, before.ms + node.ms, before.nodes + 1)
    return shares
