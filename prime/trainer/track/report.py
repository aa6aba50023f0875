"""The report of a run: what came of it, in figures and in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prime.trainer.facts import RankLost
from prime.trainer.track.course import Course
from prime.trainer.track.lines import SCHEMA

LOST_SHOWN: Final = 5


def report(course: Course) -> dict[str, Any]:
    """Return the figures of a run as an object for JSON; times are of all its sessions."""
    began, ended, generation = course.began, course.ended, course.generation
    elapsed_s = course.elapsed_s()
    return {
        "schema": SCHEMA,
        "name": began.name if began else "",
        "outcome": ended.outcome if ended else course.phase,
        "error": ended.error if ended else "",
        "hint": ended.hint if ended else "",
        "step": course.step,
        "steps": began.steps if began else 0,
        "loss": {
            "first": _round(course.loss.first),
            "last": _round(ended.loss if ended and ended.loss is not None else course.loss.last),
        },
        "held_out": _held_out(course),
        "elapsed_s": round(elapsed_s, 3),
        "time_s": {name: round(value, 3) for name, value in course.split.parts(elapsed_s).items()},
        "speed": _speed(course),
        "bytes": {"sent": course.bytes_sent, "exact": course.bytes_exact, "ratio": _round(course.ratio())},
        "restarts": course.restarts,
        "sessions": course.sessions,
        "lost": [_loss(lost) for lost in course.lost],
        "checkpoints": _checkpoints(course),
        "ranks": began.world if began else 0,
        "strategy": generation.strategy if generation else "",
        "backend": generation.backend if generation else "",
        "device": generation.device if generation else "",
        "codec": began.codec if began else "",
        "engine": generation.engine if generation else "",
        "parameters": generation.parameters if generation else 0,
        "trackers_dropped": [{"tracker": one.tracker, "error": one.error} for one in course.dropped],
        "folder": began.folder if began else "",
    }


def _round(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _held_out(course: Course) -> dict[str, Any]:
    points = list(course.held_out)
    best = min(points, key=lambda point: point[1], default=(None, None))
    baseline = course.generation.baseline if course.generation else None
    return {
        "first": _round(points[0][1] if points else None),
        "last": _round(points[-1][1] if points else None),
        "best": _round(best[1]),
        "best_step": best[0],
        "baseline": _round(baseline),
        "measures": {name: _round(value) for name, value in course.measures.items()},
    }


def _speed(course: Course) -> dict[str, Any]:
    """Return steps, samples and tokens a second over the time of steps alone."""
    split = course.split
    apart_s = split.start_s + split.recovery_s + split.checkpoint_s + split.evaluation_s
    training_s = course.elapsed_s() - apart_s
    if training_s <= 0 or not course.steps_made:
        return {"steps_per_s": None, "samples_per_s": None, "tokens_per_s": None}
    samples_per_s = course.samples / training_s
    tokens = course.generation.tokens_per_sample if course.generation else 0
    return {
        "steps_per_s": _round(course.steps_made / training_s),
        "samples_per_s": _round(samples_per_s),
        "tokens_per_s": _round(samples_per_s * tokens) if tokens else None,
    }


def _loss(lost: RankLost) -> dict[str, Any]:
    return {
        "rank": lost.rank,
        "step": lost.step,
        "cause": lost.cause,
        "noticed_s": _round(lost.noticed_s),
        "text": lost.text,
    }


def _checkpoints(course: Course) -> dict[str, Any]:
    newest = course.newest_checkpoint
    count = course.checkpoints_saved
    return {
        "saved": count,
        "newest_step": newest.step if newest else None,
        "newest_path": newest.path if newest else None,
        "size_bytes": newest.size_bytes if newest else None,
        "blocked_s_mean": _round(course.split.checkpoint_s / count) if count else None,
    }


# ----------------------------------------------------------------------------------------------------------- in words


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a report as (what, its figures) for a person."""
    yield "result", _outcome(found)
    loss, held = found["loss"], found["held_out"]
    if loss["last"] is not None:
        yield "loss", f"{_nats(loss['first'])} -> {_nats(loss['last'])}"
    if held["last"] is not None:
        yield "held out", _held_out_text(held)
    yield "ranks", _ranks_text(found)
    yield "speed", _speed_text(found["speed"])
    yield "time", _time_text(found)
    if found["bytes"]["exact"]:
        yield "bytes", _bytes_text(found)
    yield from (("lost", text) for text in _lost_texts(found["lost"]))
    yield "checkpoints", _checkpoints_text(found["checkpoints"])
    yield from (("tracker", f"{one['tracker']} was dropped: {one['error']}") for one in found["trackers_dropped"])


