"""Whether detections on golden frames are the reference's: the rule of the export's gate, and again of a device.

Every detection needs a partner of the same class, unless it lies so near to the score at which a list is cut that
rounding decides; and partners must be no further apart than the limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rs4d_edge.detections import Detections
from rs4d_edge.manifest import DetectionParity
from rs4d_edge.matching import FrameComparison, compare_detections, exceeds
from rs4d_edge.tolerances import Tolerances


@dataclass
class DetectionCheck:
    """What was found frame by frame. `moved` names pairs that are too far apart, `excused` counts those at a cut."""

    limits: Tolerances
    frames: list[FrameComparison] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    excused: int = 0

    def add(
        self, reference: Detections, found: Detections, cuts: Iterable[float], pixels_per_input_pixel: float
    ) -> FrameComparison:
        """Compare one frame. `cuts` are the scores at which either list ends.

        `pixels_per_input_pixel`: how many times finer the frame is than the network's input.
        """
        comparison = compare_detections(reference, found, self.limits.match_iou)
        number = len(self.frames)
        self.frames.append(comparison)
        self.moved += [
            f"{reference.class_names[match.reference]} of frame {number} by {match.box_px:.2f} px, "
            f"{match.score:.1e} in score, to mask IoU {match.mask_iou:.3f}"
            for match in comparison.matches
            if exceeds(match, self.limits, pixels_per_input_pixel)
        ]
        ends = tuple(cuts)
        self.excused += sum(
            min(abs(score - cut) for cut in ends) <= self.limits.cut_margin for score in comparison.lonely
        )
        return comparison

    def complaints(self) -> list[str]:
        """What the limits do not allow, in words; empty if all is well."""
        found = []
        lonely = sum(len(frame.lonely) for frame in self.frames) - self.excused
        total = sum(frame.reference + frame.exported for frame in self.frames)
        if lonely > self.limits.unmatched * total:
            found.append(f"{lonely} of {total} detections have no partner")
        if len(self.moved) > self.limits.moved_pairs * sum(len(frame.matches) for frame in self.frames):
            found.append(f"{len(self.moved)} pairs moved: {'; '.join(self.moved[:3])}")
        return found

    def record(self) -> DetectionParity:
        """Counts and worst differences."""
        matches = [match for frame in self.frames for match in frame.matches]
        return DetectionParity(
            reference=sum(frame.reference for frame in self.frames),
            exported=sum(frame.exported for frame in self.frames),
            matched=len(matches),
            match_iou=self.limits.match_iou,
            max_box_diff_px=max((match.box_px for match in matches), default=None),
            max_score_diff=max((match.score for match in matches), default=None),
            min_mask_iou=min((match.mask_iou for match in matches), default=None),
            excused_at_the_cut=self.excused,
        )
