"""``python -m sparse_triton {info,demo,explain,advise,selftest}``."""

from __future__ import annotations

import sys

from sparse_triton.commands import main

if __name__ == "__main__":
    sys.exit(main())
