"""``python -m mimcore``: the code of this checkout, whatever is installed."""

from mimcore.cli import main

if __name__ == "__main__":
    main()
