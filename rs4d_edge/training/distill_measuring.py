"""How well a student speaks for its teacher on pictures that it was not trained on."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from rs4d_edge.training.distill_samples import SampleMaker
from rs4d_edge.training.student import Student, constant_l1, embedding_cosine, embedding_l1
from rs4d_edge.training.teacher_targets import TargetMaker
from rs4d_edge.training.teachers import Preprocessing, normalise


@torch.no_grad()
def measure(
    student: Student,
    samples: SampleMaker,
    count: int,
    per_pass: int,
    targets: TargetMaker,
    preprocessing: Preprocessing,
    fabric: Fabric,
) -> dict[str, float]:
    """Means over the first `count` pictures of `samples`, clean and as they are; processes share the work.

    `l1` and `cosine` (1 - cosine) to the teacher's embedding, `constant` the L1 of each picture's mean embedding, and
    `learnt` = 1 - l1 / constant: 1 is the teacher itself, 0 a student that cannot tell one place from another.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
    for number, first in enumerate(range(0, count, per_pass)):
        if number % fabric.world_size != fabric.global_rank:
            continue
        batch = samples.plain(first, min(per_pass, count - first))
        target = targets(batch)
        image = normalise(batch.frame.to(fabric.device), batch.valid_hw, preprocessing)
        with fabric.autocast():
            embedding = student(image)[0]
        truth, cells = target.maps[0], target.cells
        parts = (embedding_l1(embedding, truth, cells), embedding_cosine(embedding, truth, cells))
        sums += torch.stack([*(each.double().sum() for each in parts), constant_l1(truth, cells).double().sum()])
    if fabric.world_size > 1:
        sums = fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
    l1, cosine, constant = (sums / count).tolist()
    return {"l1": l1, "cosine": cosine, "constant": constant, "learnt": 1 - l1 / constant if constant else 0.0}
