"""Facts about what the server is told."""

import pytest

from seqrec.serve.config import Limits, cloud_routes
from seqrec.types import InputError


@pytest.mark.parametrize("limit", ["max_k", "max_histories", "max_waiting", "max_body_bytes", "deadline_seconds"])
def test_limits_leave_something(limit):
    with pytest.raises(InputError, match=limit):
        Limits(**{limit: type(getattr(Limits(), limit))(0)})


@pytest.mark.parametrize(
    "environment", [{"AIP_HTTP_PORT": "80x"}, {"AIP_HTTP_PORT": "70000"}, {"AIP_HEALTH_ROUTE": "health"}]
)
def test_what_a_cloud_names_wrongly_is_refused_by_its_name(environment):
    with pytest.raises(InputError, match=next(iter(environment))):
        cloud_routes(environment)
