"""The native selective scan: C++ sources, how they are built, and how the built library is found and called.

The library is optional. It is built when the package is installed, or later in place by
`python -m rs4d_edge.native.build`; without it everything runs through plain forms, only slower.
"""

from __future__ import annotations
