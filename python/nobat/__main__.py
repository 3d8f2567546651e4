"""``python -m nobat``."""

from ._command import main

main()
