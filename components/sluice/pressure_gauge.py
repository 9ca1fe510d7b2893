from lfx.custom.custom_component.component import Component
from lfx.io import Output
from lfx.schema.dataframe import DataFrame
from lfx.schema.message import Message

from langflow_sluice.gauge.postgres_rows import postgres_rows
from langflow_sluice.gauge.rows import snapshot_rows
from langflow_sluice.nodes.pressure import begin_run, gauge_inputs, message_of, reading_of, table_of


class PressureGaugeComponent(Component):
    display_name = "Pressure Gauge"
    description = "Shows guards, pools and connections of all workers, who holds up the database, and what to change."
    icon = "gauge"

    inputs = gauge_inputs()
    # Not cached: each run looks anew.
    outputs = [
        Output(display_name="Snapshot", name="snapshot", method="take_snapshot", cache=False, group_outputs=True),
        Output(display_name="Postgres", name="postgres", method="ask_postgres", cache=False, group_outputs=True),
        Output(display_name="Report", name="report", method="write_report", cache=False, group_outputs=True),
    ]

    def _pre_run_setup(self) -> None:
        begin_run(self)

    async def take_snapshot(self) -> DataFrame:
        return table_of(snapshot_rows((await reading_of(self)).processes))

    async def ask_postgres(self) -> DataFrame:
        return table_of(postgres_rows(await reading_of(self)))

    async def write_report(self) -> Message:
        return await message_of(self, await reading_of(self))
