"""What `rs4d-export` starts: an export on a workstation, or `rs4d-export build` on a device without torch."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that is asked for, and import that alone: a device has nothing that an export needs."""
    if sys.argv[1:2] == ["build"]:
        from rs4d_edge.export import build_command

        sys.argv[:2] = [f"{sys.argv[0]} build"]
        build_command.main()
    else:
        from rs4d_edge.export import command

        command.main()


if __name__ == "__main__":
    main()
