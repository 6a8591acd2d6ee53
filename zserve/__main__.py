"""``python -m zserve`` is the same as ``zserve``."""

from zserve.nodes.cli import main

if __name__ == "__main__":
    main()
