"""`python -m svdlab` is the command `svdlab`."""

from svdlab.cli import main

if __name__ == "__main__":
    main()
