"""``python -m spliceway`` is the command ``spliceway``."""

from spliceway.cli import main

if __name__ == "__main__":
    main()
