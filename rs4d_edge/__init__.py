"""RS4D remote-sensing instance segmentation on edge devices: `Predictor(bundle).run(frame)`.

Importing this package needs numpy, OpenCV and pydantic alone. Engines (`rs4d_edge.runtimes`) are imported when a bundle
asks for one; `rs4d_edge.reference`, `.training`, `.export` and `.calibration` are for workstations and need torch.
"""

from __future__ import annotations

from rs4d_edge.bundle import Bundle, open_bundle
from rs4d_edge.contract import MaskKind, ModelContract
from rs4d_edge.detections import Detection, Detections
from rs4d_edge.errors import RS4DError
from rs4d_edge.predictor import Predictor

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Detection",
    "Detections",
    "MaskKind",
    "ModelContract",
    "Predictor",
    "RS4DError",
    "__version__",
    "open_bundle",
]
