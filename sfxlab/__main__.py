"""`python -m sfxlab`: the command line, where no script is on PATH."""

from sfxlab.cli import main

main()
