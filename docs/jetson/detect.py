"""Find objects in a camera's frames and print one line of JSON for each: `python detect.py BUNDLE SOURCE`.

SOURCE is a camera's device (/dev/video0), a video file, or an address that OpenCV opens. Ends with status 0 after
SIGTERM or the end of a file, and with 1 where a camera stops or an error says why.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path
from threading import Event

import cv2
import numpy as np

from rs4d_edge import Predictor
from rs4d_edge.errors import RS4DError


def main(bundle: str, source: str) -> str | None:
    """Work until told to end; returns what went wrong, if anything did."""
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    camera = cv2.VideoCapture(source)
    if not camera.isOpened():
        return f"{source} cannot be opened: is it there, and is this user in the group video?"
    try:
        with Predictor(bundle) as predictor:
            while not stopping.is_set():
                there, frame = camera.read()
                if not there:
                    return None if Path(source).is_file() else f"{source} gives no more frames"
                found = predictor.run(np.asarray(frame, np.uint8), color="BGR")
                columns = zip(found.class_names, found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True)
                objects = [{"class_name": name, "score": score, "box_xyxy": box} for name, score, box in columns]
                time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
                line = {"time": time, "latency_ms": found.timings.total_ms, "objects": objects}
                sys.stdout.write(f"{json.dumps(line)}\n")
                sys.stdout.flush()
    except RS4DError as error:
        return str(error)
    finally:
        camera.release()
    return None


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: detect.py BUNDLE SOURCE")
    sys.exit(main(sys.argv[1], sys.argv[2]))
