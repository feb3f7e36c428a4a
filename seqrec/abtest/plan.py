"""The plan of an experiment: how it will be judged, written down before its data are seen."""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.constructors import PrimitiveConstructorSpec

from seqrec.abtest.power import detectable_difference
from seqrec.config import check_between, check_fields, check_share, from_json, to_json
from seqrec.files import make_directory, write_text
from seqrec.types import InputError

Measure = Literal["plays", "seconds_listened", "skips", "likes", "active_days", "sessions"]
MEASURES: tuple[str, ...] = get_args(Measure)
"""What is summed over a user's events; a metric is one of these per user, or per another of these."""

Stopping = Literal["fixed", "pocock", "obrien-fleming", "always-valid"]

Adjustment = Literal["none", "cuped", "cupac"]

_LOG_COLUMNS = ("arm", "timestamp_us", "seconds", "skipped", "liked", "sequence")

MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Metric:
    """A mean over users, or a ratio of two sums over users."""

    numerator: Measure
    """What is summed."""
    denominator: Literal["users", Measure] = "users"
    """What it is divided by: the number of users, or the sum of another measure."""
    more_is_better: bool = True
    """Whether a rise is good."""
    margin: float = 0.0
    """For a guardrail: the largest acceptable relative loss, such as 0.02; 0 for other metrics."""

    def __post_init__(self):
        check_fields(self)
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
    match = re.fullmatch(r"(-?)(\w+)(?:/(\w+))?(?::([0-9.eE-]+))?", text)
    try:
        margin = float(match[4] or 0.0) if match else 0.0
    except ValueError:
        match = None
    if not match:
        raise InputError(f"metric {text!r} is not [-]numerator[/denominator][:margin]; write such as -skips/plays:0.02")
    fields = {"numerator": match[2], "denominator": match[3] or "users", "more_is_better": not match[1]}
    return from_json(Metric, {**fields, "margin": margin}, name="metric")


@dataclass(frozen=True)
class Quantile:
    """A quantile over users of a measure, reported with the metrics; it does not decide."""

    measure: Measure
    """What is summed over a user's events."""
    quantile: float
    """Between 0 and 1, both excluded; 0.9 is the value that the busiest tenth of users exceeds."""

    def __post_init__(self):
        check_fields(self)
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
        fields = {"measure": measure, "quantile": float(quantile)}
    except ValueError:
        raise InputError(f"quantile {text!r} is not measure@quantile; write such as plays@0.9") from None
    return from_json(Quantile, fields, name="quantile")


def _in_words(parse: Callable[[list[str]], Any], form: str, nargs: Literal[1, "*"] = "*") -> PrimitiveConstructorSpec:
    """How the words of a flag give a metric, or several, or quantiles; no field has any by default."""
    return PrimitiveConstructorSpec(
        nargs=nargs, metavar=form, instance_from_str=parse, is_instance=lambda _: True, str_from_instance=lambda _: []
    )


_PRIMARY = _in_words(lambda words: metric_of(words[0]), "[-]NUMERATOR[/DENOMINATOR]", nargs=1)
_GUARDRAILS = _in_words(lambda words: tuple(map(metric_of, words)), "[-]NUMERATOR[/DENOMINATOR]:MARGIN ...")
_QUANTILES = _in_words(lambda words: tuple(map(quantile_of, words)), "MEASURE@QUANTILE ...")


