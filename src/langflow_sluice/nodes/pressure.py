"""The inputs of the node that shows what is under pressure, and its readings as Langflow's own types."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, cast

from lfx.io import FloatInput, HandleInput, SecretStrInput
from lfx.utils.secrets import secret_value_to_str

from langflow_sluice.errors import checked_amount
from langflow_sluice.metrics.publisher import publisher
from langflow_sluice.nodes.guard_inputs import number
from langflow_sluice.nodes.node_status import show_status

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.inputs.inputs import InputTypes
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message

    from langflow_sluice.gauge.reading import Reading

DATABASE_VARIABLE = "SLUICE_DATABASE_URL"
_READINGS = "_sluice_readings"


def gauge_inputs() -> list[InputTypes]:
    """The database to look at, when to look, and when a query is a long one."""
    inputs = [
        SecretStrInput(
            name="database_url",
            display_name="Database URL",
            value=DATABASE_VARIABLE,
            info="postgresql://user:password@host:port/database, or the global variable that holds it. Blank: guards, "
            "pools and clients only.",
        ),
        HandleInput(
            name="after",
            display_name="After",
            input_types=["Message", "Data", "JSON", "DataFrame", "Table"],
            info="The gauge is read when what is connected here has run; what that gives does not matter. In a flow "
            "with a Chat Input, the Playground runs only what that input leads to.",
        ),
        FloatInput(
            name="long_running",
            display_name="Long-Running",
            value=10,
            advanced=True,
            info="Seconds from which on a query counts as long-running.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


def begin_run(component: Component) -> None:
    """Lets all outputs of the run that begins show one reading: a gauge that shows the last run's has stopped."""
    component.__dict__[_READINGS] = {}


async def reading_of(component: Component) -> Reading:
    """Looks at all workers and at the database that the node's inputs name; once for each run.

    Raises:
        InvalidInput: The address is none, or Langflow refuses it; never shows the password.
    """
    from langflow_sluice.gauge.reading import read

    run: dict[str, Reading] = component.__dict__.get(_READINGS, {})
    if "reading" not in run:
        publisher.start()
        long_running_s = checked_amount(
            "long_running",
            number(component.long_running),
            "it is a number of seconds",
            fix="Set long_running to 0 or above.",
        )
        text = (secret_value_to_str(component.database_url) or "").strip()
        url = None
        # A graph that runs without Langflow's variables has the variable's name for a value.
        if text and text != DATABASE_VARIABLE:
            from langflow_sluice.postgres.url import parse_database_url

            url = await asyncio.to_thread(parse_database_url, text)  # it may look a name up
        run["reading"] = await read(url, long_running_s=long_running_s)
        _tell(component, run["reading"])
    return run["reading"]


def table_of(rows: list[dict[str, Any]]) -> DataFrame:
    """Rows as a table whose blank cells are blank, and whose whole numbers stay whole beside them."""
    from lfx.schema.dataframe import DataFrame

    return DataFrame(rows, dtype=object)


async def message_of(component: Component, reading: Reading) -> Message:
    """The written report; where somebody follows the run, with a picture.

    The picture is a content block beside the text: an agent that remembers the chat does not get it, and a plain call
    of the API, which nobody follows, neither gets it nor pays for it.
    """
    from lfx.schema.content_block import ContentBlock
    from lfx.schema.content_types import ImageContent
    from lfx.schema.message import Message

    from langflow_sluice.gauge.report import written

    blocks: list[Any] = []
    if component.get_event_manager() is not None:
        picture = base64.b64encode(await asyncio.to_thread(_drawn, reading)).decode()
        # In a group: of blocks that are in none, the Playground is told nothing but the text.
        blocks = [ContentBlock(title="Pressure", contents=[ImageContent(base64=picture, mime_type="image/png")])]
    return Message(text=written(reading), content_blocks=blocks)


def _drawn(reading: Reading) -> bytes:
    from langflow_sluice.gauge.bars import bars_of
    from langflow_sluice.gauge.picture import draw

    database = reading.database
    if database is None or database.problem:
        return draw(bars_of(reading), {}, 0)
    return draw(bars_of(reading), database.by_state(), database.available)


def _tell(component: Component, reading: Reading) -> None:
    from langflow_sluice.gauge.diagnosis import diagnose
    from langflow_sluice.gauge.report import headline

    line = headline(diagnose(reading)).replace("`", "")
    show_status(component, line)
    component.log(line, name="Gauge")
