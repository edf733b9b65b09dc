"""`python -m longrecipe` is the command `longrecipe`: torchrun and accelerate start it this way."""

from longrecipe.cli import main

if __name__ == "__main__":
    main()