@dataclass(frozen=True)
class ExperimentPlan:
    """The experiment and how its result is to be read."""

    name: str
    """Name of the experiment."""
    start: date
    """First day, from 0:00 UTC."""
    n_days: int
    """Planned duration in days."""
    primary: Annotated[Metric, _PRIMARY]
    """The metric that decides, such as plays or -skips/plays: a sum over each user's events, per user or per another
    such sum; a minus sign means that less is better. Sums are of plays, seconds_listened, skips, likes, active_days and
    sessions."""
    guardrails: Annotated[tuple[Metric, ...], _GUARDRAILS] = ()
    """Metrics that must not get worse, each with the largest acceptable relative loss, such as -skips/plays:0.02."""
    arms: tuple[str, ...] = ("control", "treatment")
    """Names of the arms in the logs, the control first."""
    shares: tuple[float, ...] = (0.5, 0.5)
    """Planned share of users in each arm; they add up to 1."""
    unit: str = "user_id"
    """Column of all logs with the id of the randomised unit, such as user_id or account_id."""
    segments: tuple[str, ...] = ()
    """Columns of the assignments, known before the experiment; the effect is reported for each of their values."""
    quantiles: Annotated[tuple[Quantile, ...], _QUANTILES] = ()
    """Quantiles over users to report, such as plays@0.9; read them at the planned end."""
    alpha: float = 0.05
    """Significance level: probability of reporting an effect where there is none, over all looks and arms."""
    power: float = 0.8
    """Probability of detecting the effect that the sample size is computed for."""
    stopping: Stopping = "fixed"
    """When the result may be read. fixed: once, at the end; pocock, obrien-fleming: at --n-looks evenly spaced
    looks; always-valid: at any time."""
    n_looks: int = 1
    """Number of looks with pocock and obrien-fleming, the last at the end."""
    expected_users: int = 100_000
    """Expected number of users in all arms at the end; an always-valid interval is tightest there."""
    days_before: int = 14
    """Days before the start whose events give the covariates; 0 for none."""
    adjustment: Adjustment = "cuped"
    """Covariates that reduce the variance. cuped: the metric before the start; cupac: a prediction of it from all
    measures before the start, by a regression that is fitted on one half of the users and applied to the other; none:
    no covariates."""
    session_gap_minutes: float = 30.0
    """Minutes without an event after which a user's next event begins another session."""
    max_plays_per_day: int = 1000
    """Users with more plays on any day count as bots: they are left out of all arms, and reported."""
    max_two_arm_share: float = 0.0
    """Largest acceptable share of users who are logged in two arms; more of them block the verdict. They are left out
    in any case."""
    max_lost_share: float = 0.05
    """Largest acceptable share of lost events (gaps in the numbers of the column sequence); more block the verdict."""
    max_repeated_share: float = 0.001
    """Largest acceptable share of events that are logged more than once; more block the verdict."""
    trust_alpha: float = 0.001
    """Significance level of each data quality check; low because there are many. A check that fails blocks the
    verdict."""

    def __post_init__(self):
        check_fields(self)
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms) or "" in self.arms:
            raise InputError(f"arms are {list(self.arms)}; name two or more, each once")
        if len(self.shares) != len(self.arms) or not all(share > 0 for share in self.shares):
            raise InputError(f"shares {list(self.shares)} do not fit {len(self.arms)} arms; give one above 0 to each")
        if abs(sum(self.shares) - 1.0) > 1e-9:
            raise InputError(f"shares {list(self.shares)} add up to {sum(self.shares):g}, not 1; correct them")
        if (self.n_looks > 1) != (self.stopping in ("pocock", "obrien-fleming")) or self.n_looks < 1:
            raise InputError(
                f"n_looks={self.n_looks} does not fit stopping={self.stopping!r}; "
                "pocock and obrien-fleming take 2 or more, the others 1"
            )
        check_between(self, max(self.n_looks, 1), 366, "n_days")
        check_between(self, 0, 366, "days_before")
        check_between(self, 1, 10**12, "expected_users")
        check_between(self, 1, 10**9, "max_plays_per_day")
        check_between(self, 0.01, 1440, "session_gap_minutes")
        check_between(self, 1e-6, 0.5, "alpha")
        check_between(self, 0.5, 0.999, "power")
        check_between(self, 1e-9, 0.5, "trust_alpha")
        check_share(self, "max_two_arm_share", "max_lost_share", "max_repeated_share")
        for metric in self.guardrails:
            if metric.margin <= 0.0:
                raise InputError(f"guardrail {metric.name} has no margin; write the acceptable loss, such as :0.02")
        if len(set(self.segments)) < len(self.segments):
            raise InputError(f"segments {list(self.segments)} name a column twice; name each once")
        if log_columns := [name for name in self.segments if name in _LOG_COLUMNS]:
            raise InputError(f"segment {log_columns[0]!r} is a column of the logs; name one that describes the unit")
        if not self.unit or self.unit in (*_LOG_COLUMNS, *self.segments):
            raise InputError(f"unit {self.unit!r} cannot be the column of ids; name one such as user_id")
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
        """Whether metrics are adjusted for covariates from before the start."""
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


def write_plan(plan: ExperimentPlan, file: Path) -> None:
    """Saves the plan as TOML; a file that is there already is refused, since a plan is not rewritten."""
    if file.exists():
        raise InputError(f"{file} holds a plan already; a plan is written once, before the data: name a new file")
    make_directory(file.parent)
    write_text(file, _toml(plan))


def read_plan(file: Path) -> ExperimentPlan:
    """The plan that a TOML file holds."""
    try:
        return from_json(ExperimentPlan, tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); correct the path") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not TOML ({error}); write it with the plan command") from error


def _toml(plan: ExperimentPlan) -> str:
    fields = to_json(plan)
    tables = [("[primary]", fields.pop("primary"))]
    tables += [(f"[[{name}]]", each) for name in ("guardrails", "quantiles") for each in fields.pop(name)]
    lines = []
    for head, table in [("", fields), *tables]:
        lines += [*(["", head] if head else []), *(f"{name} = {_toml_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        # JSON's strings are TOML's, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return value.isoformat() if isinstance(value, date) else repr(value)
