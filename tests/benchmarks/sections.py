"""What a row costs in Fan-Out's section, beside stock Loop, and whether long runs keep time and memory flat.

Run it: ``uv run python tests/benchmarks/sections.py``; ``--quick`` leaves the 20,000 rows out. Figures and ratios are
printed; nothing is asserted. Flows run in this process, as they come from a canvas: the graph is made from its JSON.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import psutil

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.components.flow_controls.loop import LoopComponent
    from lfx.graph import Graph

HERE = Path(__file__).parent
NODES = HERE.parents[1] / "components" / "sluice"
ROWS, ROUNDS = 200, 5
SLOW_ROWS, SECONDS, AT_ONCE = 12, 0.5, 5
LONG_RUNS = (2_000, 20_000)


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"benchmarked_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


nodes = load(HERE / "section_nodes.py")
FanOutComponent = load(NODES / "fan_out.py").FanOutComponent


def flow(owner: Any, *, seconds: float = 0.0, body_nodes: int = 1) -> dict[str, Any]:
    """The JSON of a flow rows -> owner -> body -> back, owner -> count."""
    rows, count = nodes.RowsComponent(_id="rows"), nodes.CountComponent(_id="count")
    body = [nodes.StepComponent(_id=f"step{index}").set(seconds=seconds) for index in range(body_nodes)]
    owner.set(data=rows.table)
    body[0].set(item=owner.item_output)
    for before, after in zip(body, body[1:], strict=False):
        after.set(item=before.out)
    owner.set(item=body[-1].out)
    count.set(table=owner.done_output)
    return json.loads(json.dumps(Graph(rows, count).dump(name="benchmark")["data"], default=str))


def with_rows(data: dict[str, Any], count: int) -> dict[str, Any]:
    copied = json.loads(json.dumps(data))
    for node in copied["nodes"]:
        if node["id"] == "rows":
            node["data"]["node"]["template"]["count"]["value"] = count
    return copied


async def run(data: dict[str, Any], count: int) -> tuple[float, float]:
    """CPU seconds and seconds of one run."""
    graph = Graph.from_payload(with_rows(data, count))
    graph.prepare()
    await graph.initialize_run()
    gc.collect()
    cpu, started = time.process_time(), time.perf_counter()
    await graph.process(fallback_to_env_vars=False)
    took = time.process_time() - cpu, time.perf_counter() - started
    text = graph.get_vertex("count").results["text"].text
    if text != f"{count} rows":
        message = f"expected {count} rows, got {text}"
        raise RuntimeError(message)
    return took


async def beside_loop() -> None:
    print(f"CPU a row, {ROWS} trivial rows (ms; best of {ROUNDS} rounds that alternate; an empty run taken off):")
    for body_nodes in (1, 3):
        flows = {
            "stock Loop": flow(LoopComponent(_id="owner"), body_nodes=body_nodes),
            "Fan-Out(1)": flow(FanOutComponent(_id="owner", max_concurrency=1), body_nodes=body_nodes),
            "Fan-Out(8)": flow(FanOutComponent(_id="owner", max_concurrency=8), body_nodes=body_nodes),
        }
        taken: dict[str, list[float]] = {name: [] for name in flows}
        for _ in range(ROUNDS):
            for name, data in flows.items():
                empty, _ = await run(data, 1)
                full, _ = await run(data, ROWS + 1)
                taken[name].append((full - empty) / ROWS * 1e3)
        loop = min(taken["stock Loop"])
        for name, each in taken.items():
            print(f"  {body_nodes} nodes  {name:11} {min(each):6.2f}  {min(each) / loop:5.2f} x Loop")


async def long_runs(*, quick: bool) -> None:
    data = flow(FanOutComponent(_id="owner", max_concurrency=8))
    await run(data, ROWS)
    process = psutil.Process()
    for rows in LONG_RUNS[: 1 if quick else None]:
        gc.collect()
        before = process.memory_info().rss
        most = before

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, process.memory_info().rss)
                await asyncio.sleep(0.2)

        watching = asyncio.ensure_future(watch())
        cpu, took = await run(data, rows)
        watching.cancel()
        after = process.memory_info().rss
        print(
            f"{rows:6} rows: {took / rows * 1e3:.2f} ms a row, {cpu / rows * 1e3:.2f} ms CPU, resident "
            f"+{(most - before) / 2**20:.0f} MB at most, +{(after - before) / 2**20:.0f} MB at the end"
        )


async def at_once() -> None:
    data = flow(FanOutComponent(_id="owner", max_concurrency=AT_ONCE), seconds=SECONDS)
    ideal = SECONDS * -(-SLOW_ROWS // AT_ONCE)
    ratios = []
    for _ in range(3):
        _, empty = await run(data, 0)
        _, full = await run(data, SLOW_ROWS)
        ratios.append((full - empty) / ideal)
    print(
        f"{SLOW_ROWS} rows of {SECONDS} s, {AT_ONCE} at a time: "
        f"{', '.join(f'{each:.3f}' for each in ratios)} x the ideal {ideal} s on top of an empty run"
    )


async def main() -> None:
    await beside_loop()
    await at_once()
    await long_runs(quick="--quick" in sys.argv)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(main())
