"""What an experiment will be judged by, written down before its data are seen."""

import dataclasses
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal, get_args

from seqrec.abtest.power import detectable_difference
from seqrec.types import InputError

MEASURES = ("plays", "seconds_listened", "skips", "likes", "active_days", "sessions")
"""What is summed over a user's events; a metric is one of these, a user or per another of these."""

Stopping = Literal["fixed", "pocock", "obrien-fleming", "always-valid"]

Adjustment = Literal["none", "cuped", "cupac"]

_LOG_COLUMNS = ("arm", "timestamp_us", "seconds", "skipped", "liked", "sequence")

MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Metric:
    """A mean over users, or a ratio of two sums over users."""

    numerator: str
    """One of MEASURES."""
    denominator: str = "users"
    """One of MEASURES, or "users"."""
    more_is_better: bool = True
    """Whether a rise is good."""
    margin: float = 0.0
    """Of a guardrail: the largest relative loss that is acceptable, such as 0.02; 0 for other metrics."""

    def __post_init__(self):
        for field, value, allowed in (
            ("numerator", self.numerator, MEASURES),
            ("denominator", self.denominator, ("users", *MEASURES)),
        ):
            if value not in allowed:
                raise InputError(f"{field} {value!r} is not one of {', '.join(allowed)}; choose one of them")
        if self.numerator == self.denominator:
            raise InputError(f"{self.numerator} a {self.denominator} is always 1; choose another denominator")
        if not 0.0 <= self.margin < 1.0:
            raise InputError(f"margin={self.margin} of {self.name} is outside [0, 1); a loss of 2% is 0.02")

    @property
    def name(self) -> str:
        """Such as `plays per user`."""
        below = {"users": "user", "active_days": "active day"}.get(self.denominator, self.denominator.rstrip("s"))
        return f"{self.numerator.replace('_', ' ')} per {below}"


def metric_of(text: str) -> Metric:
    """The metric that `[-]numerator[/denominator][:margin]` describes; a minus sign says that less is better.

    >>> metric_of("-skips/plays:0.02")
    Metric(numerator='skips', denominator='plays', more_is_better=False, margin=0.02)
    """
    found = re.fullmatch(r"(-?)(\w+)(?:/(\w+))?(?::([0-9.eE-]+))?", text)
    try:
        margin = float(found[4] or 0.0) if found else 0.0
    except ValueError:
        found = None
    if not found:
        raise InputError(f"metric {text!r} is not [-]numerator[/denominator][:margin]; write such as -skips/plays:0.02")
    return Metric(found[2], found[3] or "users", more_is_better=not found[1], margin=margin)


@dataclass(frozen=True)
class Quantile:
    """A quantile over users of what they did, shown beside the metrics; it does not decide."""

    measure: str
    """One of MEASURES."""
    quantile: float
    """Inside (0, 1); 0.9 is where the busiest tenth begins."""

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise InputError(f"measure {self.measure!r} is not one of {', '.join(MEASURES)}; choose one of them")
        if not 0.0 < self.quantile < 1.0:
            raise InputError(f"quantile={self.quantile} of {self.measure} is outside (0, 1); the median is 0.5")

    @property
    def name(self) -> str:
        """Such as `90% quantile of plays per user`."""
        return f"{100 * self.quantile:g}% quantile of {self.measure.replace('_', ' ')} per user"


def quantile_of(text: str) -> Quantile:
    """The quantile that `measure@quantile` describes.

    >>> quantile_of("plays@0.9")
    Quantile(measure='plays', quantile=0.9)
    """
    measure, _, quantile = text.partition("@")
    try:
        return Quantile(measure, float(quantile))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"quantile {text!r} is not measure@quantile; write such as plays@0.9") from None


