"""`python -m didact` is `didact`."""

from didact.cli import main

if __name__ == "__main__":  # not in the processes of a large build
    main()
