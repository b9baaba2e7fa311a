"""Made-up logs for property tests and simulation: from a source of chance to events, and from events to records.

Small vocabularies, so that events meet: the same steps, times and sources again and again. Must not live here: expectations.
"""

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import orjson

from agentrun_stream.ports import Outgoing
from property import tales
from property.oracle import TERMINAL, Json, Logged

START_MS = 1_767_268_800_000
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
RUN_IDS = ("run-a", "run b'\"\\", "läuft-\x01\u2028🙂")
SOURCES = ("/a", "/b")
STATUSES = ("pending", "running", "running", "completed", "failed", "timeout")
STEP_IDS = ("s0", "s1", "s2", "#1")
COSTS = (0, 0.1, 1e-7, 3, 12.25, 0.000000000001, 1e-13, None)
GAPS_MS = (0, 1, 500, 20_000, MINUTE_MS, MINUTE_MS, 31 * MINUTE_MS, 2 * HOUR_MS)


def text(ms: float) -> str:
    """RFC 3339, as different producers write it."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="microseconds" if int(ms) % 3 else "milliseconds").replace("+00:00", "Z")


class Storyteller:
    """Makes events one after the other; `sources` narrows who tells them. Most logs hold signed runs among the others."""

    def __init__(
        self, rng: Random, sources: tuple[str, ...] = SOURCES, *, workspaces: int = 2, signs: float = 0.6
    ) -> None:
        self.rng = rng
        self.now_ms = START_MS + rng.randrange(MINUTE_MS)
        self.sources = sources
        self.workspaces = ("default", "team-2")[:workspaces]
        self.runs = RUN_IDS[: rng.randint(1, 3)]
        self.signs = rng.random() < signs
        if self.signs:
            self.runs = (*self.runs, *tales.RUN_IDS[1:])
        self.shapes = {run_id: rng.randrange(len(tales.SHAPES)) for run_id in tales.RUN_IDS}
        self.long = rng.random() < 0.15  # days pass, and runs past retention
        self.share = rng.choice((0.3, 0.6, 0.95))  # of what is told of these runs, by those who sign

    def log(self, length: int, first_offset: int = 0) -> list[Logged]:
        """That many events; some are told twice."""
        found: list[Logged] = []
        while len(found) < length:
            self.pass_time()
            event = self.event()
            if found and self.rng.random() < 0.2:
                event = self.rng.choice(found)
            found.append(event._replace(offset=first_offset + len(found), append_ms=self.now_ms))
        return found

    def pass_time(self) -> None:
        """Append times only grow; now and then a day passes."""
        self.now_ms += 26 * HOUR_MS if self.rng.random() < (0.2 if self.long else 0.02) else self.rng.choice(GAPS_MS)

    def event(self) -> Logged:
        rng = self.rng
        if self.signs and rng.random() < self.share:
            return self._signed(rng.choice(tales.RUN_IDS))
        kind = rng.choices(
            ("run", "step", "patch", "eval", "lease", "expire"), weights=(25, 45, 10, 6, 12, 15 if self.long else 2)
        )[0]
        run_id = rng.choice(self.runs)
        data: Json = getattr(self, f"_{kind}")()
        if kind in ("run", "patch"):
            data = {"id": run_id, **data}
        workspace = self.workspaces[0] if rng.random() < 0.85 else self.workspaces[-1]
        source = "/sweeper" if kind in ("lease", "expire") else rng.choice(self.sources)
        return Logged(0, self.now_ms, workspace, kind, run_id, source, self._time(data), data)

    def _signed(self, run_id: str) -> Logged:
        """A piece of a signed run, by somebody who has a key or says so: mostly as it was made."""
        rng = self.rng
        name = rng.choices(tuple(tales.KEYS), weights=(50, 10, 12, 12, 6, 10))[0]
        tale = tales.tale(run_id, name, self.shapes[run_id])
        if tale.steps and rng.random() < 0.6:
            kind, data = "step", self._bent_step(rng.choice(tale.steps))
        else:
            kind, data = "run", self._bent_end(rng.choice((0, 0, 0, 1, 1, 2)), tale)
        workspace = self.workspaces[0] if rng.random() < 0.93 else self.workspaces[-1]
        return Logged(0, self.now_ms, workspace, kind, run_id, rng.choice(self.sources), self._time(data), data)

    def _bent_step(self, step: Json) -> Json:
        chance = self.rng.random()
        if chance < 0.04:
            return step | {"output_preview": "altered"}
        return step if chance > 0.08 else {**step, "metadata": {}}

    def _bent_end(self, at: int, tale: "tales.Tale") -> Json:
        """As it was signed; or with a covered member altered, nulls for nothing, another suite, another revision, unsigned."""
        end, chance = tale.ends[at], self.rng.random()
        provenance, arsig = end["provenance"], end["metadata"]["arsig"]
        bent: tuple[Json, ...] = (
            {"model": "m2"},
            {"provenance": provenance | {"signature": "arsig2." + "A" * 86}},
            {"metadata": {"arsig": arsig | {"rev": 0}}},
            {"metadata": {"arsig": arsig | {"rev": 9}}},
            {"provenance": provenance | {"signature": None}},
            {"task_id": None, "workspace_id": None},
            {"status": "running"},
        )
        return end | (self.rng.choice(bent) if chance < 0.2 else {})

    def _time(self, data: Json) -> str | None:
        """Mostly the object's own time, as the testing builders do; else a near one, or none."""
        chance = self.rng.random()
        own = None if "pass" in data else data.get("ended_at") or data.get("started_at")
        if own is not None and chance < 0.5:
            return str(own)
        return None if chance > 0.9 else text(self._moment())

    def _moment(self) -> float:
        """A time shortly before now, on a coarse grid, so that equal and earlier ones come up."""
        return (
            self.now_ms // 10_000 * 10_000 - self.rng.choice((0, 0, 10_000, 30_000, 600_000)) + self.rng.choice((0, 1))
        )

    def _maybe(self, data: Json, **choices: Any) -> Json:
        """Leave each member out, give it as null, or give it."""
        for name, value in choices.items():
            chance = self.rng.random()
            if chance < 0.45:
                data[name] = value() if callable(value) else value
            elif chance < 0.55:
                data[name] = None
        return data

    def _run(self) -> Json:
        data = {
            "agent_id": self.rng.choice(("agent-1", "agent-2")),
            "status": self.rng.choice(STATUSES),
            "started_at": text(self._moment() - 1000),
            "steps": [self._embedded() for _ in range(self.rng.choice((0, 0, 1, 3)))],
            "cost": self._cost(),
            "provenance": self._maybe({}, model_version="v1", lineage=["x"], config_hash="c"),
        }
        if data["status"] in TERMINAL and self.rng.random() < 0.6:
            data["ended_at"] = text(self._moment())
        return self._members(data)

    def _members(self, data: Json) -> Json:
        rng = self.rng
        return self._maybe(
            data,
            model=lambda: rng.choice(("m1", "m2")),
            provider="p",
            outcome=lambda: rng.choice(("success", "failed")),
            duration_ms=lambda: rng.choice((0, 1500, 90_000.0)),
            tags=lambda: [rng.choice(("x", "y"))],
            metadata=lambda: {rng.choice(("k1", "k2")): rng.choice((None, 1, "v"))},
            unknown=lambda: rng.choice((1, {"deep": [1.5]}, "ü")),
            eval=self._eval,
            **({"parent_run_id": lambda: rng.choice(self.runs)} if self.signs and rng.random() < 0.3 else {}),
        )

    def _patch(self) -> Json:
        rng = self.rng
        data = self._maybe({}, cost=self._cost, provenance=lambda: self._maybe({}, config_hash="d", signed_by="k"))
        if rng.random() < 0.2:
            data["status"] = rng.choice(STATUSES)
        if rng.random() < 0.1:
            data["ended_at"] = text(self._moment())
        if rng.random() < 0.1:
            data["steps"] = [self._embedded()]
        return self._members(data)

    def _cost(self) -> Json:
        rng = self.rng
        return self._maybe(
            {},
            input_tokens=lambda: rng.choice((0, 7, 12, 40.0)),
            output_tokens=lambda: rng.choice((3, 5)),
            total_tokens=lambda: rng.choice((10, 11)),
            cost_usd=lambda: rng.choice(COSTS),
            model="priced-as",
        )

    def _step(self) -> Json:
        return {"id": self.rng.choice(STEP_IDS), **self._bare_step()}

    def _embedded(self) -> Json:
        return self._step() if self.rng.random() < 0.6 else self._bare_step()

    def _bare_step(self) -> Json:
        rng = self.rng
        data = {"type": rng.choice(("tool_call", "message", "reasoning"))}
        return self._maybe(
            data,
            success=lambda: rng.random() < 0.5,
            tokens_used=lambda: rng.choice((0, 2, 9.0)),
            started_at=lambda: text(self._moment() - 500),
            ended_at=lambda: text(self._moment()),
            output_preview=lambda: rng.choice(("ok", "a\nb\t\u0000")),
            metadata=self._step_metadata,
            extra_member=lambda: rng.choice((1, [None])),
        )

    def _step_metadata(self) -> Json:
        """Open members: what is no count is no fact."""
        usage = self._maybe(
            {},
            input_tokens=lambda: self.rng.choice((1, 4, -1, "5", 2.0, True)),
            output_tokens=lambda: self.rng.choice((0, 6)),
            model=lambda: self.rng.choice(("m3", 5)),
            provider="p2",
        )
        return {"usage": self.rng.choice((usage, usage, usage, [], None, "text"))}

    def _eval(self) -> Json:
        rng = self.rng
        data = {"pass": rng.random() < 0.5, "score": rng.choice((0, 50.5, 100))}
        return self._maybe(
            data,
            eval_layer=lambda: rng.choice(("unit", "end")),
            metadata=lambda: {"scorer": rng.choice((None, "exact", 3))},
            ended_at="no time, only an unknown member",
        )

    def _lease(self) -> Json:
        """Early, right, and below the contract's minimum."""
        return {
            "idle_timeout": self.rng.choice((59.9, 60, 60, 1800, 1800)),
            "max_age": self.rng.choice((3599, 3600, 86_400, 86_400)),
        }

    def _expire(self) -> Json:
        return {"horizon": self.rng.choice((3600, 86_400, 86_400))}


def record(event: Logged, rng: Random) -> Outgoing:
    """The event as a record: structured, written in one of the ways in which producers write."""
    envelope: Json = {"specversion": "1.0", "id": "e", "source": event.source, "type": f"agentrun.{event.kind}.v1"}
    envelope["subject"] = event.run_id
    if event.time is not None:
        envelope["time"] = event.time
    if event.workspace != "default":
        envelope["workspaceid"] = event.workspace
    envelope["data"] = event.data
    key = event.run_id.encode()
    style = rng.random()
    if style < 0.6:
        return Outgoing(key, orjson.dumps(envelope))
    if style < 0.8:
        return Outgoing(key, json.dumps(envelope).encode())
    names = {"specversion": "1.0", "id": "e", "source": event.source, "type": envelope["type"], "subject": event.run_id}
    names |= {k: envelope[k] for k in ("time", "workspaceid") if k in envelope}
    headers = [(f"ce_{k}", v.encode()) for k, v in names.items()]
    return Outgoing(key, orjson.dumps(event.data), tuple(headers))
