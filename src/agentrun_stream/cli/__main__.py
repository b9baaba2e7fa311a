"""`python -m agentrun_stream.cli` is `agentrun`."""

from agentrun_stream.cli import main

main()
