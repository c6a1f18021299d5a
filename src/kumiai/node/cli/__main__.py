"""``python -m kumiai.node.cli`` is the same as ``kumiai``."""

from kumiai.node.cli import main

if __name__ == "__main__":
    main()
