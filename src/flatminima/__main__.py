"""`python -m flatminima` does what the command `flatminima` does."""

from flatminima.cli import main

if __name__ == "__main__":
    main()
