"""`python -m pipelines` is `fcr`."""

from pipelines.cli import main

main(prog_name="fcr")