@dataclass(frozen=True)
class Plan:
    """The experiment and how its result is to be read."""

    name: str
    """What is tried."""
    start: date
    """First day, from 0:00 UTC."""
    n_days: int
    """Days until the planned end."""
    primary: Metric
    """The one metric that decides."""
    guardrails: tuple[Metric, ...] = ()
    """Metrics that must not lose more than their margins."""
    arms: tuple[str, ...] = ("control", "treatment")
    """Names of the arms in the logs; the first is the control."""
    shares: tuple[float, ...] = (0.5, 0.5)
    """Of users, an arm each; they add up to 1."""
    unit: str = "user_id"
    """Column of all logs that says who was randomised; a row of the analysis is one of these."""
    segments: tuple[str, ...] = ()
    """Columns of the assignments by whose values the effect is shown; known before the experiment."""
    quantiles: tuple[Quantile, ...] = ()
    """Shown, at `alpha`; to be read at the planned end."""
    alpha: float = 0.05
    """Chance of calling an effect where there is none, over all looks and arms."""
    power: float = 0.8
    """For the effect that could have been seen."""
    stopping: str = "fixed"
    """fixed: one look at the end; pocock, obrien-fleming: `n_looks` even looks; always-valid: any time."""
    n_looks: int = 1
    """Planned looks, evenly spaced, the last at the end."""
    expected_users: int = 100_000
    """In all arms at the end: where an always-valid interval is tightest."""
    days_before: int = 14
    """Days before the start whose behaviour becomes covariates; 0 for none."""
    adjustment: str = "cuped"
    """What the covariates are: cuped, the metric itself before the start; cupac, what a regression on all measures
    before the start predicts, fitted on one half of the users and used in the other; none."""
    session_gap_minutes: float = 30.0
    """Silence that ends a session."""
    max_plays_per_day: int = 1000
    """A user with more on any day is a bot and left out of all arms, and counted."""
    max_two_arm_share: float = 0.0
    """Users in two arms are left out; more of them than this share block the verdict."""
    max_lost_share: float = 0.05
    """A larger share of events that were numbered and never arrived blocks the verdict."""
    trust_alpha: float = 0.001
    """Level of each trust check, strict because there are many."""

    def __post_init__(self):
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms) or "" in self.arms:
            raise InputError(f"arms are {list(self.arms)}; name two or more, each once")
        if len(self.shares) != len(self.arms) or not all(share > 0 for share in self.shares):
            raise InputError(f"shares {list(self.shares)} do not fit {len(self.arms)} arms; give one above 0 to each")
        if abs(sum(self.shares) - 1.0) > 1e-9:
            raise InputError(f"shares {list(self.shares)} add up to {sum(self.shares):g}, not 1; correct them")
        if self.stopping not in get_args(Stopping):
            raise InputError(f"stopping {self.stopping!r} is not one of {', '.join(get_args(Stopping))}")
        if (self.n_looks > 1) != (self.stopping in ("pocock", "obrien-fleming")) or self.n_looks < 1:
            raise InputError(
                f"n_looks={self.n_looks} does not fit stopping={self.stopping!r}; "
                "pocock and obrien-fleming take 2 or more, the others 1"
            )
        bounds = (
            ("n_days", self.n_days, max(self.n_looks, 1), 366),
            ("days_before", self.days_before, 0, 366),
            ("expected_users", self.expected_users, 1, 10**12),
            ("max_plays_per_day", self.max_plays_per_day, 1, 10**9),
            ("session_gap_minutes", self.session_gap_minutes, 0.01, 1440.0),
            ("alpha", self.alpha, 1e-6, 0.5),
            ("power", self.power, 0.5, 0.999),
            ("trust_alpha", self.trust_alpha, 1e-9, 0.5),
            ("max_two_arm_share", self.max_two_arm_share, 0.0, 1.0),
            ("max_lost_share", self.max_lost_share, 0.0, 1.0),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise InputError(f"{name}={value} is outside {low} to {high}; correct the plan")
        for metric in self.guardrails:
            if metric.margin <= 0.0:
                raise InputError(f"guardrail {metric.name} has no margin; write the acceptable loss, such as :0.02")
        if len(set(self.segments)) < len(self.segments):
            raise InputError(f"segments {list(self.segments)} name a column twice; name each once")
        if taken := [name for name in self.segments if name in _LOG_COLUMNS]:
            raise InputError(f"segment {taken[0]!r} is a column of the logs; name one that describes the unit")
        if not self.unit or self.unit in (*_LOG_COLUMNS, *self.segments):
            raise InputError(f"unit {self.unit!r} cannot be the column of ids; name one such as user_id")
        if self.adjustment not in get_args(Adjustment):
            raise InputError(f"adjustment {self.adjustment!r} is not one of {', '.join(get_args(Adjustment))}")
        if self.adjustment == "cupac" and self.days_before == 0:
            raise InputError("adjustment='cupac' needs days_before above 0; give days to predict from, or take none")

    @property
    def start_us(self) -> int:
        """Microseconds since 1970 at the start."""
        return int(datetime.combine(self.start, time(), UTC).timestamp()) * 1_000_000

    @property
    def end_us(self) -> int:
        """Microseconds since 1970 at the end of the last day."""
        return self.start_us + self.n_days * MICROSECONDS_PER_DAY

    @property
    def is_adjusted(self) -> bool:
        """Whether what was known before the start is taken out of the metrics."""
        return self.days_before > 0 and self.adjustment != "none"

    @property
    def content_hash(self) -> str:
        """Changes with anything in the plan, so that a report can say by which one it was judged."""
        return hashlib.sha256(_toml(self).encode()).hexdigest()[:12]

    def detectable(self, standard_deviation: float) -> float:
        """The smallest true difference that the expected users would show at a fixed look, two arms compared."""
        n_control, n_other = (self.expected_users * share for share in self.shares[:2])
        error = standard_deviation * (1 / n_control + 1 / n_other) ** 0.5
        return detectable_difference(error, alpha=self.alpha / (len(self.arms) - 1), power=self.power)


def write_plan(plan: Plan, file: Path) -> None:
    """Saves the plan as TOML; a file that is there already is refused, since a plan is not rewritten."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(_toml(plan))
    except FileExistsError:
        raise InputError(
            f"{file} holds a plan already; a plan is written once, before the data: name a new file"
        ) from None
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); name another file") from error


def read_plan(file: Path) -> Plan:
    """The plan that a TOML file holds."""
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); correct the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML ({error}); write it with the plan command") from error
    try:
        fields = dict(found)
        fields["primary"] = _record(Metric, found.get("primary", {}), "primary")
        for name, kind in (("guardrails", Metric), ("quantiles", Quantile)):
            fields[name] = tuple(_record(kind, each, name) for each in found.get(name, ()))
        for name in ("arms", "shares", "segments"):
            if name in found:
                fields[name] = tuple(found[name])
        return _record(Plan, fields, "plan")
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


_TYPES: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,), date: (date,)}


def _record(kind: type, fields: Any, place: str) -> Any:
    if not isinstance(fields, dict):
        raise InputError(f"{place} is {fields!r}; write a table")
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in fields.items():
        if name not in known:
            raise InputError(f"{place} has an unknown field {name!r}; the fields are {', '.join(known)}")
        kinds = _TYPES.get(known[name].type)
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and kinds != (bool,))):
            raise InputError(f"{place}.{name} is {value!r}; give a {kinds[-1].__name__}")
        if isinstance(value, datetime):
            raise InputError(f"{place}.{name} is {value}; give a day without a time")
        entry = {"arms": (str,), "segments": (str,), "shares": (int, float)}.get(name)
        if entry and not all(isinstance(each, entry) for each in value):
            raise InputError(f"{place}.{name} is {list(value)!r}; give a list of {entry[-1].__name__}")
    for name, field in known.items():
        if name not in fields and field.default is dataclasses.MISSING:
            raise InputError(f"{place} lacks {name}; add it")
    return kind(**fields)


def _toml(plan: Plan) -> str:
    tables = [("[primary]", plan.primary)]
    tables += [(f"[[{name}]]", each) for name in ("guardrails", "quantiles") for each in getattr(plan, name)]
    lines = [
        f"{field.name} = {_toml_value(getattr(plan, field.name))}"
        for field in dataclasses.fields(plan)
        if field.name not in ("primary", "guardrails", "quantiles")
    ]
    for head, table in tables:
        lines += ["", head, *(f"{key} = {_toml_value(value)}" for key, value in dataclasses.asdict(table).items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        # JSON's strings are TOML's, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return value.isoformat() if isinstance(value, date) else repr(value)