def _outcome(found: Mapping[str, Any]) -> str:
    words = {"done": "done", "stopped": "stopped as asked", "failed": "failed"}
    text = f"{words.get(found['outcome'], found['outcome'])} at step {found['step']:,} of {found['steps']:,}"
    return f"{text}: {found['error'].splitlines()[0]}" if found["error"] else text


def _nats(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


def _held_out_text(held: Mapping[str, Any]) -> str:
    text = f"{_nats(held['best'])} at step {held['best_step']:,}"
    if held["first"] != held["last"]:
        text = f"{_nats(held['first'])} -> {_nats(held['last'])}, best {text}"
    text += "".join(f", {name} {_nats(value)}" for name, value in held["measures"].items())
    return text if held["baseline"] is None else f"{text}; without a model {_nats(held['baseline'])}"


def _ranks_text(found: Mapping[str, Any]) -> str:
    over = f" over {found['backend']}" if found["backend"] else ""
    ranks = f"{found['ranks']} {'rank' if found['ranks'] == 1 else 'ranks'}"
    if not found["device"]:
        return f"{ranks}, which have not met"
    text = f"{ranks} on {found['device']}, {found['strategy']}{over}"
    return f"{text}, {found['parameters']:,} parameters" if found["parameters"] else text


def _speed_text(speed: Mapping[str, Any]) -> str:
    if speed["steps_per_s"] is None:
        return "no step was made"
    tokens = f", {speed['tokens_per_s']:,.0f} tokens/s" if speed["tokens_per_s"] is not None else ""
    return f"{speed['steps_per_s']:.2f} steps/s, {speed['samples_per_s']:,.1f} samples/s{tokens}"


def _time_text(found: Mapping[str, Any]) -> str:
    elapsed_s = found["elapsed_s"]
    parts = [
        f"{name} {100 * value / elapsed_s:.0f} %" for name, value in found["time_s"].items() if value > elapsed_s / 200
    ]
    return f"{duration(elapsed_s)}: {', '.join(parts)}" if elapsed_s else duration(elapsed_s)


def _bytes_text(found: Mapping[str, Any]) -> str:
    sent, exact = found["bytes"]["sent"], found["bytes"]["exact"]
    by = f" ({found['engine']})" if found["engine"] else ""
    how = "as they are" if found["codec"] == "none" else f"as {found['codec']}{by}"
    text = f"{size(sent)} of gradients sent {how}; in float32 {size(exact)}"
    return f"{text}, {exact / sent:.2f} times as much" if sent and sent != exact else text


def _lost_texts(lost: list[dict[str, Any]]) -> Iterator[str]:
    for one in lost[-LOST_SHOWN:]:
        last = (one["text"].strip().splitlines() or [""])[-1]
        yield f"rank {one['rank']} {one['cause']} after step {one['step']:,}" + (f": {last}" if last else "")
    if len(lost) > LOST_SHOWN:
        yield f"and {len(lost) - LOST_SHOWN} earlier; the report has all"


def _checkpoints_text(saved: Mapping[str, Any]) -> str:
    if not saved["saved"]:
        return "none was saved"
    of = f", {size(saved['size_bytes'])}" if saved["size_bytes"] else ""
    return f"{saved['saved']} saved; the newest whole one is of step {saved['newest_step']:,}{of}"


def duration(seconds: float) -> str:
    """Return a duration as a person writes it: `8.1 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(size_bytes: float) -> str:
    """Return a count of bytes in the unit that suits it."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= one:
            return f"{size_bytes / one:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def in_times(ratio: float) -> str:
    """Return how many times something is as much: whole numbers from ten on, two figures below."""
    return f"{ratio:,.0f}" if ratio >= 9.5 else f"{ratio:.2g}"
