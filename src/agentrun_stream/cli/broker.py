"""`agentrun broker`: the embedded Kafka alone."""

from typing import Annotated

import typer

from agentrun_stream.broker.embedded import EmbeddedBroker
from agentrun_stream.broker.jars import jars_folder
from agentrun_stream.childproc import private_folder
from agentrun_stream.cli.common import DataOption, require_embedded, settings_for
from agentrun_stream.cli.output import say, write
from agentrun_stream.cli.up import stopping
from agentrun_stream.errors import EmbeddedError

app = typer.Typer()


@app.command(epilog="Example: agentrun broker --port 9092")
def broker(
    data: DataOption = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port; default: that of the last time.")] = None,
) -> None:
    """Start the embedded Kafka alone, until Ctrl-C. It has no topics before `agentrun topics apply`."""
    require_embedded()
    settings = settings_for(data)
    node = EmbeddedBroker(
        private_folder(settings.data) / "kafka",
        port=port,
        cache_dir=jars_folder(settings.cache),
        kafka_home=settings.kafka_home,
        progress=say,
    )
    with stopping() as stop:
        try:
            say("Starting the broker.")
            node.start()
            node.wait_ready()
            write(f"Kafka        {node.bootstrap}")
            stop.armed = True
            while not stop.event.wait(0.5):
                if not node.alive:
                    raise EmbeddedError("The embedded broker ended by itself.", f"Read {node.folder / 'broker.log'}.")
        finally:
            stop.armed = True
            node.stop()
